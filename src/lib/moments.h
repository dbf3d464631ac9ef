/* SPDX-License-Identifier: MIT */
/* Moments (count, mean, M2): merging those of blocks, in a fixed order, into those of a whole. */
#ifndef AXN_LIB_MOMENTS_H
#define AXN_LIB_MOMENTS_H

#include "kernels/kernels.h"

/* Merges the moments of a block of `block_count` values into those of `total_count` values.
 * Chan, Golub & LeVeque 1979; the counts are the same for all columns, so no column divides. */
void axn_merge_moments(axn_moments total, double total_count, axn_moments block, double block_count,
                       int64_t columns);

#endif
