/* SPDX-License-Identifier: MIT */
/*
 * The kernels: arithmetic on one block, with no knowledge of normalizations, schedules or threads.
 * kernels/float32.c is compiled once per instruction set; every variant does the same operations in
 * the same order, so all give the same bits.
 *
 * A block is a number of *lines*, each repeated along `rows`. In the row family a line is a run of
 * `length` floats, the next line begins `line_stride` floats later. In the column family a line is a
 * column, or `fold` neighbouring ones; `length` is not used. Arrays named below have one entry per
 * line, in the column family one per column (fold is then 1), unless it says otherwise.
 *
 * A block of x is a span. The tensors beside it have the same lines, rows and length, at strides of their
 * own; neighbours along a line, or along the columns, are neighbours in memory in all of them.
 */
#ifndef AXN_LIB_KERNELS_H
#define AXN_LIB_KERNELS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "axisnorm/axisnorm.h"
#include "sizes.h"

/* Parameters from index `at` on; there may be none. */
static inline const float *axn_parameters_at(const float *parameters, int64_t at) {
  return parameters != NULL ? parameters + at : NULL;
}

/* From line to line and from row to row; the first is not used in the column family. */
typedef struct axn_strides {
  int64_t line, row;
} axn_strides;

/* Where the elements of a block lie. */
typedef struct axn_span {
  int64_t lines, line_stride;
  int64_t rows, row_stride;
  int64_t length;
  /* Column family: */
  int64_t fold;
  int64_t lanes; /* sums add row r of a column to lane r modulo these, a power of two */
  bool joined;   /* so many rows are one run of memory; arrays per column have as many copies */
} axn_span;

/* Moments of a number of values: their mean, and M2, the sum of squares about it. Arrays, one entry
 * per statistic; the number goes with them. */
typedef struct axn_moments {
  double *mean;
  double *m2;
} axn_moments;

/* From statistics to what apply needs; one entry per statistic. All but the last two have room for
 * AXN_LINE_ROOM; entries after the first `count` of the input are 0 and 1. */
typedef struct axn_statistics_block {
  const double *mean, *variance;
  int64_t count;
  double epsilon;
  float *mean_high; /* the mean as float */
  double *mean_low; /* the rest of it */
  double *rstd;
  float *mean_out, *rstd_out; /* both for the caller, or null */
} axn_statistics_block;

/* Lines of a unit, from `first` on; where their statistics and parameters lie. */
typedef struct axn_line_map {
  int64_t first, lines;
  int64_t lines_per_cell;
  int64_t cell_parameter, line_parameter; /* strides, from cell to cell and within a cell */
  int64_t fold;                           /* entries to write per line; */
  int64_t repeat;                         /* how often to write those of all lines */
} axn_line_map;

/* From statistics and parameters to what meets the elements. Results have an entry per line, or
 * `fold` of them. */
typedef struct axn_factors_block {
  axn_line_map map;
  const float *mean_high; /* per cell, like the next two */
  const double *mean_low, *rstd;
  const float *scale, *shift; /* null: 1 and 0 */
  float *mean_out, *multiplier, *offset;
} axn_factors_block;

/* Statistics known to backward. All arrays have room for AXN_LINE_ROOM, and entries after the first `count` are
 * set to 0 and 1. */
typedef struct axn_known_statistics {
  double *mean, *rstd;
  int64_t count;
  float *mean_out, *rstd_out;
} axn_known_statistics;

/* The factors of backward. */
typedef struct axn_gradient_factors_block {
  axn_line_map map;
  const float *mean, *rstd;                   /* per cell, like the next three */
  const double *centred, *gradient, *product; /* means; null: constant statistics */
  const float *scale;                         /* null: 1 */
  float *mean_out, *rstd_out;                 /* null, like the next three: not due */
  float *from_gradient, *from_value, *constant;
} axn_gradient_factors_block;

/* What a pass does beyond normalizing: y = activation(z + residual), z being what follows below; or, where
 * there is a gradient, y = gradient * activation'(z + residual), the way back. */
typedef struct axn_ending {
  axn_activation activation;
  double slope;         /* of leaky ReLU */
  bool clamps;          /* ReLU forward and nothing else: what is below 0 becomes 0 */
  const void *residual; /* elements, parallel to x; null: 0 */
  const void *gradient; /* likewise; null: the way is forward */
  axn_strides strides;  /* of both */
} axn_ending;

static inline bool axn_ends(const axn_ending *ending) {
  return ending->activation != AXN_ACTIVATION_NONE || ending->residual != NULL;
}

/* The ending of what lies `at` elements further. */
static inline axn_ending axn_ending_at(const axn_ending *ending, int64_t at, size_t size) {
  axn_ending there = *ending;
  if (there.residual != NULL) there.residual = (const char *)there.residual + at * (int64_t)size;
  if (there.gradient != NULL) there.gradient = (const char *)there.gradient + at * (int64_t)size;
  return there;
}

/* y = (x - mean) * multiplier + offset, then, in the weighted form, y * scale + shift. */
typedef struct axn_apply_block {
  const void *x; /* elements of the tensor's type, as all that follow that are void */
  void *y;
  axn_span span; /* of x */
  axn_strides y_strides;
  const float *mean, *multiplier, *offset;
  const float *scale; /* weighted only, per element of a line, or, of columns, per row; null: 1 */
  const float *shift; /* likewise; null: 0 */
  int64_t parameter_stride; /* from row to row, of columns */
  axn_ending ending;
  bool streams; /* y will not stay in cache, so it is not to go there */
} axn_apply_block;

/* Lines that are a whole statistic each, from x to y. */
typedef struct axn_normalize_block {
  const void *x;
  void *y;
  axn_span span; /* of x; any number of lines */
  axn_strides y_strides;
  double share; /* 1 / values of a line */
  double epsilon;
  bool second_moment;         /* in place of the variance; the mean then counts as 0 */
  bool weighted;              /* scale and shift are per element of a line; else per line, */
  int64_t parameter_stride;   /* so far apart */
  const float *scale, *shift; /* null: 1 and 0 */
  float *mean_out, *rstd_out; /* per line; null: not due */
  axn_moments kept;           /* mean and variance per line; null: not due */
  axn_ending ending;
  bool streams;
} axn_normalize_block;

/* Sums for the backward pass, where e = (x - mean) * rstd and g = grad_y * scale. */
typedef struct axn_gradient_sums {
  double *centred;  /* of e: what the mean saved in float was off by, in deviations */
  double *gradient; /* of g */
  double *product;  /* of g * e */
} axn_gradient_sums;

typedef struct axn_gradient_block {
  const void *x;
  const void *grad_y;
  void *grad_x;  /* for gradient, and to be fetched; not where grad_y_ahead is 0 */
  axn_span span; /* of x and grad_x */
  axn_strides grad_y_strides;
  const float *mean, *rstd;
  /* Weighted only, per element of a line, which has one row, or, of columns, per row; null: 1. */
  const float *scale;
  int64_t parameter_stride; /* from row to row, of columns */
  /* Not null: grad_y is that of what ReLU or leaky ReLU made, and goes through it where it is read; z is above 0
   * where (x - mean) * multiplier is above a bound, minus what is added there. Not where there is a scale, nor in
   * the weighted form, nor where grad_x is grad_y. */
  const axn_ending *corner;
  const float *multiplier, *bound;
  /* grad_x = grad_y * scale * from_gradient + (e * from_value + constant) */
  const float *from_gradient, *from_value, *constant;
  /* Weighted only, where there is a scale: sums that the gradients of the parameters are made of, added to;
   * null: not due. */
  float *products;      /* of grad_y * (e - centre) */
  float *gradients;     /* of grad_y */
  const float *centre;  /* mean of e; for these sums only, like the next two */
  bool starts;          /* nothing has been added to them: what is there is not read */
  bool *overflowed;     /* set where one of them is not finite; null: of no interest */
  int64_t ahead;        /* weighted, with a scale: bytes of x that come next, to be fetched; */
  int64_t grad_y_ahead; /* of grad_y, by the first pass */
  bool streams;         /* grad_x will not stay in cache, so it is not to go there */
} axn_gradient_block;

/* Gradients of scale and shift, one parameter per column; each row has a statistic of its own. */
typedef struct axn_parameter_block {
  const void *x;
  const void *grad_y;
  int64_t rows, columns, row_stride, grad_y_row_stride;
  const float *mean;   /* per row */
  const float *rstd;   /* per row */
  const float *centre; /* per row: mean of e, see axn_gradient_sums */
  /* Per column, with room for whole vectors: what the rows, no more than 16, give; null: it is to be summed. */
  const float *products, *gradients;
  double *grad_scale; /* per column, added to */
  double *grad_shift; /* per column, added to */
} axn_parameter_block;

/* Gradients of one scale and one shift along a run whose elements have a statistic each. */
typedef struct axn_parameter_run {
  const void *x;
  const void *grad_y;
  int64_t length;
  const float *mean, *rstd, *centre; /* per element */
  int64_t ahead, grad_y_ahead;       /* elements to the run that comes next, to be fetched */
} axn_parameter_run;

typedef void axn_moments_kernel(const void *x, const axn_span *span, axn_moments moments);
typedef void axn_apply_kernel(const axn_apply_block *block);
typedef void axn_gradient_sums_kernel(const axn_gradient_block *block, axn_gradient_sums sums);
typedef void axn_gradient_kernel(const axn_gradient_block *block);

/* One entry per form, in the order of axn_form: rows, columns, weighted. */
enum { AXN_KERNEL_FORMS = 3 };

typedef struct axn_kernels {
  axn_moments_kernel *moments[AXN_KERNEL_FORMS];         /* fold counts: one result per line */
  bool (*statistics)(const axn_statistics_block *block); /* true: some need float64 */
  bool (*known)(const axn_known_statistics *block);      /* likewise */
  bool (*factors)(const axn_factors_block *block);       /* false: float32 does not hold a factor */
  bool (*gradient_factors)(const axn_gradient_factors_block *block); /* likewise */
  /* Returns how many lines, from the first on, are done; the next ones need float64. */
  int64_t (*normalize)(const axn_normalize_block *block);
  axn_apply_kernel *apply[AXN_KERNEL_FORMS];
  axn_gradient_sums_kernel *gradient_sums[AXN_KERNEL_FORMS]; /* fold counts likewise */
  void (*add_sums)(axn_gradient_sums total, axn_gradient_sums sums, int64_t lines);
  bool (*finite_sums)(axn_gradient_sums sums, int64_t lines); /* all of them, and their sum */
  axn_gradient_kernel *gradient[AXN_KERNEL_FORMS];
  void (*parameters)(const axn_parameter_block *block);
  void (*parameters_of_run)(const axn_parameter_run *run, double *scale, double *shift); /* added */
  void (*finish_streams)(void); /* due at the end of a task whose blocks stream */
} axn_kernels;

/* Whether the processor has an instruction that rounds to bfloat16 (AVX512_BF16), which kernels for AVX-512 then use;
 * cpu.c sets it before any of them runs. Results are the same bits either way. */
extern atomic_bool axn_converts_bfloat16;

#define AXN_KERNELS_OF(variant)                                                                    \
  extern const axn_kernels axn_kernels_##variant##_float32, axn_kernels_##variant##_bfloat16,      \
      axn_kernels_##variant##_float16
AXN_KERNELS_OF(baseline);
AXN_KERNELS_OF(avx2);
AXN_KERNELS_OF(avx512);

/* Of float64 tensors, per form; see kernels/float64.c. */
extern axn_moments_kernel *const axn_float64_moments[AXN_KERNEL_FORMS];

#endif
