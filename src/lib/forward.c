/* SPDX-License-Identifier: MIT */
/*
 * The forward schedule. A unit's statistics are summed and applied while its values are still in
 * cache; where there are fewer units than threads, all threads sum blocks of the same units, then
 * all apply. Both ways merge the same blocks in the same order.
 */
#include <stddef.h>
#include <string.h>

#include "apply.h"
#include "arguments.h"
#include "error.h"
#include "moments.h"
#include "plan.h"
#include "real.h"
#include "running.h"
#include "span.h"

typedef struct forward_run {
  axn_apply_run apply; /* with the plan and the tensors */
  axn_runner runner;
  const void *given_mean, *given_variance;   /* reals; null: statistics come from x */
  double *converted_scale, *converted_shift; /* room for parameters as reals, where they are not */
  double *mean, *variance;                   /* per statistic, where they come from x, and */
  bool keeps;                                /* someone asks for them after their unit is done */
  bool sums_only;                            /* it ends with mean and, in variance's place, M2 */
  double *blocks;                            /* moments of blocks, where units are split */
  void *mean_out, *rstd_out;                 /* reals; may be null */
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
  const int64_t cells = run->apply.geometry->partition.cells;
  if (workspace == NULL) return; /* as none is due */
  run->converted_scale = axn_workspace_start(workspace);
  run->converted_shift = run->converted_scale + axn_parameter_doubles(run->apply.plan);
  if (run->given_mean != NULL) return;
  run->mean = run->converted_shift + axn_parameter_doubles(run->apply.plan);
  run->variance = run->mean + cells;
  run->blocks = run->variance + cells;
}

static void read_parameters(forward_run *run, const void *scale, const void *shift) {
  run->apply.scale = axn_read_parameters(run->apply.plan, scale, run->converted_scale);
  run->apply.shift = axn_read_parameters(run->apply.plan, shift, run->converted_shift);
}

/* ---- statistics ---- */

static void write_doubles(const forward_run *run, const axn_place *unit,
                          const axn_apply_statistics *statistics) {
  const size_t bytes = (size_t)unit->cells * sizeof(double);
  double *mean = axn_output_at(run->mean_out, unit->cell, sizeof(double));
  double *rstd = axn_output_at(run->rstd_out, unit->cell, sizeof(double));
  if (mean != NULL) memcpy(mean, statistics->mean, bytes);
  if (rstd != NULL) memcpy(rstd, statistics->rstd, bytes);
}

/* Fills in the rest from mean and variance. `writes`: the caller's outputs too, for which one task alone
 * is responsible. */
static void complete_statistics(const forward_run *run, const axn_place *unit, bool writes,
                                axn_apply_statistics *statistics) {
  axn_statistics_block block = {.mean = statistics->mean,
                                .variance = statistics->variance,
                                .count = unit->cells,
                                .epsilon = run->apply.plan->desc.epsilon,
                                .mean_high = statistics->mean_high,
                                .mean_low = statistics->mean_low,
                                .rstd = statistics->rstd};
  for (int64_t j = unit->cells; j % AXN_PAD != 0; j++) {
    statistics->mean[j] = 0;
    statistics->variance[j] = 1;
  }
  if (writes && !run->apply.plan->doubles) {
    block.mean_out = axn_output_at(run->mean_out, unit->cell, sizeof(float));
    block.rstd_out = axn_output_at(run->rstd_out, unit->cell, sizeof(float));
  }
  statistics->wide = run->apply.plan->kernels->statistics(&block) || run->apply.plan->doubles;
  if (writes && run->apply.plan->doubles) write_doubles(run, unit, statistics);
}

/* Statistics that are known already. */
static void read_statistics(const forward_run *run, const axn_place *unit,
                            axn_apply_statistics *statistics) {
  const size_t bytes = (size_t)unit->cells * sizeof(double);
  if (run->given_mean == NULL) {
    memcpy(statistics->mean, run->mean + unit->cell, bytes);
    memcpy(statistics->variance, run->variance + unit->cell, bytes);
  } else {
    for (int64_t j = 0; j < unit->cells; j++) {
      const bool doubles = run->apply.plan->doubles;
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
  const axn_nest *nest = &run->apply.geometry->sums;
  const axn_block block = axn_block_at(nest, index);
  const axn_span span = axn_span_of(nest, &block, unit->cells, AXN_SIDE_X);
  const void *x = axn_input_at(run->apply.x, axn_block_offset(nest, unit, &block, 0, AXN_SIDE_X),
                               run->apply.plan->element_size);
  run->apply.plan->moments[nest->form](x, &span, moments);
  return count_of_block(nest, &block);
}

/* Turns M2 into the variance, or into the second moment in place of it. */
static void finish_moments(const forward_run *run, const axn_place *unit,
                           axn_apply_statistics *statistics) {
  const double share = 1 / (double)run->apply.geometry->partition.values;
  for (int64_t j = 0; j < unit->cells; j++) statistics->variance[j] *= share;
  if (!run->apply.plan->strategy.second_moment) return;
  for (int64_t j = 0; j < unit->cells; j++) {
    statistics->variance[j] += statistics->mean[j] * statistics->mean[j];
    statistics->mean[j] = 0;
  }
}

/* Completes the statistics, and keeps them for those who ask later. */
static void finish_unit(const forward_run *run, const axn_place *unit,
                        axn_apply_statistics *statistics) {
  const size_t bytes = (size_t)unit->cells * sizeof(double);
  if (!run->sums_only) {
    finish_moments(run, unit, statistics);
    complete_statistics(run, unit, true, statistics);
  }
  if (!run->keeps) return;
  memcpy(run->mean + unit->cell, statistics->mean, bytes);
  memcpy(run->variance + unit->cell, statistics->variance, bytes);
}

static void sum_unit(const forward_run *run, const axn_place *unit,
                     axn_apply_statistics *statistics) {
  /* M2 grows where the variance will be. */
  const axn_moments total = {statistics->mean, statistics->variance};
  double count = sum_block(run, unit, 0, total);
  if (run->apply.geometry->sums.blocks > 1) {
    AXN_LINES_OF_CACHE double mean[AXN_LINE_ROOM];
    AXN_LINES_OF_CACHE double m2[AXN_LINE_ROOM];
    const axn_moments block = {mean, m2};
    for (int64_t b = 1; b < run->apply.geometry->sums.blocks; b++) {
      const double block_count = sum_block(run, unit, b, block);
      axn_merge_moments(total, count, block, block_count, unit->cells);
      count += block_count;
    }
  }
  finish_unit(run, unit, statistics);
}

/* Where the moments of a block wait for the others of its unit. */
static axn_moments stored_moments(const forward_run *run, int64_t index) {
  const int64_t cells = axn_padded(run->apply.geometry->partition.unit_cells);
  double *start = run->blocks + index * cells * 2;
  return (axn_moments){start, start + cells};
}

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const axn_partition *partition = &run->apply.geometry->partition;
  const int64_t blocks = run->apply.geometry->sums.blocks;
  axn_walk walk = {begin, end, 0};
  axn_part part;
  while (axn_next_part(partition, blocks, &walk, &part)) {
    const axn_place unit = axn_unit_at(partition, part.unit);
    for (int64_t b = part.first; b < part.first + part.count; b++) {
      sum_block(run, &unit, b, stored_moments(run, part.unit * blocks + b));
    }
  }
}

/* Those of some of its cells. */
static axn_moments moments_after(axn_moments moments, int64_t skip) {
  return (axn_moments){moments.mean + skip, moments.m2 + skip};
}

static void merge_slice(const forward_run *run, const axn_slice *slice) {
  const axn_nest *nest = &run->apply.geometry->sums;
  const int64_t start = slice->unit * nest->blocks, cells = slice->at.cells;
  axn_apply_statistics statistics;
  const axn_moments total = {statistics.mean, statistics.variance};
  const axn_moments first = moments_after(stored_moments(run, start), slice->skip);
  memcpy(total.mean, first.mean, (size_t)cells * sizeof(double));
  memcpy(total.m2, first.m2, (size_t)cells * sizeof(double));
  axn_block block = axn_block_at(nest, 0);
  double count = count_of_block(nest, &block);
  for (int64_t b = 1; b < nest->blocks; b++) {
    block = axn_block_at(nest, b);
    const double block_count = count_of_block(nest, &block);
    axn_merge_moments(total, count, moments_after(stored_moments(run, start + b), slice->skip),
                      block_count, cells);
    count += block_count;
  }
  finish_unit(run, &slice->at, &statistics);
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  for (int64_t i = begin; i < end; i++) {
    const axn_slice slice = axn_slice_at(run->apply.geometry, i);
    if (slice.at.cells > 0) merge_slice(run, &slice);
  }
}

/* Sums blocks of the same units on all threads. */
static void sum_split_units(forward_run *run) {
  const axn_geometry *geometry = run->apply.geometry;
  const int64_t units = geometry->partition.units;
  axn_run(&run->runner, units * geometry->sums.blocks, sum_blocks_task, run);
  axn_run(&run->runner, units * axn_slices_of_unit(geometry), merge_blocks_task, run);
}

/* ---- the schedule ---- */

static void apply_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const axn_geometry *geometry = run->apply.geometry;
  axn_apply_statistics statistics;
  axn_walk walk = {begin, end, 0};
  axn_part part;
  while (axn_next_part(&geometry->partition, axn_blocks_of_unit(geometry), &walk, &part)) {
    const axn_place unit = axn_unit_at(&geometry->partition, part.unit);
    read_statistics(run, &unit, &statistics);
    axn_apply_part(&run->apply, &unit, &statistics, part.first, part.first + part.count);
  }
  run->apply.plan->kernels->finish_streams();
}

/* Sums the cells of a place and applies them while they are in cache. */
static void normalize_unit(const forward_run *run, const axn_place *place) {
  axn_apply_statistics statistics;
  sum_unit(run, place, &statistics);
  axn_apply_part(&run->apply, place, &statistics, 0,
                 axn_blocks_of(&run->apply.geometry->lines, place->cells));
}

static void whole_units_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->apply.geometry->partition, u);
    normalize_unit(run, &unit);
  }
  run->apply.plan->kernels->finish_streams();
}

/* Whether a unit's lines are whole statistics, one block each, for sums and all else alike: then one kernel
 * does it all, but for lines whose rows come from far: a unit of them is better walked in the order of memory. */
static bool is_direct(const axn_plan *plan, const axn_geometry *geometry) {
  const axn_nest *sums = &geometry->sums, *lines = &geometry->lines;
  return !plan->doubles && !axn_rows_are_far(geometry) && sums->form != AXN_FORM_COLUMNS &&
         sums->blocks == 1 && lines->form != AXN_FORM_COLUMNS && lines->blocks == 1 &&
         lines->lines_per_cell == 1 && sums->length.extent == lines->length.extent &&
         sums->row.extent == lines->row.extent &&
         !(lines->form == AXN_FORM_WEIGHTED && lines->cell_parameter != 0);
}

/* The cells of a place, however many. */
static void normalize_directly(const forward_run *run, axn_place place) {
  const axn_nest *nest = &run->apply.geometry->lines;
  const axn_block at = axn_block_at(nest, 0);
  const axn_axis *unit = &run->apply.geometry->partition.unit;
  const size_t size = run->apply.plan->element_size;
  axn_ending ending = run->apply.ending;
  ending.strides = axn_strides_of(nest, AXN_SIDE_Y);
  while (place.cells > 0) {
    const axn_normalize_block block = {
        .x = axn_input_at(run->apply.x, place.tensor[AXN_SIDE_X], size),
        .y = axn_output_at(run->apply.y, place.tensor[AXN_SIDE_Y], size),
        .span = axn_span_of(nest, &at, place.cells, AXN_SIDE_X),
        .y_strides = axn_strides_of(nest, AXN_SIDE_Y),
        .share = 1 / (double)run->apply.geometry->partition.values,
        .epsilon = run->apply.plan->desc.epsilon,
        .second_moment = run->apply.plan->strategy.second_moment != 0,
        .weighted = nest->form == AXN_FORM_WEIGHTED,
        .parameter_stride = nest->cell_parameter,
        .scale = axn_parameters_at(run->apply.scale, place.parameter),
        .shift = axn_parameters_at(run->apply.shift, place.parameter),
        .mean_out = axn_output_at(run->mean_out, place.cell, sizeof(float)),
        .rstd_out = axn_output_at(run->rstd_out, place.cell, sizeof(float)),
        .kept = {run->keeps ? run->mean + place.cell : NULL,
                 run->keeps ? run->variance + place.cell : NULL},
        .ending = axn_ending_at(&ending, place.tensor[AXN_SIDE_Y], size),
        .streams = run->apply.streams};
    const int64_t done = run->apply.plan->kernels->normalize(&block);
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
  const axn_partition *partition = &run->apply.geometry->partition;
  while (begin < end) {
    const axn_place first = axn_unit_at(partition, begin);
    const int64_t to_end = partition->along - begin % partition->along;
    const int64_t units = to_end < end - begin ? to_end : end - begin;
    const axn_place last = axn_unit_at(partition, begin + units - 1);
    normalize_directly(run, axn_place_after(&first, &partition->unit, 0,
                                            (units - 1) * partition->unit_cells + last.cells));
    begin += units;
  }
  run->apply.plan->kernels->finish_streams();
}

static void sum_units_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  axn_apply_statistics statistics;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->apply.geometry->partition, u);
    sum_unit(run, &unit, &statistics);
  }
}

axn_moments axn_sum_moments(const axn_plan *plan, const axn_runner *runner, const void *x,
                            void *workspace) {
  const axn_geometry *geometry = &plan->own;
  const int64_t units = geometry->partition.units, blocks = geometry->sums.blocks;
  forward_run run = {.apply = {.plan = plan, .geometry = geometry, .x = x},
                     .runner = *runner,
                     .keeps = true,
                     .sums_only = true};
  place_workspace(&run, workspace);
  if (axn_split_units(runner, &geometry->partition, blocks)) {
    sum_split_units(&run);
  } else {
    axn_run(runner, units, sum_units_task, &run);
  }
  return (axn_moments){run.mean, run.variance};
}

static void run_forward(forward_run *run) {
  const axn_geometry *geometry = run->apply.geometry;
  const int64_t units = geometry->partition.units;
  const int tensors = run->apply.ending.residual != NULL ? 3 : 2;
  run->apply.streams = axn_streams_output(run->apply.plan, tensors,
                                          run->apply.x == run->apply.y ||
                                              run->apply.ending.residual == run->apply.y);
  if (run->given_mean == NULL) {
    const bool split = axn_split_units(&run->runner, &geometry->partition, geometry->sums.blocks);
    run->keeps |= split;
    if (!split) {
      axn_run(&run->runner, units,
              is_direct(run->apply.plan, geometry) ? direct_task : whole_units_task, run);
      return;
    }
    sum_split_units(run);
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
    forward_run run = {.apply = {.plan = plan,
                                 .geometry = &plan->own,
                                 .x = args.x,
                                 .y = args.y,
                                 .y_side = AXN_SIDE_Y,
                                 .ending = axn_ending_of(plan, args.residual)},
                       .runner = axn_runner_of(&plan->desc, args.threads, plan->elements),
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
    forward_run run = {.apply = {.plan = plan,
                                 .geometry = given ? &plan->given : &plan->own,
                                 .x = args.x,
                                 .y = args.y,
                                 .y_side = AXN_SIDE_Y,
                                 .ending = axn_ending_of(plan, args.residual)},
                       .runner = axn_runner_of(&plan->desc, args.threads, plan->elements),
                       .given_mean = args.running_mean,
                       .given_variance = args.running_variance};
    place_workspace(&run, args.workspace);
    read_parameters(&run, args.scale, args.shift);
    run_forward(&run);
  }
  return axn_succeed(error);
}
