/* SPDX-License-Identifier: MIT */
/*
 * The forward schedule. A unit's statistics are summed and applied while its values are still in
 * cache; where there are fewer units than threads, all threads sum blocks of the same units, then
 * all apply. Both ways merge the same blocks in the same order.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "arguments.h"
#include "error.h"
#include "kernels/range.h"
#include "kernels/wide.h"
#include "moments.h"
#include "plan.h"
#include "real.h"
#include "running.h"
#include "span.h"

typedef struct forward_run {
  const axn_plan *plan;
  const axn_geometry *geometry;
  axn_runner runner;
  const void *x;
  void *y;
  const void *scale, *shift;                 /* reals; may be null */
  const void *given_mean, *given_variance;   /* reals; null: statistics come from x */
  double *converted_scale, *converted_shift; /* room for parameters as reals, where they are not */
  double *mean, *variance;                   /* per statistic, where they come from x, and */
  bool keeps;                                /* someone asks for them after their unit is done */
  bool sums_only;                            /* it ends with mean and, in variance's place, M2 */
  double *blocks;                            /* moments of blocks, where units are split */
  void *mean_out, *rstd_out;                 /* reals; may be null */
  axn_ending ending;
  bool streams; /* y goes past the caches */
} forward_run;

/* ---- workspace: parameters of another type, mean, variance, moments of blocks ---- */

static int64_t block_doubles(const axn_geometry *geometry) {
  if (geometry->sums.blocks == 1) return 0;
  return geometry->partition.units * geometry->sums.blocks *
         axn_padded(geometry->partition.unit_cells) * 2;
}

int64_t axn_forward_doubles(const axn_plan *plan, bool given) {
  const int64_t parameters = 2 * axn_parameter_doubles(plan);
  if (given) return parameters;
  return parameters + 2 * plan->own.partition.cells + block_doubles(&plan->own);
}

static void place_workspace(forward_run *run, void *workspace) {
  const int64_t cells = run->geometry->partition.cells;
  run->converted_scale = axn_workspace_start(workspace);
  run->converted_shift = run->converted_scale + axn_parameter_doubles(run->plan);
  if (run->given_mean != NULL) return;
  run->mean = run->converted_shift + axn_parameter_doubles(run->plan);
  run->variance = run->mean + cells;
  run->blocks = run->variance + cells;
}

static void read_parameters(forward_run *run, const void *scale, const void *shift) {
  run->scale = axn_read_parameters(run->plan, scale, run->converted_scale);
  run->shift = axn_read_parameters(run->plan, shift, run->converted_shift);
}

/* ---- statistics ---- */

/* The statistics of a unit, and the same in the terms of apply. */
typedef struct unit_statistics {
  AXN_LINES_OF_CACHE double mean[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE double variance[AXN_LINE_ROOM];
  double rstd[AXN_LINE_ROOM];
  float mean_high[AXN_LINE_ROOM]; /* the mean as float */
  double mean_low[AXN_LINE_ROOM]; /* the rest of it */
  bool wide;                      /* some cell needs float64 */
} unit_statistics;

static void write_doubles(const forward_run *run, const axn_place *unit,
                          const unit_statistics *statistics) {
  const size_t bytes = (size_t)unit->cells * sizeof(double);
  double *mean = axn_output_at(run->mean_out, unit->cell, sizeof(double));
  double *rstd = axn_output_at(run->rstd_out, unit->cell, sizeof(double));
  if (mean != NULL) memcpy(mean, statistics->mean, bytes);
  if (rstd != NULL) memcpy(rstd, statistics->rstd, bytes);
}

/* Fills in the rest from mean and variance. `writes`: the caller's outputs too, for which one task alone
 * is responsible. */
static void complete_statistics(const forward_run *run, const axn_place *unit, bool writes,
                                unit_statistics *statistics) {
  axn_statistics_block block = {.mean = statistics->mean,
                                .variance = statistics->variance,
                                .count = unit->cells,
                                .epsilon = run->plan->desc.epsilon,
                                .mean_high = statistics->mean_high,
                                .mean_low = statistics->mean_low,
                                .rstd = statistics->rstd};
  for (int64_t j = unit->cells; j % AXN_PAD != 0; j++) {
    statistics->mean[j] = 0;
    statistics->variance[j] = 1;
  }
  if (writes && !run->plan->doubles) {
    block.mean_out = axn_output_at(run->mean_out, unit->cell, sizeof(float));
    block.rstd_out = axn_output_at(run->rstd_out, unit->cell, sizeof(float));
  }
  statistics->wide = run->plan->kernels->statistics(&block) || run->plan->doubles;
  if (writes && run->plan->doubles) write_doubles(run, unit, statistics);
}

/* Statistics that are known already. */
static void read_statistics(const forward_run *run, const axn_place *unit,
                            unit_statistics *statistics) {
  const size_t bytes = (size_t)unit->cells * sizeof(double);
  if (run->given_mean == NULL) {
    memcpy(statistics->mean, run->mean + unit->cell, bytes);
    memcpy(statistics->variance, run->variance + unit->cell, bytes);
  } else {
    for (int64_t j = 0; j < unit->cells; j++) {
      const bool doubles = run->plan->doubles;
      statistics->mean[j] = axn_real_at(run->given_mean, unit->cell + j, doubles);
      statistics->variance[j] = axn_real_at(run->given_variance, unit->cell + j, doubles);
    }
  }
  complete_statistics(run, unit, false, statistics);
}

/* How many values of a cell a block has. */
static double count_of_block(const axn_nest *nest, const axn_block *block) {
  return (double)(block->rows * block->length * nest->fold);
}

/* Moments of a block; returns of how many values per cell. */
static double sum_block(const forward_run *run, const axn_place *unit, int64_t index,
                        axn_moments moments) {
  const axn_nest *nest = &run->geometry->sums;
  const axn_block block = axn_block_at(nest, index);
  const axn_span span = axn_span_of(nest, &block, unit->cells);
  const void *x = axn_input_at(run->x, unit->tensor + block.tensor, run->plan->element_size);
  run->plan->moments[nest->form](x, &span, moments);
  return count_of_block(nest, &block);
}

/* Turns M2 into the variance, or into the second moment in place of it. */
static void finish_moments(const forward_run *run, const axn_place *unit,
                           unit_statistics *statistics) {
  const double share = 1 / (double)run->geometry->partition.values;
  for (int64_t j = 0; j < unit->cells; j++) statistics->variance[j] *= share;
  if (!run->plan->strategy.second_moment) return;
  for (int64_t j = 0; j < unit->cells; j++) {
    statistics->variance[j] += statistics->mean[j] * statistics->mean[j];
    statistics->mean[j] = 0;
  }
}

/* Completes the statistics, and keeps them for those who ask later. */
static void finish_unit(const forward_run *run, const axn_place *unit,
                        unit_statistics *statistics) {
  const size_t bytes = (size_t)unit->cells * sizeof(double);
  if (!run->sums_only) {
    finish_moments(run, unit, statistics);
    complete_statistics(run, unit, true, statistics);
  }
  if (!run->keeps) return;
  memcpy(run->mean + unit->cell, statistics->mean, bytes);
  memcpy(run->variance + unit->cell, statistics->variance, bytes);
}

static void sum_unit(const forward_run *run, const axn_place *unit, unit_statistics *statistics) {
  /* M2 grows where the variance will be. */
  const axn_moments total = {statistics->mean, statistics->variance};
  double count = sum_block(run, unit, 0, total);
  if (run->geometry->sums.blocks > 1) {
    AXN_LINES_OF_CACHE double mean[AXN_LINE_ROOM];
    AXN_LINES_OF_CACHE double m2[AXN_LINE_ROOM];
    const axn_moments block = {mean, m2};
    for (int64_t b = 1; b < run->geometry->sums.blocks; b++) {
      const double block_count = sum_block(run, unit, b, block);
      axn_merge_moments(total, count, block, block_count, unit->cells);
      count += block_count;
    }
  }
  finish_unit(run, unit, statistics);
}

/* Where the moments of a block wait for the others of its unit. */
static axn_moments stored_moments(const forward_run *run, int64_t index) {
  const int64_t cells = axn_padded(run->geometry->partition.unit_cells);
  double *start = run->blocks + index * cells * 2;
  return (axn_moments){start, start + cells};
}

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const int64_t blocks = run->geometry->sums.blocks;
  for (int64_t i = begin; i < end; i++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, i / blocks);
    sum_block(run, &unit, i % blocks, stored_moments(run, i));
  }
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const axn_nest *nest = &run->geometry->sums;
  unit_statistics statistics;
  const axn_moments total = {statistics.mean, statistics.variance};
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    const axn_moments first = stored_moments(run, u * nest->blocks);
    memcpy(total.mean, first.mean, (size_t)unit.cells * sizeof(double));
    memcpy(total.m2, first.m2, (size_t)unit.cells * sizeof(double));
    axn_block block = axn_block_at(nest, 0);
    double count = count_of_block(nest, &block);
    for (int64_t b = 1; b < nest->blocks; b++) {
      block = axn_block_at(nest, b);
      const double block_count = count_of_block(nest, &block);
      axn_merge_moments(total, count, stored_moments(run, u * nest->blocks + b), block_count,
                        unit.cells);
      count += block_count;
    }
    finish_unit(run, &unit, &statistics);
  }
}

/* ---- apply ---- */

/* What meets the elements of some lines, per line or column. */
typedef struct line_factors {
  AXN_LINES_OF_CACHE float mean[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float multiplier[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float offset[AXN_LINE_ROOM];
  bool wide; /* some line needs float64 */
} line_factors;

static void find_factors(const forward_run *run, const axn_place *unit,
                         const unit_statistics *statistics, int64_t first, int64_t lines,
                         int64_t parameter, line_factors *factors) {
  const axn_nest *nest = &run->geometry->lines;
  const bool weighted = nest->form == AXN_FORM_WEIGHTED;
  /* Lines of float64 find their own. */
  if (run->plan->doubles) {
    factors->wide = true;
    return;
  }
  axn_factors_block block = {.map = axn_line_map_of(nest, first, lines),
                             .mean_high = statistics->mean_high,
                             .mean_low = statistics->mean_low,
                             .rstd = statistics->rstd,
                             .mean_out = factors->mean,
                             .multiplier = factors->multiplier,
                             .offset = factors->offset};
  if (!weighted) {
    block.scale = axn_parameters_at(run->scale, unit->parameter + parameter);
    block.shift = axn_parameters_at(run->shift, unit->parameter + parameter);
  }
  const bool held = run->plan->kernels->factors(&block);
  factors->wide = !held || statistics->wide;
}

/* A block that is about to be applied: some lines of a unit. */
typedef struct apply_step {
  const axn_place *unit;
  const unit_statistics *statistics;
  const line_factors *factors;
  int64_t first; /* line */
  axn_block at;
} apply_step;

/* A line that float32 has room for. */
static bool is_narrow(const forward_run *run, const axn_apply_block *line, double mean,
                      double rstd) {
  return !run->plan->doubles && isfinite(*line->multiplier) && isfinite(*line->offset) &&
         !axn_needs_wide(mean, rstd);
}

/* The lines of a block of which some need float64, one by one. */
static void apply_line_by_line(const forward_run *run, const apply_step *step,
                               const axn_apply_block *block, int64_t lines) {
  const axn_nest *nest = &run->geometry->lines;
  for (int64_t l = 0; l < lines; l++) {
    const int64_t cell = (step->first + l) / nest->lines_per_cell, entry = l * nest->fold;
    const double rstd = step->statistics->rstd[cell], mean = step->statistics->mean[cell];
    const size_t size = run->plan->element_size, real = axn_real_size(run->plan->doubles);
    axn_apply_block line = *block;
    line.x = axn_input_at(block->x, axn_line_offset(nest, l), size);
    line.y = axn_output_at(block->y, axn_line_offset(nest, l), size);
    line.ending = axn_ending_at(&block->ending, axn_line_offset(nest, l), size);
    line.mean += entry;
    line.multiplier += entry;
    line.offset += entry;
    if (is_narrow(run, &line, mean, rstd)) {
      line.span = axn_apply_span(nest, &step->at, 1);
      run->plan->kernels->apply[nest->form](&line);
      continue;
    }
    const int64_t parameter =
        step->unit->parameter + step->at.parameter + axn_line_parameter(nest, step->first + l);
    const axn_wide_block wide = {.x = line.x,
                                 .out = line.y,
                                 .rows = step->at.rows,
                                 .columns = step->at.length * nest->fold,
                                 .row_stride = nest->row.tensor,
                                 .scale = axn_input_at(run->scale, parameter, real),
                                 .shift = axn_input_at(run->shift, parameter, real),
                                 .parameter_column = nest->length.parameter,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .ending = line.ending};
    run->plan->wide->apply(&wide);
  }
}

static void apply_block(const forward_run *run, const apply_step *step, int64_t lines) {
  const axn_nest *nest = &run->geometry->lines;
  const int64_t start = step->unit->tensor + axn_line_offset(nest, step->first) + step->at.tensor;
  const size_t size = run->plan->element_size;
  axn_apply_block block = {.x = axn_input_at(run->x, start, size),
                           .y = axn_output_at(run->y, start, size),
                           .span = axn_apply_span(nest, &step->at, lines),
                           .mean = step->factors->mean,
                           .multiplier = step->factors->multiplier,
                           .offset = step->factors->offset,
                           .ending = axn_ending_at(&run->ending, start, size),
                           .streams = run->streams};
  if (nest->form == AXN_FORM_WEIGHTED) {
    const int64_t parameter =
        step->unit->parameter + step->at.parameter + axn_line_parameter(nest, step->first);
    block.scale = axn_parameters_at(run->scale, parameter);
    block.shift = axn_parameters_at(run->shift, parameter);
  }
  if (step->factors->wide) {
    apply_line_by_line(run, step, &block, lines);
  } else {
    run->plan->kernels->apply[nest->form](&block);
  }
}

/* Applies the blocks from `begin` to `end` of a unit, counted through all its lines. */
static void apply_part(const forward_run *run, const axn_place *unit,
                       const unit_statistics *statistics, int64_t begin, int64_t end) {
  const axn_nest *nest = &run->geometry->lines;
  line_factors factors;
  for (int64_t i = begin; i < end; i++) {
    const int64_t chunk = i / nest->blocks, b = i % nest->blocks;
    const int64_t first = chunk * nest->block_lines;
    const int64_t lines = axn_lines_of_chunk(nest, unit->cells, chunk);
    const apply_step step = {unit, statistics, &factors, first, axn_block_at(nest, b)};
    if (lines <= 0) break;
    if (i == begin || b == 0 || nest->segments > 1) {
      find_factors(run, unit, statistics, first, lines, nest->segments > 1 ? step.at.parameter : 0,
                   &factors);
    }
    apply_block(run, &step, lines);
  }
}

static void apply_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  unit_statistics statistics;
  while (begin < end) {
    const axn_part part = axn_part_at(run->geometry, begin, end);
    const axn_place unit = axn_unit_at(&run->geometry->partition, part.unit);
    read_statistics(run, &unit, &statistics);
    apply_part(run, &unit, &statistics, part.first, part.first + part.count);
    begin += part.count;
  }
  run->plan->kernels->finish_streams();
}

/* Sums the cells of a place and applies them while they are in cache. */
static void normalize_unit(const forward_run *run, const axn_place *place) {
  unit_statistics statistics;
  sum_unit(run, place, &statistics);
  apply_part(run, place, &statistics, 0, axn_blocks_of(&run->geometry->lines, place->cells));
}

static void whole_units_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    normalize_unit(run, &unit);
  }
  run->plan->kernels->finish_streams();
}

/* Whether a unit's lines are whole statistics, one block each: then one kernel does it all. */
static bool is_direct(const axn_plan *plan, const axn_geometry *geometry) {
  return !plan->doubles && geometry->sums.form != AXN_FORM_COLUMNS && geometry->sums.blocks == 1 &&
         geometry->lines.form != AXN_FORM_COLUMNS && geometry->lines.blocks == 1 &&
         geometry->lines.lines_per_cell == 1 &&
         !(geometry->lines.form == AXN_FORM_WEIGHTED && geometry->lines.cell_parameter != 0);
}

/* The cells of a place, however many. */
static void normalize_directly(const forward_run *run, axn_place place) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_block at = axn_block_at(nest, 0);
  const axn_axis *unit = &run->geometry->partition.unit;
  while (place.cells > 0) {
    const axn_normalize_block block = {
        .x = axn_input_at(run->x, place.tensor, run->plan->element_size),
        .y = axn_output_at(run->y, place.tensor, run->plan->element_size),
        .span = axn_span_of(nest, &at, place.cells),
        .share = 1 / (double)run->geometry->partition.values,
        .epsilon = run->plan->desc.epsilon,
        .second_moment = run->plan->strategy.second_moment != 0,
        .weighted = nest->form == AXN_FORM_WEIGHTED,
        .parameter_stride = nest->cell_parameter,
        .scale = axn_parameters_at(run->scale, place.parameter),
        .shift = axn_parameters_at(run->shift, place.parameter),
        .mean_out = axn_output_at(run->mean_out, place.cell, sizeof(float)),
        .rstd_out = axn_output_at(run->rstd_out, place.cell, sizeof(float)),
        .kept = {run->keeps ? run->mean + place.cell : NULL,
                 run->keeps ? run->variance + place.cell : NULL},
        .ending = axn_ending_at(&run->ending, place.tensor, run->plan->element_size),
        .streams = run->streams};
    const int64_t done = run->plan->kernels->normalize(&block);
    const int64_t care = place.cells - done < AXN_PAD ? place.cells - done : AXN_PAD;
    place = axn_place_after(&place, unit, done, place.cells - done);
    if (care == 0) break;
    const axn_place some = axn_place_after(&place, unit, 0, care);
    normalize_unit(run, &some);
    place = axn_place_after(&place, unit, care, place.cells - care);
  }
}

/* Cells along the unit axis follow each other; a run of them is one place. */
static void direct_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const axn_partition *partition = &run->geometry->partition;
  while (begin < end) {
    const axn_place first = axn_unit_at(partition, begin);
    const int64_t to_end = partition->along - begin % partition->along;
    const int64_t units = to_end < end - begin ? to_end : end - begin;
    const axn_place last = axn_unit_at(partition, begin + units - 1);
    normalize_directly(run, axn_place_after(&first, &partition->unit, 0,
                                            (units - 1) * partition->unit_cells + last.cells));
    begin += units;
  }
  run->plan->kernels->finish_streams();
}

static void sum_units_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  unit_statistics statistics;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    sum_unit(run, &unit, &statistics);
  }
}

axn_moments axn_sum_moments(const axn_plan *plan, const axn_runner *runner, const void *x,
                            void *workspace) {
  const axn_geometry *geometry = &plan->own;
  const int64_t units = geometry->partition.units, blocks = geometry->sums.blocks;
  forward_run run = {.plan = plan,
                     .geometry = geometry,
                     .runner = *runner,
                     .x = x,
                     .keeps = true,
                     .sums_only = true};
  place_workspace(&run, workspace);
  if (axn_split_units(runner, &geometry->partition, blocks)) {
    axn_run(runner, units * blocks, sum_blocks_task, &run);
    axn_run(runner, units, merge_blocks_task, &run);
  } else {
    axn_run(runner, units, sum_units_task, &run);
  }
  return (axn_moments){run.mean, run.variance};
}

static void run_forward(forward_run *run) {
  const axn_geometry *geometry = run->geometry;
  const int64_t units = geometry->partition.units;
  const int tensors = run->ending.residual != NULL ? 3 : 2;
  run->streams = axn_streams_output(run->plan, tensors, run->x == run->y);
  if (run->given_mean == NULL) {
    const bool split = axn_split_units(&run->runner, &geometry->partition, geometry->sums.blocks);
    run->keeps |= split;
    if (!split) {
      axn_run(&run->runner, units, is_direct(run->plan, geometry) ? direct_task : whole_units_task,
              run);
      return;
    }
    axn_run(&run->runner, units * geometry->sums.blocks, sum_blocks_task, run);
    axn_run(&run->runner, units, merge_blocks_task, run);
  }
  axn_run(&run->runner, units * axn_blocks_of_unit(geometry), apply_blocks_task, run);
}

/* ---- the public functions ---- */

static void update_running(const axn_plan *plan, const axn_training_args *args,
                           const forward_run *run) {
  const axn_partition *partition = &plan->own.partition;
  const bool kept = plan->running > 0;
  const axn_running running = {.mean = args->running_mean,
                               .variance = args->running_variance,
                               .doubles = plan->doubles,
                               .batch_count = args->batch_count,
                               .channels = plan->running,
                               .in_turn = plan->strategy.running == AXN_RUNNING_IN_TURN};
  const axn_batch_statistics batch = {
      run->mean, run->variance, axn_running_factor(plan->desc.running_variance, partition->values),
      kept ? partition->cells / plan->running : 1};
  axn_update_running(running, &batch, plan->desc.momentum);
}

axn_status axn_forward_training(const axn_plan *plan, const axn_training_args *caller_args,
                                axn_error *error) {
  axn_training_args args;
  const axn_status status = axn_read_training(plan, caller_args, &args, error);
  if (status != AXN_OK) return status;
  if (plan->elements > 0) {
    forward_run run = {.plan = plan,
                       .geometry = &plan->own,
                       .runner = axn_runner_of(&plan->desc, args.threads, plan->elements),
                       .x = args.x,
                       .y = args.y,
                       .ending = axn_ending_of(plan, args.residual),
                       .mean_out = args.mean,
                       .rstd_out = args.rstd,
                       .keeps = args.running_mean != NULL};
    place_workspace(&run, args.workspace);
    read_parameters(&run, args.scale, args.shift);
    run_forward(&run);
    update_running(plan, &args, &run);
  }
  return axn_succeed(error);
}

axn_status axn_forward_inference(const axn_plan *plan, const axn_inference_args *caller_args,
                                 axn_error *error) {
  axn_inference_args args;
  const axn_status status = axn_read_inference(plan, caller_args, &args, error);
  if (status != AXN_OK) return status;
  if (plan->elements > 0) {
    const bool given = args.running_mean != NULL;
    forward_run run = {.plan = plan,
                       .geometry = given ? &plan->given : &plan->own,
                       .runner = axn_runner_of(&plan->desc, args.threads, plan->elements),
                       .x = args.x,
                       .y = args.y,
                       .ending = axn_ending_of(plan, args.residual),
                       .given_mean = args.running_mean,
                       .given_variance = args.running_variance};
    place_workspace(&run, args.workspace);
    read_parameters(&run, args.scale, args.shift);
    run_forward(&run);
  }
  return axn_succeed(error);
}
