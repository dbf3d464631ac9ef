/* SPDX-License-Identifier: MIT */
/* The kernels for bfloat16, see table.h. */
#define AXN_ELEMENT 3
#define AXN_TYPE bfloat16
#include "table.h"
