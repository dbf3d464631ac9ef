/* SPDX-License-Identifier: MIT */
/* Float64 arithmetic on tensors of float32, see wide_table.h. */
#define AXN_ELEMENT 1
#define AXN_WIDE axn_wide_float32
#include "wide_table.h"
