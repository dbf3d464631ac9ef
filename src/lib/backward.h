/* SPDX-License-Identifier: MIT */
/*
 * The rooms of the backward pass, and the run that goes through them.
 *
 * With e = (x - mean) * rstd and g = grad_y * scale, a statistic needs the sums of e, g and g * e over
 * its values, and then
 *
 *     grad_x = rstd * (g - mean(g) - (e - mean(e)) * mean(g * (e - mean(e))))
 *
 * mean(e) is what the mean, saved as float, was off by; the first pass recovers it. With a second moment
 * in place of mean and variance, mean(g) and mean(e) play no part.
 *
 * The gradients of scale and shift are sums of grad_y * (e - mean(e)) and of grad_y over all that share a
 * parameter:
 *
 * - where a line has one parameter, they fall out of the first pass, line by line; a line that meets
 *   several, one after the other, has a *segment* for each;
 * - where every element of a line has its own (layer normalization per element), they are sums down
 *   the columns: of many rows, in bands; of a few, with the gradient of x; else before grad_x may overwrite
 *   grad_y.
 */
#ifndef AXN_LIB_BACKWARD_H
#define AXN_LIB_BACKWARD_H

#include <stddef.h>

#include "kernels/range.h"
#include "kernels/wide.h"
#include "plan.h"
#include "real.h"
#include "span.h"

enum { AXN_MOST_BANDS = 64 };

typedef struct axn_backward_run {
  const axn_plan *plan;
  const axn_geometry *geometry;
  axn_runner runner;
  bool frozen;        /* statistics are constants */
  bool second_moment; /* x is divided by it, its mean stays */
  const void *x, *grad_y;
  axn_side x_side, gradient_side; /* how x and grad_y lie; grad_x lies on x's side */
  const void *scale, *shift;      /* reals; the shift for an activation only */
  axn_ending ending;              /* with the caller's grad_y as gradient; and */
  void *activated;                /* what it gives, grad_y of all else; null: no activation */
  bool past_corner;               /* in passing: kernels take grad_y through the activation */
  const void *mean, *rstd;        /* reals, of x, no mean with a second moment; or */
  const void *given_mean, *given_variance;   /* reals, frozen */
  void *grad_x, *grad_scale, *grad_shift;    /* each may be null */
  double *converted_scale, *converted_shift; /* room for them, where they are of another type */
  axn_gradient_sums means;                   /* per statistic: of e, of g, of g * (e - mean(e)) */
  double *segment_scale, *segment_shift;     /* per unit, segment and line */
  double *parameter_scale, *parameter_shift; /* per parameter, summed over segments */
  double *blocks;                            /* sums of blocks, where units are split */
  double *bands;                             /* sums of bands, where there are such */
  uint8_t bands_at[AXN_MOST_BANDS];          /* how many of these each place has the sums of */
  bool streams;                              /* grad_x goes past the caches */
} axn_backward_run;

/* The statistics of a unit, per cell. */
typedef struct axn_unit_statistics {
  double exact_mean[AXN_LINE_ROOM], exact_rstd[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float mean[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float rstd[AXN_LINE_ROOM];
  bool wide; /* some cell needs float64 */
} axn_unit_statistics;

void axn_read_statistics(const axn_backward_run *run, const axn_place *unit,
                         axn_unit_statistics *statistics);

/* Whether float32 has no room for what belongs to a cell. */
static inline bool axn_is_wide(const axn_backward_run *run, const axn_unit_statistics *statistics,
                               int64_t cell) {
  return run->plan->doubles ||
         axn_needs_wide(statistics->exact_mean[cell], statistics->exact_rstd[cell]);
}

/* What the kernels need of some lines, per line or column. */
typedef struct axn_line_values {
  const float *mean, *rstd; /* the unit's, where a line is all of a cell, or spread here: */
  AXN_LINES_OF_CACHE float spread_mean[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float spread_rstd[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float from_gradient[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float from_value[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float constant[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float multiplier[AXN_LINE_ROOM]; /* where grad_y goes past a corner; */
  AXN_LINES_OF_CACHE float bound[AXN_LINE_ROOM];
  bool corner_held; /* whether float32 has room for these */
  bool wide;        /* some line needs float64 */
} axn_line_values;

/* Whether lines are not just cells, so that they need arrays of statistics apart. */
static inline bool axn_spreads(const axn_nest *nest) {
  return nest->lines_per_cell > 1 || nest->fold > 1 || nest->join > 1;
}

/* Points to the statistics of lines from `first` on. */
static inline void axn_set_statistics(const axn_nest *nest, const axn_unit_statistics *statistics,
                                      int64_t first, axn_line_values *values) {
  const bool spreads = axn_spreads(nest);
  values->mean = spreads ? values->spread_mean : statistics->mean + first;
  values->rstd = spreads ? values->spread_rstd : statistics->rstd + first;
}

/* A block that is about to be worked on: some lines of a unit. */
typedef struct axn_backward_step {
  const axn_place *unit;
  const axn_unit_statistics *statistics;
  const axn_line_values *values;
  int64_t first, lines;
  int64_t block; /* which, of those for the same lines; */
  axn_block at;  /* where it lies */
} axn_backward_step;

static inline axn_gradient_sums axn_means_of(const axn_backward_run *run, const axn_place *unit) {
  return (axn_gradient_sums){run->means.centred + unit->cell, run->means.gradient + unit->cell,
                             run->means.product + unit->cell};
}

/* Offset, in parameters, of a line of the step. */
static inline int64_t axn_step_parameter(const axn_backward_run *run, const axn_backward_step *step,
                                         int64_t line) {
  return step->unit->parameter + step->at.parameter +
         axn_line_parameter(&run->geometry->lines, step->first + line);
}

/* Elements from the start of x (and grad_x), or of grad_y, to line `line` of the step. */
static inline int64_t axn_step_x(const axn_backward_run *run, const axn_backward_step *step,
                                 int64_t line) {
  return axn_block_offset(&run->geometry->lines, step->unit, &step->at, step->first + line,
                          run->x_side);
}

static inline int64_t axn_step_grad_y(const axn_backward_run *run, const axn_backward_step *step,
                                      int64_t line) {
  return axn_block_offset(&run->geometry->lines, step->unit, &step->at, step->first + line,
                          run->gradient_side);
}

/* A block for the kernels, but for what is particular to sums or gradients. */
axn_gradient_block axn_gradient_block_of(const axn_backward_run *run,
                                         const axn_backward_step *step);

/* One line of it for the float64 kernels. */
axn_wide_block axn_widen(const axn_backward_run *run, const axn_backward_step *step,
                         const axn_gradient_block *block, int64_t line);

/* Takes grad_y of a unit through the activation, if there is one that is not taken where it is read; */
void axn_backward_ending(const axn_backward_run *run, const axn_place *unit);

/* or of all units. */
void axn_backward_all_endings(axn_backward_run *run);

/* Whether gradients are taken through an activation in passing, where they are read, instead. */
bool axn_goes_past_corner(const axn_backward_run *run);

/* What that takes of some lines of a unit. */
void axn_find_corner(const axn_backward_run *run, const axn_place *unit,
                     const axn_unit_statistics *statistics, int64_t first, int64_t lines,
                     axn_line_values *values);

/* The run for a block that needs float64, whose grad_y is taken through the activation first, here. */
axn_backward_run axn_after_ending(const axn_backward_run *run, const axn_backward_step *step);

/* First pass. Fills the means of a unit, and its segments; `unit_index` is not used where there are
 * none, in the weighted form. */
void axn_sum_gradients(const axn_backward_run *run, const axn_place *unit,
                       const axn_unit_statistics *statistics, int64_t unit_index);

/* Sums of `cells` statistics become means, and mean(e) is taken out of every product. */
void axn_means_from_sums(const axn_backward_run *run, axn_gradient_sums sums, int64_t cells);

/* The same for all units, cut inside where that keeps more threads busy. */
void axn_sum_all_gradients(axn_backward_run *run);

/* Gradients of scale and shift, from the segments; */
void axn_parameters_from_segments(const axn_backward_run *run);

/* or down the columns, where parameters change along the columns of one statistic. */
void axn_parameters_down_columns(axn_backward_run *run);

/* or along the rows, where they change from row to row of columns. */
void axn_parameters_along_rows(axn_backward_run *run);

/* Rows that have a statistic each and share their parameters, one per column. */
typedef struct axn_parameter_rows {
  int64_t tensor[AXN_SIDES], cell; /* of the first */
  int64_t rows, columns, row_stride[AXN_SIDES], cell_stride;
} axn_parameter_rows;

/* Adds what the rows give to the gradients of their parameters. */
void axn_add_parameter_rows(const axn_backward_run *run, const axn_parameter_rows *rows,
                            double *scale, double *shift);

/* Sums and writes the gradients of one unit of parameters. */
void axn_parameters_of_unit(const axn_backward_run *run, const axn_place *unit);

/* Writes what the caller asked for of `count` parameters from `first` on. */
void axn_write_parameters(const axn_backward_run *run, int64_t first, int64_t count,
                          const double *scale, const double *shift);

/* Second pass: the gradient of x in a unit. */
void axn_gradient_of_unit(const axn_backward_run *run, const axn_place *unit,
                          const axn_unit_statistics *statistics);

/* Rows that are a statistic each, no more of them than are added in float, whose elements have a parameter
 * each: what kernels need of them. */
enum { AXN_FEW_ROWS = 16, AXN_ROW_ROOM = AXN_FEW_ROWS + AXN_PAD };

typedef struct axn_row_values {
  float centre[AXN_ROW_ROOM], from_gradient[AXN_ROW_ROOM], from_value[AXN_ROW_ROOM],
      constant[AXN_ROW_ROOM];
  const float *mean, *rstd; /* statistics, as they were read */
} axn_row_values;

/* Means of rows from `first` on to factors. False where float32 has no room for some. */
bool axn_find_row_factors(const axn_backward_run *run, axn_gradient_sums means, int64_t first,
                          int64_t rows, axn_row_values *values);

/* After the sums: all gradients of a few samples, in one visit. False where that is not the way: nothing has
 * been done then. */
bool axn_backward_of_few(const axn_backward_run *run);

/* All of it at once, in bands of units; where the plan has such. */
int64_t axn_band_doubles(const axn_plan *plan);
void axn_backward_in_bands(axn_backward_run *run);

/* Lines of a full unit. */
static inline int64_t axn_unit_lines(const axn_geometry *geometry) {
  return axn_lines_of(&geometry->lines, geometry->partition.unit_cells);
}

/* Start of a segment's values, one per line of the unit. */
static inline int64_t axn_segment_at(const axn_backward_run *run, int64_t unit_index,
                                     int64_t segment) {
  const axn_geometry *geometry = run->geometry;
  return (unit_index * geometry->lines.segments + segment) * axn_unit_lines(geometry);
}

#endif
