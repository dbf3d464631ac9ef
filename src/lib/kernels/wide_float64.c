/* SPDX-License-Identifier: MIT */
/* Float64 arithmetic on tensors of float64, see wide_table.h. */
#define AXN_ELEMENT 2
#define AXN_WIDE axn_wide_float64
#include "wide_table.h"
