/* SPDX-License-Identifier: MIT */
/* Moments (count, mean, M2): merging those of blocks, in a fixed order, into those of a whole. */
#ifndef AXN_LIB_MOMENTS_H
#define AXN_LIB_MOMENTS_H

#include <float.h>
#include <math.h>

#include "kernels/kernels.h"

/* Merges the moments of a block of `block_count` values into those of `total_count` values.
 * Chan, Golub & LeVeque 1979; the counts are the same for all columns, so no column divides. */
void axn_merge_moments(axn_moments total, double total_count, axn_moments block, double block_count,
                       int64_t columns);

static inline double axn_rstd(double variance, double epsilon) {
  return 1 / sqrt(variance + epsilon);
}

/* `value` as float, within float's finite range: an rstd beyond it belongs to values that float32
 * cannot tell apart. */
static inline float axn_narrow_rstd(double value) {
  return value > (double)FLT_MAX ? FLT_MAX : (float)value;
}

/* True where float32 could overflow or vanish on the way from values of such statistics to results
 * that it can hold, and float64 has to take its place: x - mean, its product with rstd. Where a
 * statistic is not finite there is nothing to save. */
static inline bool axn_needs_wide(double mean, double rstd) {
  return rstd < 0x1p-60 || rstd > 0x1p60 || (fabs(mean) > 0x1p100 && isfinite(mean));
}

#endif
