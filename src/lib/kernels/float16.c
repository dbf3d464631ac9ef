/* SPDX-License-Identifier: MIT */
/* The kernels for float16, see table.h. */
#define AXN_ELEMENT 4
#define AXN_TYPE float16
#include "table.h"
