/* SPDX-License-Identifier: MIT */
/*
 * The same arithmetic in float64, element by element, for what float32 has no room for: values whose
 * differences overflow, an rstd or factors that do; and for tensors of float64. Plain C, one statistic at a
 * time; wide_table.h is compiled once per type of element.
 *
 * Parameters are *reals*: double where the elements are, else float.
 */
#ifndef AXN_LIB_WIDE_H
#define AXN_LIB_WIDE_H

#include "kernels.h"

/* A block with one statistic. */
typedef struct axn_wide_block {
  const void *x;
  const void *grad_y;
  void *out;                         /* y or grad_x */
  int64_t rows, columns, row_stride; /* of x */
  int64_t grad_y_row_stride, out_row_stride;
  const void *scale, *shift;               /* reals; null: 1 and 0 */
  int64_t parameter_row, parameter_column; /* strides, 0 where it stays the same */
  double mean, rstd;
  axn_ending ending; /* for apply only */
} axn_wide_block;

typedef struct axn_wide_kernels {
  double (*load)(const void *elements, int64_t at);
  /* Elements from `at` on, rounded to the nearest. */
  void (*store)(void *elements, int64_t at, const double *values, int64_t count);
  void (*apply)(const axn_wide_block *block);
  void (*gradient_sums)(const axn_wide_block *block, double *centred, double *gradient,
                        double *product);
  /* `centre` is the mean of e; the others are the means of g and of g * (e - centre). */
  void (*gradient)(const axn_wide_block *block, double centre, double gradient, double product);
  /* Adds to grad_scale and grad_shift, which advance by one per column. */
  void (*parameters)(const axn_wide_block *block, double centre, double *grad_scale,
                     double *grad_shift);
} axn_wide_kernels;

extern const axn_wide_kernels axn_wide_float32, axn_wide_float64, axn_wide_bfloat16,
    axn_wide_float16;

#endif
