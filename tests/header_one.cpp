/* SPDX-License-Identifier: MIT */
/* The same in C++. */
#include "header_one.c"
