/* SPDX-License-Identifier: MIT */
/* Float64 arithmetic on tensors of float16, see wide_table.h. */
#define AXN_ELEMENT 4
#define AXN_WIDE axn_wide_float16
#include "wide_table.h"
