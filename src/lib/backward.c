/* SPDX-License-Identifier: MIT */
/* Backward: the schedule, and the gradient of x. */
#include "backward.h"

#include <math.h>
#include <string.h>

#include "arguments.h"
#include "error.h"
#include "moments.h"

/* ---- workspace ---- */

static int64_t segment_doubles(const axn_geometry *geometry) {
  if (geometry->form == AXN_FORM_WEIGHTED) return 0;
  return geometry->partition.units * geometry->partition.segments *
         geometry->partition.unit_columns;
}

static int64_t block_doubles(const axn_geometry *geometry) {
  if (geometry->terms.blocks == 1) return 0;
  return geometry->partition.units * geometry->terms.blocks * geometry->lines * 3;
}

int64_t axn_backward_doubles(const axn_plan *plan, const axn_geometry *geometry) {
  return 3 * geometry->partition.cells + 2 * segment_doubles(geometry) + 2 * plan->parameters +
         block_doubles(geometry) + axn_band_doubles(plan);
}

static void place_workspace(axn_backward_run *run, void *workspace) {
  const int64_t cells = run->geometry->partition.cells, parameters = run->plan->parameters;
  const int64_t segments = segment_doubles(run->geometry);
  double *start = axn_workspace_start(workspace);
  run->means = (axn_gradient_sums){start, start + cells, start + 2 * cells};
  run->segment_scale = start + 3 * cells;
  run->segment_shift = run->segment_scale + segments;
  run->parameter_scale = run->segment_shift + segments;
  run->parameter_shift = run->parameter_scale + parameters;
  run->bands = run->parameter_shift + parameters;
  run->blocks = run->bands + axn_band_doubles(run->plan);
}

/* ---- second pass: gradient of x ---- */

/* What multiplies grad_y, e and 1 in a block. */
typedef struct gradient_factors {
  float from_gradient[AXN_BLOCK_FACTORS], from_value[AXN_BLOCK_COLUMNS],
      constant[AXN_BLOCK_COLUMNS];
} gradient_factors;

/* False where float32 does not hold a factor. */
static bool find_factors(const axn_backward_run *run, const axn_place *unit, const axn_place *at,
                         const axn_unit_statistics *statistics, gradient_factors *factors) {
  const axn_geometry *geometry = run->geometry;
  const axn_gradient_sums means = axn_means_of(run, unit);
  bool finite = true;
  for (int64_t j = 0; j < unit->columns; j++) {
    const double rstd = (double)statistics->rstd[j];
    factors->from_value[j] = (float)(-rstd * means.product[j]);
    factors->constant[j] =
        (float)(rstd * (means.centred[j] * means.product[j] - means.gradient[j]));
    finite &= isfinite(factors->from_value[j]) && isfinite(factors->constant[j]);
  }
  if (geometry->form == AXN_FORM_WEIGHTED) {
    factors->from_gradient[0] = statistics->rstd[0];
    return finite;
  }
  const bool columns = geometry->form == AXN_FORM_COLUMNS;
  const int64_t count = columns ? at->columns : at->rows;
  const int64_t stride = columns ? geometry->apply.column.parameter : geometry->apply.row.parameter;
  for (int64_t i = 0; i < count; i++) {
    const double rstd = (double)statistics->rstd[columns ? i : 0];
    const int64_t parameter = unit->parameter + at->parameter + i * stride;
    factors->from_gradient[i] = (float)(rstd * axn_scale_at(run, parameter));
    finite &= (bool)isfinite(factors->from_gradient[i]);
  }
  return finite;
}

/* Constant statistics: grad_x = grad_y * rstd * scale, which is an apply with mean and offset 0. */
static void apply_frozen(const axn_backward_run *run, const axn_gradient_block *block) {
  static const float zeros[AXN_BLOCK_FACTORS] = {0};
  const axn_apply_block apply = {.x = block->grad_y,
                                 .y = block->grad_x,
                                 .rows = block->rows,
                                 .columns = block->columns,
                                 .row_stride = block->row_stride,
                                 .column_stride = block->column_stride,
                                 .mean = zeros,
                                 .multiplier = block->from_gradient,
                                 .offset = zeros,
                                 .streams = block->streams};
  run->plan->kernels->apply[run->geometry->form](&apply);
}

static void gradient_wide(const axn_backward_run *run, const axn_place *unit,
                          const axn_unit_statistics *statistics, const axn_gradient_block *block,
                          int64_t column) {
  const axn_nest *nest = &run->geometry->apply;
  const axn_gradient_sums means = axn_means_of(run, unit);
  axn_wide_block wide = axn_widen(run, nest, statistics, block, column);
  wide.out = block->grad_x + column * block->column_stride;
  if (run->geometry->partition.column_family) {
    wide.scale = axn_parameters_at(block->scale, column * nest->column.parameter);
  } else {
    wide.scale = block->scale;
  }
  axn_wide_gradient(&wide, means.centred[column], means.gradient[column], means.product[column]);
}

/* A block of columns of which some need float64 goes one column at a time. */
static void gradient_column_by_column(const axn_backward_run *run, const axn_place *unit,
                                      const axn_unit_statistics *statistics,
                                      const axn_gradient_block *block) {
  for (int64_t j = 0; j < block->columns; j++) {
    const bool usable = isfinite(block->from_gradient[j]) && isfinite(block->from_value[j]) &&
                        isfinite(block->constant[j]);
    if (!usable || axn_needs_wide((double)statistics->mean[j], statistics->exact_rstd[j])) {
      gradient_wide(run, unit, statistics, block, j);
      continue;
    }
    axn_gradient_block column = *block;
    column.columns = 1;
    column.x += j * block->column_stride;
    column.grad_y += j * block->column_stride;
    column.grad_x += j * block->column_stride;
    column.mean += j;
    column.rstd += j;
    column.from_gradient += j;
    column.from_value += j;
    column.constant += j;
    run->plan->kernels->gradient[AXN_FORM_COLUMNS](&column);
  }
}

static void gradient_of_block(const axn_backward_run *run, const axn_place *unit,
                              const axn_unit_statistics *statistics, int64_t index) {
  const axn_geometry *geometry = run->geometry;
  const axn_place at = axn_block_at(&geometry->apply, index, unit->columns);
  gradient_factors factors;
  axn_gradient_block block = axn_gradient_block_at(run, &geometry->apply, unit, &at, statistics);
  block.grad_x = run->grad_x + unit->tensor + at.tensor;
  block.from_gradient = factors.from_gradient;
  block.from_value = factors.from_value;
  block.constant = factors.constant;
  block.streams = run->streams;
  const bool finite = find_factors(run, unit, &at, statistics, &factors);
  if (run->frozen) {
    apply_frozen(run, &block);
  } else if (finite && !statistics->wide) {
    run->plan->kernels->gradient[geometry->form](&block);
  } else if (geometry->form == AXN_FORM_COLUMNS) {
    gradient_column_by_column(run, unit, statistics, &block);
  } else {
    gradient_wide(run, unit, statistics, &block, 0);
  }
}

void axn_gradient_of_blocks(const axn_backward_run *run, int64_t begin, int64_t end) {
  const int64_t blocks = run->geometry->apply.blocks;
  axn_unit_statistics statistics;
  axn_place unit = {0};
  for (int64_t i = begin; i < end; i++) {
    if (i == begin || i % blocks == 0) {
      unit = axn_unit_at(&run->geometry->partition, i / blocks);
      axn_read_statistics(run, &unit, &statistics);
    }
    gradient_of_block(run, &unit, &statistics, i % blocks);
  }
}

static void gradient_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_gradient_of_blocks(run, begin, end);
  run->plan->kernels->finish_streams();
}

/* Sums a unit and takes its gradient while its values are still in cache. */
static void whole_units_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  const int64_t blocks = run->geometry->apply.blocks;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    axn_sum_gradients(run, &unit, u);
    axn_gradient_of_blocks(run, u * blocks, (u + 1) * blocks);
  }
  run->plan->kernels->finish_streams();
}

/* ---- the whole ---- */

static void run_backward(axn_backward_run *run) {
  const axn_geometry *geometry = run->geometry;
  run->streams = axn_streams_output(&run->runner, run->plan->elements, run->grad_x == run->grad_y);
  const axn_partition *partition = &geometry->partition;
  const bool parameters = run->grad_scale != NULL || run->grad_shift != NULL;
  const bool own_pass = parameters && geometry->form == AXN_FORM_WEIGHTED;
  if (own_pass && run->plan->bands > 0) {
    axn_backward_in_bands(run);
    return;
  }
  const bool sums = parameters || !run->frozen;
  const bool fused = sums && run->grad_x != NULL && !own_pass &&
                     !axn_split_units(&run->runner, partition, &geometry->terms);
  if (fused) {
    axn_run(&run->runner, partition->units, whole_units_task, run);
  } else if (sums) {
    axn_sum_all_gradients(run);
  }
  if (own_pass) {
    axn_parameters_down_columns(run);
  } else if (parameters) {
    axn_parameters_from_segments(run);
  }
  if (run->grad_x != NULL && !fused) {
    axn_run(&run->runner, partition->units * geometry->apply.blocks, gradient_task, run);
  }
}

static void clear_parameters(const axn_plan *plan, const axn_backward_args *args) {
  const size_t bytes = (size_t)plan->parameters * sizeof(float);
  if (args->grad_scale != NULL) memset(args->grad_scale, 0, bytes);
  if (args->grad_shift != NULL) memset(args->grad_shift, 0, bytes);
}

axn_status axn_backward(const axn_plan *plan, const axn_backward_args *caller_args,
                        axn_error *error) {
  axn_backward_args args;
  const axn_status status = axn_read_backward(plan, caller_args, &args, error);
  if (status != AXN_OK) return status;
  if (plan->elements == 0) {
    clear_parameters(plan, &args);
    return axn_succeed(error);
  }
  const bool frozen = args.running_mean != NULL;
  axn_backward_run run = {.plan = plan,
                          .geometry = frozen ? &plan->given : &plan->own,
                          .runner = axn_runner_of(&plan->desc, args.threads, plan->elements),
                          .frozen = frozen,
                          /* Where x is not due its sums are not used; any values do. */
                          .x = args.x != NULL ? args.x : args.grad_y,
                          .grad_y = args.grad_y,
                          .scale = args.scale,
                          .mean = args.mean,
                          .rstd = args.rstd,
                          .given_mean = args.running_mean,
                          .given_variance = args.running_variance,
                          .grad_x = args.grad_x,
                          .grad_scale = args.grad_scale,
                          .grad_shift = args.grad_shift};
  place_workspace(&run, args.workspace);
  run_backward(&run);
  return axn_succeed(error);
}
