/* SPDX-License-Identifier: MIT */
/*
 * Backward of a few samples whose elements have a parameter each. There are as many gradients of scale and shift
 * as elements of a sample, or a few times fewer than in all, so what costs is the way to memory: once the sums of
 * the statistics are known, one visit gives the gradients of x, scale and shift, some columns at a time. What
 * samples give to a parameter is no more than is added in float.
 */
#include "backward.h"

/* What all columns share. */
typedef struct few_samples {
  const axn_backward_run *run;
  int64_t samples;
  axn_unit_statistics statistics;
  axn_row_values values;
} few_samples;

bool axn_find_row_factors(const axn_backward_run *run, axn_gradient_sums means, int64_t first,
                          int64_t rows, axn_row_values *values) {
  const axn_gradient_factors_block factors = {
      .map = {.lines = rows, .lines_per_cell = 1, .fold = 1},
      .mean = values->mean + first,
      .rstd = values->rstd + first,
      .centred = means.centred,
      .gradient = means.gradient,
      .product = means.product,
      .from_gradient = values->from_gradient + first,
      .from_value = values->from_value + first,
      .constant = values->constant + first};
  for (int64_t r = 0; r < rows; r++) values->centre[first + r] = (float)means.centred[r];
  return run->plan->kernels->gradient_factors(&factors);
}

static axn_gradient_block block_of(const few_samples *few, const axn_place *columns) {
  const axn_backward_run *run = few->run;
  const axn_row_values *values = &few->values;
  const axn_axis *row = &run->plan->by_parameter.lines.row;
  const size_t size = run->plan->element_size;
  return (axn_gradient_block){
      .x = axn_input_at(run->x, columns->tensor[run->x_side], size),
      .grad_y = axn_input_at(run->grad_y, columns->tensor[run->gradient_side], size),
      .grad_x = axn_output_at(run->grad_x, columns->tensor[AXN_SIDE_X], size),
      .span = {.lines = few->samples,
               .line_stride = row->tensor[run->x_side],
               .rows = 1,
               .length = columns->cells,
               .fold = 1},
      .grad_y_strides = {.line = row->tensor[run->gradient_side]},
      .mean = values->mean,
      .rstd = values->rstd,
      .scale = axn_parameters_at(run->scale, columns->cell),
      .from_gradient = values->from_gradient,
      .from_value = values->from_value,
      .constant = values->constant,
      .streams = run->streams};
}

/* All gradients; false where some of the parameters' overflowed. */
static bool run_at_once(const few_samples *few, const axn_place *columns) {
  const axn_backward_run *run = few->run;
  bool overflowed = false;
  axn_gradient_block block = block_of(few, columns);
  block.products = (float *)run->grad_scale + columns->cell;
  block.gradients = (float *)run->grad_shift + columns->cell;
  block.centre = few->values.centre;
  block.starts = true;
  block.overflowed = &overflowed;
  block.ahead = columns->cells * (int64_t)run->plan->element_size;
  run->plan->kernels->gradient[AXN_FORM_WEIGHTED](&block);
  return !overflowed;
}

/* Whether kernels may write the gradients of the parameters where they are due, and grad_x beside them. */
static bool goes_at_once(const axn_backward_run *run) {
  return run->plan->parameter_kernels == &axn_wide_float32 && run->grad_scale != NULL &&
         run->grad_shift != NULL && run->grad_x != NULL && run->grad_x != run->grad_y &&
         run->scale != NULL;
}

static void columns_task(void *data, int64_t begin, int64_t end) {
  const few_samples *few = data;
  const axn_backward_run *run = few->run;
  for (int64_t u = begin; u < end; u++) {
    const axn_place columns = axn_unit_at(&run->plan->by_parameter.partition, u);
    /* Sums that overflow in float are taken again. */
    if (!run_at_once(few, &columns)) axn_parameters_of_unit(run, &columns);
  }
  run->plan->kernels->finish_streams();
}

bool axn_backward_of_few(const axn_backward_run *run) {
  const axn_nest *nest = &run->plan->by_parameter.lines;
  const int64_t samples = run->plan->own.partition.cells;
  if (run->frozen || run->plan->own.lines.form != AXN_FORM_WEIGHTED || samples > AXN_FEW_ROWS ||
      !goes_at_once(run) || nest->blocks != 1 || nest->row.extent != samples) {
    return false;
  }
  few_samples few; /* not cleared: statistics are many */
  few.run = run, few.samples = samples;
  const axn_place all = {.cells = samples};
  axn_read_statistics(run, &all, &few.statistics);
  few.values.mean = few.statistics.mean, few.values.rstd = few.statistics.rstd;
  if (few.statistics.wide || !axn_find_row_factors(run, run->means, 0, samples, &few.values)) {
    return false;
  }
  axn_run(&run->runner, run->plan->by_parameter.partition.units, columns_task, &few);
  return true;
}
