/* SPDX-License-Identifier: MIT */
/* The kernels for float32, see table.h. */
#define AXN_ELEMENT 1
#define AXN_TYPE float32
#include "table.h"
