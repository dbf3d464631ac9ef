/* SPDX-License-Identifier: MIT */
/*
 * Backward where every statistic is one run of memory with a parameter per element, and there are many
 * of them: layer normalization of a matrix. The units are cut into bands, fixed by the shape; a band
 * sums a few units, adds them to its own gradients of scale and shift, and takes their gradient of x,
 * all while they are in cache. In the end the bands are added up, in order.
 */
#include "backward.h"

#include <math.h>
#include <string.h>

enum {
  BAND_ROWS = 16, /* units worked on together */
  MOST_BANDS = 64,
  MOST_PARAMETERS = 8192 /* BAND_ROWS runs of these still fit a private cache */
};

int64_t axn_bands_of(const axn_plan *plan) {
  const axn_geometry *own = &plan->own;
  const bool runs = own->form == AXN_FORM_WEIGHTED && own->terms.outer.count == 0 &&
                    own->terms.row.extent == 1 && own->partition.kept.count == 1 &&
                    own->partition.values == plan->parameters;
  const int64_t bands = own->partition.units / BAND_ROWS;
  if (!runs || plan->parameters > MOST_PARAMETERS || bands < 2) return 0;
  return bands < MOST_BANDS ? bands : MOST_BANDS;
}

/* Per parameter: the band's sums, those of a few units, and the same exactly. */
int64_t axn_band_doubles(const axn_plan *plan) {
  return 6 * plan->bands * plan->parameters;
}

typedef struct band_sums {
  double *scale, *shift;
  double *few_scale, *few_shift;
  double *exact_scale, *exact_shift;
} band_sums;

static band_sums sums_of_band(const axn_backward_run *run, int64_t band) {
  const int64_t parameters = run->plan->parameters;
  double *start = run->bands + 6 * band * parameters;
  return (band_sums){start,
                     start + parameters,
                     start + 2 * parameters,
                     start + 3 * parameters,
                     start + 4 * parameters,
                     start + 5 * parameters};
}

static void clear_pair(double *scale, double *shift, int64_t count) {
  memset(scale, 0, (size_t)count * sizeof *scale);
  memset(shift, 0, (size_t)count * sizeof *shift);
}

/* Adds a sum of a few units to the band's; where a few terms made it overflow, the exact one. */
static void add_sums(double *sums, const double *few, const double *exact, int64_t count) {
  for (int64_t p = 0; p < count; p++) {
    sums[p] += exact != NULL && !isfinite(few[p]) ? exact[p] : few[p];
  }
}

static bool all_finite(const double *values, int64_t count) {
  /* 0 times anything but a finite number is NaN; this way the loop becomes vectors. */
  double zero = 0;
  for (int64_t i = 0; i < count; i++) zero += 0 * values[i];
  return zero == 0;
}

static void add_parameters_of(const axn_backward_run *run, const axn_place *first, int64_t rows,
                              const band_sums *band) {
  const axn_axis *kept = &run->geometry->partition.kept.axis[0];
  const int64_t parameters = run->plan->parameters;
  const axn_parameter_rows few = {.tensor = first->tensor,
                                  .cell = first->cell,
                                  .rows = rows,
                                  .columns = parameters,
                                  .row_stride = kept->tensor,
                                  .cell_stride = kept->cell};
  clear_pair(band->few_scale, band->few_shift, parameters);
  axn_add_parameter_rows(run, &few, false, band->few_scale, band->few_shift);
  const bool finite =
      all_finite(band->few_scale, parameters) && all_finite(band->few_shift, parameters);
  if (!finite) {
    clear_pair(band->exact_scale, band->exact_shift, parameters);
    axn_add_parameter_rows(run, &few, true, band->exact_scale, band->exact_shift);
  }
  add_sums(band->scale, band->few_scale, finite ? NULL : band->exact_scale, parameters);
  add_sums(band->shift, band->few_shift, finite ? NULL : band->exact_shift, parameters);
}

static void run_band(const axn_backward_run *run, int64_t index) {
  const axn_partition *partition = &run->geometry->partition;
  const int64_t bands = run->plan->bands, blocks = run->geometry->apply.blocks;
  const int64_t end = partition->units * (index + 1) / bands;
  const band_sums band = sums_of_band(run, index);
  clear_pair(band.scale, band.shift, run->plan->parameters);
  for (int64_t u = partition->units * index / bands; u < end; u += BAND_ROWS) {
    const int64_t rows = end - u < BAND_ROWS ? end - u : BAND_ROWS;
    const axn_place first = axn_unit_at(partition, u);
    for (int64_t r = 0; r < rows; r++) {
      const axn_place unit = axn_unit_at(partition, u + r);
      axn_sum_gradients(run, &unit, u + r);
    }
    add_parameters_of(run, &first, rows, &band);
    if (run->grad_x != NULL) axn_gradient_of_blocks(run, u * blocks, (u + rows) * blocks);
  }
}

static void bands_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t b = begin; b < end; b++) run_band(run, b);
  run->plan->kernels->finish_streams();
}

static void add_bands_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t p = begin; p < end; p++) {
    double scale = 0, shift = 0;
    for (int64_t b = 0; b < run->plan->bands; b++) {
      const band_sums band = sums_of_band(run, b);
      scale += band.scale[p];
      shift += band.shift[p];
    }
    axn_write_parameters(run, p, 1, &scale, &shift);
  }
}

void axn_backward_in_bands(axn_backward_run *run) {
  axn_run(&run->runner, run->plan->bands, bands_task, run);
  axn_run(&run->runner, run->plan->parameters, add_bands_task, run);
}
