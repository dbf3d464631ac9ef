/* SPDX-License-Identifier: MIT */
/*
 * Backward where every statistic is one run of memory with a parameter per element, and there are many
 * of them: layer normalization of a matrix. The units are cut into bands, fixed by the shape; a band
 * sums a few units, adds them to its own gradients of scale and shift, and takes their gradient of x,
 * all while they are in cache. In the end the bands are added up, in order.
 */
#include "backward.h"

#include <string.h>

enum {
  BAND_ROWS = 16, /* units worked on together */
  MOST_BANDS = 64
};

int64_t axn_bands_of(const axn_plan *plan) {
  const axn_geometry *own = &plan->own;
  const bool runs = own->lines.form == AXN_FORM_WEIGHTED && own->partition.kept.count == 0 &&
                    own->lines.blocks == 1 && own->lines.lines_per_cell == 1 &&
                    own->partition.values == plan->parameters;
  const int64_t bands = own->partition.cells / BAND_ROWS;
  if (!runs || bands < 2) return 0;
  return bands < MOST_BANDS ? bands : MOST_BANDS;
}

/* Sums of scale and shift, per band. */
int64_t axn_band_doubles(const axn_plan *plan) {
  return 2 * plan->bands * plan->parameters;
}

typedef struct band_sums {
  double *scale, *shift;
} band_sums;

static band_sums sums_of_band(const axn_backward_run *run, int64_t band) {
  const int64_t parameters = run->plan->parameters;
  double *start = run->bands + 2 * band * parameters;
  return (band_sums){start, start + parameters};
}

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

static void run_band(const axn_backward_run *run, int64_t index) {
  const axn_axis *unit = &run->geometry->partition.unit;
  const int64_t bands = run->plan->bands, end = unit->extent * (index + 1) / bands;
  const band_sums band = sums_of_band(run, index);
  axn_unit_statistics statistics;
  /* Of scale and shift, which follow each other. */
  memset(band.scale, 0, 2 * (size_t)run->plan->parameters * sizeof *band.scale);
  for (int64_t first = unit->extent * index / bands; first < end; first += BAND_ROWS) {
    const axn_place from_start = {.tensor = {0}};
    const axn_place rows = axn_place_after(&from_start, unit, first,
                                           end - first < BAND_ROWS ? end - first : BAND_ROWS);
    axn_backward_ending(run, &rows);
    axn_read_statistics(run, &rows, &statistics);
    axn_sum_gradients(run, &rows, &statistics, 0);
    add_parameters_of(run, &rows, &band);
    if (run->grad_x != NULL) axn_gradient_of_unit(run, &rows, &statistics);
  }
}

static void bands_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t b = begin; b < end; b++) run_band(run, b);
  run->plan->kernels->finish_streams();
}

/* Adds the other bands to the first, in order. */
static void add_bands_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  const band_sums total = sums_of_band(run, 0);
  for (int64_t b = 1; b < run->plan->bands; b++) {
    const band_sums band = sums_of_band(run, b);
    for (int64_t p = begin; p < end; p++) total.scale[p] += band.scale[p];
    for (int64_t p = begin; p < end; p++) total.shift[p] += band.shift[p];
  }
  axn_write_parameters(run, begin, end - begin, total.scale + begin, total.shift + begin);
}

void axn_backward_in_bands(axn_backward_run *run) {
  axn_run(&run->runner, run->plan->bands, bands_task, run);
  axn_run(&run->runner, run->plan->parameters, add_bands_task, run);
}
