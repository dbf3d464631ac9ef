/* SPDX-License-Identifier: MIT */
/*
 * The kernels: arithmetic on one block of rows x columns, with no knowledge of normalizations,
 * schedules or threads. kernels/float32.c is compiled once per instruction set; every variant does
 * the same operations in the same order, so all give the same bits.
 *
 * Element (r, j) of a block lies at r * row_stride + j * column_stride. In the row family one
 * statistic covers the block, and columns are contiguous; in the column family each column j has
 * its own, and either columns or rows are contiguous (a stride of 1), rows then at most
 * AXN_TILE_ROWS.
 */
#ifndef AXN_LIB_KERNELS_H
#define AXN_LIB_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tile.h"

/* Parameters from index `at` on; there may be none. */
static inline const float *axn_parameters_at(const float *parameters, int64_t at) {
  return parameters != NULL ? parameters + at : NULL;
}

/* Moments of a number of values: their mean, and M2, the sum of squares about it. Arrays, one entry
 * per statistic; the number goes with them. */
typedef struct axn_moments {
  double *mean;
  double *m2;
} axn_moments;

typedef struct axn_moments_block {
  const float *x;
  int64_t rows, columns, row_stride, column_stride;
} axn_moments_block;

/* y = (x - mean) * multiplier + offset, then, in the weighted form, y * scale + shift. */
typedef struct axn_apply_block {
  const float *x;
  float *y;
  int64_t rows, columns, row_stride, column_stride;
  const float *mean;       /* [0] or per column */
  const float *multiplier; /* rows: per row; columns: per column; weighted: [0] */
  const float *offset;     /* likewise */
  const float *scale;      /* weighted only, per column; null: 1 */
  const float *shift;      /* weighted only, per column; null: 0 */
  bool streams;            /* y will not stay in cache, so it is not to go there */
} axn_apply_block;

/* Sums for the backward pass, where e = (x - mean) * rstd and g = grad_y * scale. */
typedef struct axn_gradient_sums {
  double *centred;  /* of e: what the mean saved in float was off by, in deviations */
  double *gradient; /* of g */
  double *product;  /* of g * e */
} axn_gradient_sums;

typedef struct axn_gradient_block {
  const float *x;
  const float *grad_y;
  float *grad_x; /* for gradient only */
  int64_t rows, columns, row_stride, column_stride;
  const float *mean;  /* [0] or per column */
  const float *rstd;  /* [0] or per column */
  const float *scale; /* weighted only, per column; null: 1 */
  /* grad_x = grad_y * from_gradient * scale + e * from_value + constant */
  const float *from_gradient; /* rows: per row; columns: per column; weighted: [0] */
  const float *from_value;    /* [0] or per column */
  const float *constant;      /* [0] or per column */
  bool streams;               /* grad_x will not stay in cache, so it is not to go there */
} axn_gradient_block;

/* Gradients of scale and shift, one parameter per column; each row has a statistic of its own. */
typedef struct axn_parameter_block {
  const float *x;
  const float *grad_y;
  int64_t rows, columns, row_stride;
  const float *mean;   /* per row */
  const float *rstd;   /* per row */
  const float *centre; /* per row: mean of e, see axn_gradient_sums */
  double *grad_scale;  /* per column, added to */
  double *grad_shift;  /* per column, added to */
} axn_parameter_block;

/* What varies along the columns of a block. */
typedef enum axn_form {
  AXN_FORM_ROWS,     /* nothing: one statistic, one parameter per row */
  AXN_FORM_COLUMNS,  /* statistics, and parameters folded into them */
  AXN_FORM_WEIGHTED, /* parameters; one statistic */
  AXN_FORM_COUNT
} axn_form;

typedef void axn_moments_kernel(const axn_moments_block *block, axn_moments moments);
typedef void axn_apply_kernel(const axn_apply_block *block);
typedef void axn_gradient_sums_kernel(const axn_gradient_block *block, axn_gradient_sums sums);
typedef void axn_gradient_kernel(const axn_gradient_block *block);
typedef void axn_parameter_kernel(const axn_parameter_block *block);

typedef struct axn_kernels {
  axn_moments_kernel *moments_of_row, *moments_of_columns;
  axn_apply_kernel *apply[AXN_FORM_COUNT];
  axn_gradient_sums_kernel *gradient_sums[AXN_FORM_COUNT];
  axn_gradient_kernel *gradient[AXN_FORM_COUNT];
  axn_parameter_kernel *parameters;
  void (*finish_streams)(void); /* due at the end of a task whose blocks stream */
} axn_kernels;

extern const axn_kernels axn_kernels_baseline, axn_kernels_avx2, axn_kernels_avx512;

#endif
