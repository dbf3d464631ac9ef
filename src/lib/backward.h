/* SPDX-License-Identifier: MIT */
/*
 * The rooms of the backward pass, and the run that goes through them.
 *
 * With e = (x - mean) * rstd and g = grad_y * scale, a statistic needs the sums of e, g and g * e over
 * its values, and then
 *
 *     grad_x = rstd * (g - mean(g) - (e - mean(e)) * mean(g * (e - mean(e))))
 *
 * mean(e) is what the mean, saved as float, was off by; the first pass recovers it. The gradients of
 * scale and shift are sums of grad_y * (e - mean(e)) and of grad_y over all that share a parameter:
 *
 * - where a parameter stays the same along the columns or has one of its own per column, they fall
 *   out of the first pass, as *segments*: a unit's sums for one parameter;
 * - where it changes along the columns of one statistic (layer normalization per element), a pass of
 *   its own sums down the columns, before grad_x may overwrite grad_y.
 */
#ifndef AXN_LIB_BACKWARD_H
#define AXN_LIB_BACKWARD_H

#include <stddef.h>

#include "kernels/wide.h"
#include "plan.h"

typedef struct axn_backward_run {
  const axn_plan *plan;
  const axn_geometry *geometry;
  axn_runner runner;
  bool frozen; /* statistics are constants */
  const float *x, *grad_y, *scale;
  const float *mean, *rstd;                  /* of x; or */
  const float *given_mean, *given_variance;  /* frozen */
  float *grad_x, *grad_scale, *grad_shift;   /* each may be null */
  axn_gradient_sums means;                   /* per statistic: of e, of g, of g * (e - mean(e)) */
  double *segment_scale, *segment_shift;     /* per unit, segment and column */
  double *parameter_scale, *parameter_shift; /* per parameter, summed over segments */
  double *blocks;                            /* sums of blocks, where units are split */
  double *bands;                             /* sums of bands, where there are such */
  bool streams;                              /* grad_x goes past the caches */
} axn_backward_run;

/* The statistics of a unit, as the kernels want them. */
typedef struct axn_unit_statistics {
  double exact_rstd[AXN_BLOCK_COLUMNS];
  float mean[AXN_BLOCK_COLUMNS], rstd[AXN_BLOCK_COLUMNS];
  bool wide; /* some column needs float64 */
} axn_unit_statistics;

void axn_read_statistics(const axn_backward_run *run, const axn_place *unit,
                         axn_unit_statistics *statistics);

/* A block of `nest` for the kernels, but for what is particular to sums or gradients. */
axn_gradient_block axn_gradient_block_at(const axn_backward_run *run, const axn_nest *nest,
                                         const axn_place *unit, const axn_place *at,
                                         const axn_unit_statistics *statistics);

/* The same for the float64 kernels, without parameters; one column of it in the column family. */
axn_wide_block axn_widen(const axn_backward_run *run, const axn_nest *nest,
                         const axn_unit_statistics *statistics, const axn_gradient_block *block,
                         int64_t column);

/* First pass. Fills the means of a unit, and its segments. */
void axn_sum_gradients(const axn_backward_run *run, const axn_place *unit, int64_t unit_index);

/* The same for all units, cut inside where that keeps more threads busy. */
void axn_sum_all_gradients(axn_backward_run *run);

/* Gradients of scale and shift, from the segments; */
void axn_parameters_from_segments(const axn_backward_run *run);

/* or down the columns, where parameters change along the columns of one statistic. */
void axn_parameters_down_columns(axn_backward_run *run);

/* Rows that have a statistic each and share their parameters, one per column. */
typedef struct axn_parameter_rows {
  int64_t tensor, cell; /* of the first */
  int64_t rows, columns, row_stride, cell_stride;
} axn_parameter_rows;

/* Adds what the rows give to the gradients of their parameters; with `all_wide`, in float64. */
void axn_add_parameter_rows(const axn_backward_run *run, const axn_parameter_rows *rows,
                            bool all_wide, double *scale, double *shift);

/* Writes what the caller asked for of `count` parameters from `first` on. */
void axn_write_parameters(const axn_backward_run *run, int64_t first, int64_t count,
                          const double *scale, const double *shift);

/* Second pass: the gradient of x in the blocks from `begin` to `end`, counted through all units. */
void axn_gradient_of_blocks(const axn_backward_run *run, int64_t begin, int64_t end);

/* All of it at once, in bands of units; where the plan has such. */
int64_t axn_band_doubles(const axn_plan *plan);
void axn_backward_in_bands(axn_backward_run *run);

static inline axn_gradient_sums axn_means_of(const axn_backward_run *run, const axn_place *unit) {
  return (axn_gradient_sums){run->means.centred + unit->cell, run->means.gradient + unit->cell,
                             run->means.product + unit->cell};
}

/* Start of a segment's values, one per column of the unit. */
static inline int64_t axn_segment_at(const axn_backward_run *run, int64_t unit_index,
                                     int64_t segment) {
  const axn_partition *partition = &run->geometry->partition;
  return (unit_index * partition->segments + segment) * partition->unit_columns;
}

static inline double axn_scale_at(const axn_backward_run *run, int64_t parameter) {
  return run->scale != NULL ? (double)run->scale[parameter] : 1;
}

#endif
