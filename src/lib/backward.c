/* SPDX-License-Identifier: MIT */
/* Backward: the schedule, and the gradient of x. */
#include "backward.h"

#include <math.h>
#include <string.h>

#include "arguments.h"
#include "error.h"
#include "kernels/range.h"

/* ---- workspace ---- */

static int64_t segment_doubles(const axn_geometry *geometry) {
  if (geometry->lines.weighted) return 0;
  return geometry->partition.units * geometry->lines.segments * axn_unit_lines(geometry);
}

static int64_t block_doubles(const axn_geometry *geometry) {
  const int64_t blocks = axn_blocks_of_unit(geometry);
  return blocks == 1 ? 0 : geometry->partition.units * blocks * geometry->lines.block_lines * 3;
}

int64_t axn_backward_doubles(const axn_plan *plan, const axn_geometry *geometry) {
  return 3 * geometry->partition.cells + 2 * segment_doubles(geometry) + 2 * plan->parameters +
         2 * axn_parameter_doubles(plan) + block_doubles(geometry) + axn_band_doubles(plan);
}

static void place_workspace(axn_backward_run *run, void *workspace) {
  const int64_t cells = run->geometry->partition.cells, parameters = run->plan->parameters;
  const int64_t segments = segment_doubles(run->geometry);
  double *start = axn_workspace_start(workspace);
  run->bands = start;
  start += axn_band_doubles(run->plan);
  run->means = (axn_gradient_sums){start, start + cells, start + 2 * cells};
  run->segment_scale = start + 3 * cells;
  run->segment_shift = run->segment_scale + segments;
  run->parameter_scale = run->segment_shift + segments;
  run->parameter_shift = run->parameter_scale + parameters;
  run->converted_scale = run->parameter_shift + parameters;
  run->converted_shift = run->converted_scale + axn_parameter_doubles(run->plan);
  run->blocks = run->converted_shift + axn_parameter_doubles(run->plan);
}

/* ---- second pass: gradient of x ---- */

static void find_values(const axn_backward_run *run, const axn_place *unit,
                        const axn_unit_statistics *statistics, int64_t first, int64_t lines,
                        int64_t parameter, axn_line_values *values) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_gradient_sums means = axn_means_of(run, unit);
  const bool weighted = nest->weighted, spreads = axn_spreads(nest);
  const axn_gradient_factors_block block = {
      .map = axn_line_map_of(nest, first, lines),
      .mean = statistics->mean,
      .rstd = statistics->rstd,
      .centred = means.centred,
      .gradient = means.gradient,
      .product = run->frozen ? NULL : means.product,
      .scale = weighted || run->plan->doubles
                   ? NULL
                   : axn_parameters_at(run->scale, unit->parameter + parameter),
      .mean_out = spreads ? values->spread_mean : NULL,
      .rstd_out = spreads ? values->spread_rstd : NULL,
      .from_gradient = values->from_gradient,
      .from_value = values->from_value,
      .constant = values->constant};
  const bool held = run->plan->kernels->gradient_factors(&block);
  axn_set_statistics(nest, statistics, first, values);
  values->wide = !held || statistics->wide;
}

/* Constant statistics: grad_x = grad_y * rstd * scale, which is an apply with mean and offset 0. `of` rows are
 * joined. */
static void apply_frozen(const axn_backward_run *run, const axn_gradient_block *block, int64_t of) {
  const axn_strides strides = axn_strides_of(&run->geometry->lines, AXN_SIDE_X);
  static const float zeros[AXN_LINE_ROOM] = {0};
  axn_apply_block apply = {.x = block->grad_y,
                           .y = block->grad_x,
                           .span = block->span,
                           .y_strides = axn_joined_strides(strides, of),
                           .mean = zeros,
                           .multiplier = block->from_gradient,
                           .offset = zeros,
                           .streams = block->streams};
  apply.span.line_stride = block->grad_y_strides.line;
  apply.span.row_stride = block->grad_y_strides.row;
  run->plan->kernels->apply[run->geometry->lines.form](&apply);
}

/* One line for the float64 kernels, on its way to grad_x. */
static axn_wide_block widen_with_scale(const axn_backward_run *run, const axn_backward_step *step,
                                       const axn_gradient_block *block, int64_t line) {
  const axn_nest *nest = &run->geometry->lines;
  axn_wide_block wide = axn_widen(run, step, block, line);
  wide.out = axn_output_at(block->grad_x, axn_line_offset(nest, line, AXN_SIDE_X),
                           run->plan->element_size);
  wide.out_row_stride = nest->row.tensor[AXN_SIDE_X];
  wide.scale = axn_input_at(run->scale, axn_step_parameter(run, step, line),
                            axn_real_size(run->plan->doubles));
  wide.parameter_row = nest->row.parameter;
  wide.parameter_column = nest->length.parameter;
  return wide;
}

/* The same in float64, for one line. */
static void apply_frozen_wide(const axn_backward_run *run, const axn_backward_step *step,
                              const axn_gradient_block *block, int64_t line) {
  axn_wide_block wide = widen_with_scale(run, step, block, line);
  wide.x = wide.grad_y;
  wide.row_stride = wide.grad_y_row_stride;
  wide.mean = 0;
  run->plan->wide->apply(&wide);
}

static void gradient_wide(const axn_backward_run *run, const axn_backward_step *step,
                          const axn_gradient_block *block, int64_t line) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_gradient_sums means = axn_means_of(run, step->unit);
  const int64_t cell = (step->first + line) / nest->lines_per_cell;
  const axn_wide_block wide = widen_with_scale(run, step, block, line);
  run->plan->wide->gradient(&wide, means.centred[cell], means.gradient[cell], means.product[cell]);
}

/* The lines of a block of which some need float64, one by one. */
static void gradient_line_by_line(const axn_backward_run *run, const axn_backward_step *step,
                                  const axn_gradient_block *block) {
  const axn_nest *nest = &run->geometry->lines;
  for (int64_t l = 0; l < step->lines; l++) {
    const int64_t cell = (step->first + l) / nest->lines_per_cell, entry = l * nest->fold;
    const bool held =
        isfinite(block->from_gradient[entry]) &&
        (run->frozen || (isfinite(block->from_value[entry]) && isfinite(block->constant[entry])));
    if (!held || axn_is_wide(run, step->statistics, cell)) {
      (run->frozen ? apply_frozen_wide : gradient_wide)(run, step, block, l);
      continue;
    }
    axn_gradient_block line = *block;
    const size_t size = run->plan->element_size;
    line.span = axn_apply_span(nest, &step->at, 1, run->x_side);
    line.x = axn_input_at(block->x, axn_line_offset(nest, l, run->x_side), size);
    line.grad_y = axn_input_at(block->grad_y, axn_line_offset(nest, l, run->gradient_side), size);
    line.grad_x = axn_output_at(block->grad_x, axn_line_offset(nest, l, AXN_SIDE_X), size);
    line.mean += entry;
    line.rstd += entry;
    line.from_gradient += entry;
    line.from_value += entry;
    line.constant += entry;
    if (run->frozen) {
      apply_frozen(run, &line, 1);
    } else {
      run->plan->kernels->gradient[nest->form](&line);
    }
  }
}

/* What float32 has room for; `of` rows are joined. */
static void gradient_of_rows(const axn_backward_run *run, const axn_gradient_block *block,
                             int64_t of) {
  if (run->frozen) {
    apply_frozen(run, block, of);
  } else {
    run->plan->kernels->gradient[run->geometry->lines.form](block);
  }
}

/* The same where rows are one run of memory: joined, and then what is left. */
static void gradient_of_joined_rows(const axn_backward_run *run, const axn_gradient_block *block) {
  const size_t size = run->plan->element_size;
  const int64_t rows = block->span.rows;
  for (int64_t done = 0, of = run->geometry->lines.join; done < rows; of = rows - done) {
    const int64_t count = (rows - done) / of;
    axn_gradient_block some = *block;
    some.x = axn_input_at(block->x, done * block->span.row_stride, size);
    some.grad_x = axn_output_at(block->grad_x, done * block->span.row_stride, size);
    some.grad_y = axn_input_at(block->grad_y, done * block->grad_y_strides.row, size);
    some.span = axn_joined_span(block->span, count, of);
    some.grad_y_strides = axn_joined_strides(block->grad_y_strides, of);
    if (count > 0) gradient_of_rows(run, &some, of);
    done += count * of;
  }
}

static void gradient_of_block(const axn_backward_run *run, const axn_backward_step *step) {
  const axn_nest *nest = &run->geometry->lines;
  const int64_t start = axn_block_offset(nest, step->unit, &step->at, step->first, AXN_SIDE_X);
  axn_gradient_block block = axn_gradient_block_of(run, step);
  block.span = axn_apply_span(nest, &step->at, step->lines, run->x_side);
  block.grad_x = axn_output_at(run->grad_x, start, run->plan->element_size);
  block.streams = run->streams;
  if (step->values->wide) {
    gradient_line_by_line(run, step, &block);
  } else if (nest->join > 1) {
    gradient_of_joined_rows(run, &block);
  } else {
    gradient_of_rows(run, &block, 1);
  }
}

/* The blocks from `begin` to `end` of a unit, counted through all its lines. */
static void gradient_of_part(const axn_backward_run *run, const axn_place *unit,
                             const axn_unit_statistics *statistics, int64_t begin, int64_t end) {
  const axn_nest *nest = &run->geometry->lines;
  axn_line_values values;
  for (int64_t i = begin; i < end; i++) {
    const int64_t chunk = i / nest->blocks, b = i % nest->blocks;
    const axn_backward_step step = {unit,
                                    statistics,
                                    &values,
                                    chunk * nest->block_lines,
                                    axn_lines_of_chunk(nest, unit->cells, chunk),
                                    b,
                                    axn_block_at(nest, b)};
    if (step.lines <= 0) break;
    if (i == begin || b == 0 || nest->segments > 1) {
      find_values(run, unit, statistics, step.first, step.lines,
                  nest->segments > 1 ? step.at.parameter : 0, &values);
      if (run->past_corner) axn_find_corner(run, unit, statistics, step.first, step.lines, &values);
    }
    if (run->past_corner && (values.wide || !values.corner_held)) {
      const axn_backward_run after = axn_after_ending(run, &step);
      gradient_of_block(&after, &step);
    } else {
      gradient_of_block(run, &step);
    }
  }
}

void axn_gradient_of_unit(const axn_backward_run *run, const axn_place *unit,
                          const axn_unit_statistics *statistics) {
  gradient_of_part(run, unit, statistics, 0, axn_blocks_of(&run->geometry->lines, unit->cells));
}

/* Blocks counted through all units. */
static void gradient_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_unit_statistics statistics;
  axn_walk walk = {begin, end, 0};
  axn_part part;
  while (
      axn_next_part(&run->geometry->partition, axn_blocks_of_unit(run->geometry), &walk, &part)) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, part.unit);
    axn_read_statistics(run, &unit, &statistics);
    gradient_of_part(run, &unit, &statistics, part.first, part.first + part.count);
  }
  run->plan->kernels->finish_streams();
}

/* Sums a unit and takes its gradient while its values are still in cache. */
static void whole_units_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_unit_statistics statistics;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    axn_backward_ending(run, &unit);
    axn_read_statistics(run, &unit, &statistics);
    axn_sum_gradients(run, &unit, &statistics, u);
    axn_gradient_of_unit(run, &unit, &statistics);
  }
  run->plan->kernels->finish_streams();
}

/* ---- the whole ---- */

static void run_backward(axn_backward_run *run) {
  const axn_geometry *geometry = run->geometry;
  run->streams = axn_streams_output(run->plan, 3, run->grad_x == run->grad_y);
  const axn_partition *partition = &geometry->partition;
  const bool parameters = run->grad_scale != NULL || run->grad_shift != NULL;
  const bool own_pass = parameters && geometry->lines.weighted;
  if (own_pass && run->plan->bands > 0) {
    axn_backward_in_bands(run);
    return;
  }
  const bool sums = parameters || !run->frozen;
  const bool fused = sums && run->grad_x != NULL && !own_pass &&
                     !axn_split_units(&run->runner, partition, axn_blocks_of_unit(geometry));
  if (!fused) axn_backward_all_endings(run);
  if (fused) {
    axn_run(&run->runner, partition->units, whole_units_task, run);
  } else if (sums) {
    axn_sum_all_gradients(run);
  }
  if (own_pass) {
    if (axn_backward_of_few(run)) return;
    if (geometry->lines.form == AXN_FORM_WEIGHTED) {
      axn_parameters_down_columns(run);
    } else {
      axn_parameters_along_rows(run);
    }
  } else if (parameters) {
    axn_parameters_from_segments(run);
  }
  if (run->grad_x != NULL && !fused) {
    axn_run(&run->runner, partition->units * axn_blocks_of_unit(geometry), gradient_task, run);
  }
}

static void clear_parameters(const axn_plan *plan, const axn_backward_args *args) {
  const size_t bytes = (size_t)plan->parameters * axn_parameter_size(plan);
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
                          .second_moment = plan->strategy.second_moment != 0,
                          /* Where x is not due its sums are not used; any values do. */
                          .x = args.x != NULL ? args.x : args.grad_y,
                          .grad_y = args.grad_y,
                          .x_side = args.x != NULL ? AXN_SIDE_X : AXN_SIDE_Y,
                          .gradient_side = AXN_SIDE_Y,
                          .ending = axn_ending_of(plan, args.residual),
                          .mean = plan->strategy.second_moment != 0 ? NULL : args.mean,
                          .rstd = args.rstd,
                          .given_mean = args.running_mean,
                          .given_variance = args.running_variance,
                          .grad_x = args.grad_x,
                          .grad_scale = args.grad_scale,
                          .grad_shift = args.grad_shift};
  place_workspace(&run, args.workspace);
  run.scale = axn_read_parameters(plan, args.scale, run.converted_scale);
  if (plan->desc.activation != AXN_ACTIVATION_NONE) {
    run.shift = axn_read_parameters(plan, args.shift, run.converted_shift);
    run.ending.gradient = args.grad_y;
    run.ending.clamps = false;
    run.activated = args.grad_residual != NULL ? args.grad_residual : args.grad_x;
    run.past_corner = axn_goes_past_corner(&run);
    if (!run.past_corner) {
      run.grad_y = run.activated;
      run.gradient_side = args.grad_residual != NULL ? AXN_SIDE_Y : AXN_SIDE_X;
    }
  }
  run_backward(&run);
  return axn_succeed(error);
}
