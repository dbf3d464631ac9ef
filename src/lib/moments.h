/* SPDX-License-Identifier: MIT */
/* Moments: merging the sums of blocks, in a fixed order, into mean and variance. */
#ifndef AXN_LIB_MOMENTS_H
#define AXN_LIB_MOMENTS_H

#include "kernels/kernels.h"

/* Merges the sums of a block of `count` values into a total, which starts as a copy of the first
 * block's sums.
 *
 * Both are sums about a shift, and the total keeps the shift of its first block. Since that block
 * is part of the data, the square of its distance from the common mean is at most about the number
 * of blocks times the variance, so float64 loses log10(blocks) of its 16 digits and no division is
 * needed (docs/mathematics.md). */
void axn_merge_sums(axn_moment_sums total, axn_moment_sums block, double count, int64_t columns);

/* Mean and biased variance of `count` values from their sums. */
void axn_finish_moments(axn_moment_sums total, double count, int64_t columns, double *mean,
                        double *variance);

/* 1 / sqrt(variance + epsilon). */
double axn_rstd(double variance, double epsilon);

/* `value` as float, within float's finite range: an rstd beyond it belongs to values that float32
 * cannot tell apart. */
float axn_narrow_rstd(double value);

/* True where float32 arithmetic could overflow or vanish for values with this rstd, and float64 has
 * to take its place. */
bool axn_needs_wide(double rstd);

#endif
