/* SPDX-License-Identifier: MIT */
/*
 * The same arithmetic in float64, element by element, for what float32 has no room for: values whose
 * differences overflow, an rstd or factors that do. Rare, so plain C; one statistic at a time.
 */
#ifndef AXN_LIB_WIDE_H
#define AXN_LIB_WIDE_H

#include <stdint.h>

/* A block with one statistic. */
typedef struct axn_wide_block {
  const float *x;
  const float *grad_y;
  float *out; /* y or grad_x */
  int64_t rows, columns, row_stride;
  const float *scale, *shift; /* null: 1 and 0 */
  int64_t parameter_column;   /* stride, 0 where it stays the same */
  double mean, rstd;
} axn_wide_block;

void axn_wide_apply(const axn_wide_block *block);
void axn_wide_gradient_sums(const axn_wide_block *block, double *centred, double *gradient,
                            double *product);
/* `centre` is the mean of e; the others are the means of g and of g * (e - centre). */
void axn_wide_gradient(const axn_wide_block *block, double centre, double gradient, double product);
/* Adds to grad_scale and grad_shift, which advance by one per column. */
void axn_wide_parameters(const axn_wide_block *block, double centre, double *grad_scale,
                         double *grad_shift);

#endif
