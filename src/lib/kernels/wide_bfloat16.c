/* SPDX-License-Identifier: MIT */
/* Float64 arithmetic on tensors of bfloat16, see wide_table.h. */
#define AXN_ELEMENT 3
#define AXN_WIDE axn_wide_bfloat16
#include "wide_table.h"
