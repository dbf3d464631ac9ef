/* SPDX-License-Identifier: MIT */
/*
 * Backward where every statistic is one run of memory with a parameter per element, and there are many
 * of them: layer normalization of a matrix. The units are cut into bands, fixed by the shape; a band
 * takes a few units at a time through sums, gradient of x and its own gradients of scale and shift,
 * while they are in cache. In the end the bands are added up.
 */
#include "backward.h"

#include <string.h>

enum {
  BAND_ROWS = AXN_FEW_ROWS, /* units worked on together */
  FEW_ROWS_VALUES = 4096,   /* that are worked on at once, with grad_y and grad_x beside them */
  VALUES_AHEAD = 4096       /* from what is worked on to what is fetched, at least */
};

int64_t axn_bands_of(const axn_plan *plan) {
  const axn_geometry *own = &plan->own;
  const bool runs = own->lines.form == AXN_FORM_WEIGHTED && own->partition.kept.count == 0 &&
                    own->lines.blocks == 1 && own->lines.lines_per_cell == 1 &&
                    own->partition.values == plan->parameters;
  const int64_t bands = own->partition.cells / BAND_ROWS;
  if (!runs || bands < 2) return 0;
  return bands < AXN_MOST_BANDS ? bands : AXN_MOST_BANDS;
}

/* Doubles of an array per parameter; in floats, there is room for whole vectors. */
static int64_t padded_parameters(const axn_plan *plan) {
  return axn_padded(plan->parameters + AXN_PAD);
}

/* Per band: sums of scale and shift in float64, and, of a few rows, in float. */
int64_t axn_band_doubles(const axn_plan *plan) {
  return 3 * plan->bands * padded_parameters(plan);
}

typedef struct band_sums {
  double *scale, *shift;
  float *products, *gradients;
} band_sums;

static band_sums sums_of_band(const axn_backward_run *run, int64_t band) {
  const int64_t parameters = padded_parameters(run->plan);
  double *start = run->bands + 3 * band * parameters;
  float *floats = (float *)(void *)(start + 2 * parameters);
  return (band_sums){start, start + parameters, floats, floats + parameters};
}

/* ---- rows that float32 has room for: a few at once ---- */

/* Of the rows of a step. */
typedef struct step_values {
  double centred[BAND_ROWS], gradient[BAND_ROWS], product[BAND_ROWS]; /* sums, then means */
  axn_row_values rows;
  int64_t rows_ahead; /* from what is worked on to what is fetched */
} step_values;

/* The rows from `first` on, so many of them, of those that the values are of. */
static axn_gradient_block block_of(const axn_backward_run *run, const axn_place *rows,
                                   int64_t first, const band_sums *band,
                                   const step_values *values) {
  const axn_axis *unit = &run->geometry->partition.unit;
  const size_t size = run->plan->element_size;
  const int64_t ahead = values->rows_ahead * (int64_t)size;
  return (axn_gradient_block){.x = axn_input_at(run->x, rows->tensor[run->x_side], size),
                              .grad_y =
                                  axn_input_at(run->grad_y, rows->tensor[run->gradient_side], size),
                              .grad_x = axn_output_at(run->grad_x, rows->tensor[AXN_SIDE_X], size),
                              .span = {.lines = rows->cells,
                                       .line_stride = unit->tensor[run->x_side],
                                       .rows = 1,
                                       .length = run->plan->parameters,
                                       .fold = 1},
                              .grad_y_strides = {.line = unit->tensor[run->gradient_side]},
                              .mean = values->rows.mean + first,
                              .rstd = values->rows.rstd + first,
                              .scale = run->scale,
                              .from_gradient = values->rows.from_gradient + first,
                              .from_value = values->rows.from_value + first,
                              .constant = values->rows.constant + first,
                              .products = band->products,
                              .gradients = band->gradients,
                              .centre = values->rows.centre + first,
                              .starts = first == 0,
                              .ahead = ahead * unit->tensor[run->x_side],
                              .grad_y_ahead = ahead * unit->tensor[run->gradient_side],
                              .streams = run->streams};
}

static bool run_few_rows(const axn_backward_run *run, const axn_place *rows, int64_t first,
                         const band_sums *band, step_values *values) {
  const axn_gradient_block block = block_of(run, rows, first, band, values);
  const axn_gradient_sums sums = {values->centred + first, values->gradient + first,
                                  values->product + first};
  const axn_kernels *kernels = run->plan->kernels;
  kernels->gradient_sums[AXN_FORM_WEIGHTED](&block, sums);
  axn_means_from_sums(run, sums, rows->cells);
  if (!axn_find_row_factors(run, sums, first, rows->cells, &values->rows)) return false;
  kernels->gradient[AXN_FORM_WEIGHTED](&block);
  return true;
}

/* Adds what rows gave in float to the sums in float64. */
static void add_sums_of_rows(const axn_backward_run *run, const axn_place *rows,
                             const band_sums *band, const step_values *values) {
  const axn_axis *unit = &run->geometry->partition.unit;
  const size_t size = run->plan->element_size;
  const axn_side x = run->x_side, grad_y = run->gradient_side;
  const axn_parameter_block block = {.x = axn_input_at(run->x, rows->tensor[x], size),
                                     .grad_y =
                                         axn_input_at(run->grad_y, rows->tensor[grad_y], size),
                                     .rows = rows->cells,
                                     .columns = run->plan->parameters,
                                     .row_stride = unit->tensor[x],
                                     .grad_y_row_stride = unit->tensor[grad_y],
                                     .mean = values->rows.mean,
                                     .rstd = values->rows.rstd,
                                     .centre = values->rows.centre,
                                     .products = band->products,
                                     .gradients = band->gradients,
                                     .grad_scale = band->scale,
                                     .grad_shift = band->shift};
  run->plan->kernels->parameters(&block);
}

/* No more than BAND_ROWS, a few at a time while they are in cache. False where some of them need more than
 * that: all are then due as if nothing had been done. */
static bool run_rows_at_once(const axn_backward_run *run, const axn_place *rows,
                             const axn_unit_statistics *statistics, const band_sums *band) {
  const axn_plan *plan = run->plan;
  const int64_t fit = FEW_ROWS_VALUES / plan->parameters, step = fit < 1 ? 1 : fit;
  if (statistics->wide || run->scale == NULL || run->grad_x == NULL || run->grad_x == run->grad_y) {
    return false;
  }
  step_values values;
  values.rows.mean = statistics->mean, values.rows.rstd = statistics->rstd;
  values.rows_ahead = VALUES_AHEAD / plan->parameters + 1;
  for (int64_t r = 0; r < rows->cells; r += step) {
    const int64_t left = rows->cells - r;
    const axn_place few =
        axn_place_after(rows, &run->geometry->partition.unit, r, left < step ? left : step);
    if (!run_few_rows(run, &few, r, band, &values)) return false;
  }
  add_sums_of_rows(run, rows, band, &values);
  return true;
}

/* ---- any rows ---- */

static void add_parameters_of(const axn_backward_run *run, const axn_place *rows,
                              const band_sums *band) {
  const axn_axis *unit = &run->geometry->partition.unit;
  const axn_parameter_rows few = {
      .tensor = {rows->tensor[AXN_SIDE_X], rows->tensor[AXN_SIDE_Y]},
      .cell = rows->cell,
      .rows = rows->cells,
      .columns = run->plan->parameters,
      .row_stride = {unit->tensor[AXN_SIDE_X], unit->tensor[AXN_SIDE_Y]},
      .cell_stride = unit->cell};
  axn_add_parameter_rows(run, &few, band->scale, band->shift);
}

static void run_rows_in_steps(const axn_backward_run *run, const axn_place *rows,
                              const axn_unit_statistics *statistics, const band_sums *band) {
  axn_sum_gradients(run, rows, statistics, 0);
  add_parameters_of(run, rows, band);
  if (run->grad_x != NULL) axn_gradient_of_unit(run, rows, statistics);
}

/* The sums go where those of band `place` are. */
static void run_band(const axn_backward_run *run, int64_t index, int64_t place) {
  const axn_axis *unit = &run->geometry->partition.unit;
  const int64_t bands = run->plan->bands, end = unit->extent * (index + 1) / bands;
  const band_sums band = sums_of_band(run, place);
  axn_unit_statistics statistics;
  /* Scale and shift, which follow each other. */
  memset(band.scale, 0, 2 * (size_t)padded_parameters(run->plan) * sizeof *band.scale);
  for (int64_t first = unit->extent * index / bands; first < end; first += BAND_ROWS) {
    const axn_place from_start = {.tensor = {0}};
    const axn_place rows = axn_place_after(&from_start, unit, first,
                                           end - first < BAND_ROWS ? end - first : BAND_ROWS);
    axn_backward_ending(run, &rows);
    axn_read_statistics(run, &rows, &statistics);
    if (!run_rows_at_once(run, &rows, &statistics, &band)) {
      run_rows_in_steps(run, &rows, &statistics, &band);
    }
  }
}

/* Adds a part of the sums at place `from` to those at `to`. */
static void add_sums(const axn_backward_run *run, int64_t to, int64_t from, int64_t begin,
                     int64_t end) {
  const band_sums total = sums_of_band(run, to), band = sums_of_band(run, from);
  for (int64_t p = begin; p < end; p++) total.scale[p] += band.scale[p];
  for (int64_t p = begin; p < end; p++) total.shift[p] += band.shift[p];
}

/* ---- the sums of all bands ---- */

/* Bands are added by pairs of neighbours, these by pairs again, and so on: a tree that their number alone decides.
 * Whoever has some bands in a row adds up all of it that is within them, and leaves few sums to be read by others. */
typedef struct sums_in_order {
  int depth;
  int64_t bands;                                        /* in all of them */
  int64_t place[AXN_MOST_BANDS], count[AXN_MOST_BANDS]; /* of each; bands that are in it */
} sums_in_order;

/* Adds the last one to the one before. */
static void join_last(const axn_backward_run *run, sums_in_order *sums, int64_t begin,
                      int64_t end) {
  const int last = --sums->depth;
  add_sums(run, sums->place[last - 1], sums->place[last], begin, end);
  sums->count[last - 1] += sums->count[last];
}

/* Takes the sums at `place`, of the next `count` bands, and adds up, of parameters from `begin` to `end`, what are
 * neighbours in the tree. */
static void take_sums(const axn_backward_run *run, sums_in_order *sums, int64_t place,
                      int64_t count, int64_t begin, int64_t end) {
  sums->place[sums->depth] = place;
  sums->count[sums->depth++] = count;
  sums->bands += count;
  while (sums->depth > 1) {
    const int64_t last = sums->count[sums->depth - 1];
    if (sums->count[sums->depth - 2] != last || sums->bands % (2 * last) != 0) break;
    join_last(run, sums, begin, end);
  }
}

static void bands_task(void *data, int64_t begin, int64_t end) {
  axn_backward_run *run = data;
  sums_in_order sums = {.bands = begin};
  for (int64_t b = begin; b < end; b++) {
    const int64_t place = begin + sums.depth;
    run_band(run, b, place);
    take_sums(run, &sums, place, 1, 0, run->plan->parameters);
  }
  for (int i = 0; i < sums.depth; i++) run->bands_at[begin + i] = (uint8_t)sums.count[i];
  run->plan->kernels->finish_streams();
}

/* Adds up what is left. */
static void add_bands_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  sums_in_order sums = {0};
  for (int64_t place = 0; place < run->plan->bands; place++) {
    const int64_t count = run->bands_at[place];
    if (count > 0) take_sums(run, &sums, place, count, begin, end);
  }
  while (sums.depth > 1) join_last(run, &sums, begin, end);
  const band_sums total = sums_of_band(run, 0);
  axn_write_parameters(run, begin, end - begin, total.scale + begin, total.shift + begin);
}

void axn_backward_in_bands(axn_backward_run *run) {
  axn_run(&run->runner, run->plan->bands, bands_task, run);
  axn_run(&run->runner, run->plan->parameters, add_bands_task, run);
}
