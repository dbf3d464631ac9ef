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
#include "kernels/wide.h"
#include "moments.h"
#include "plan.h"
#include "running.h"

typedef struct forward_run {
  const axn_plan *plan;
  const axn_geometry *geometry;
  axn_runner runner;
  const float *x;
  float *y;
  const float *scale, *shift;               /* may be null */
  const float *given_mean, *given_variance; /* null: statistics come from x */
  double *mean, *variance;                  /* per statistic, where they come from x */
  double *blocks;                           /* moments of blocks, where units are split */
  float *mean_out, *rstd_out;               /* may be null */
  bool streams;                             /* y goes past the caches */
} forward_run;

/* ---- workspace: mean, variance, moments of blocks ---- */

static int64_t block_doubles(const axn_geometry *geometry) {
  if (geometry->sums.blocks == 1) return 0;
  return geometry->partition.units * geometry->sums.blocks * geometry->partition.unit_columns * 2;
}

int64_t axn_forward_doubles(const axn_geometry *geometry) {
  return 2 * geometry->partition.cells + block_doubles(geometry);
}

static void place_workspace(forward_run *run, void *workspace) {
  const int64_t cells = run->geometry->partition.cells;
  run->mean = axn_workspace_start(workspace);
  run->variance = run->mean + cells;
  run->blocks = run->variance + cells;
}

/* ---- statistics ---- */

/* Moments of a block; returns of how many values per cell. */
static double sum_block(const forward_run *run, const axn_place *unit, int64_t index,
                        axn_moments moments) {
  const axn_nest *nest = &run->geometry->sums;
  const axn_place at = axn_block_at(nest, index, unit->columns);
  const axn_moments_block block = {.x = run->x + unit->tensor + at.tensor,
                                   .rows = at.rows,
                                   .columns = at.columns,
                                   .row_stride = nest->row.tensor,
                                   .column_stride = nest->column.tensor};
  if (run->geometry->partition.column_family) {
    run->plan->kernels->moments_of_columns(&block, moments);
    return (double)at.rows;
  }
  run->plan->kernels->moments_of_row(&block, moments);
  return (double)(at.rows * at.columns);
}

/* Turns M2 into the variance, and writes what the caller asked for. */
static void finish_unit(const forward_run *run, const axn_place *unit) {
  const double *mean = run->mean + unit->cell;
  double *variance = run->variance + unit->cell;
  const double count = (double)run->geometry->partition.values;
  const double epsilon = run->plan->desc.epsilon;
  for (int64_t j = 0; j < unit->columns; j++) variance[j] /= count;
  if (run->mean_out != NULL) {
    float *out = run->mean_out + unit->cell;
    for (int64_t j = 0; j < unit->columns; j++) out[j] = (float)mean[j];
  }
  if (run->rstd_out != NULL) {
    float *out = run->rstd_out + unit->cell;
    for (int64_t j = 0; j < unit->columns; j++) {
      out[j] = axn_narrow_rstd(axn_rstd(variance[j], epsilon));
    }
  }
}

/* The moments of a unit grow where its mean and variance will be. */
static axn_moments moments_of(const forward_run *run, const axn_place *unit) {
  return (axn_moments){run->mean + unit->cell, run->variance + unit->cell};
}

static void sum_unit(const forward_run *run, const axn_place *unit) {
  double mean[AXN_BLOCK_COLUMNS], m2[AXN_BLOCK_COLUMNS];
  const axn_moments total = moments_of(run, unit), block = {mean, m2};
  double count = sum_block(run, unit, 0, total);
  for (int64_t b = 1; b < run->geometry->sums.blocks; b++) {
    const double block_count = sum_block(run, unit, b, block);
    axn_merge_moments(total, count, block, block_count, unit->columns);
    count += block_count;
  }
  finish_unit(run, unit);
}

/* Where the moments of a block wait for the others of its unit. */
static axn_moments stored_moments(const forward_run *run, int64_t index) {
  const int64_t columns = run->geometry->partition.unit_columns;
  double *start = run->blocks + index * columns * 2;
  return (axn_moments){start, start + columns};
}

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const int64_t blocks = run->geometry->sums.blocks;
  for (int64_t i = begin; i < end; i++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, i / blocks);
    sum_block(run, &unit, i % blocks, stored_moments(run, i));
  }
}

static double count_of_block(const axn_geometry *geometry, int64_t index, int64_t columns) {
  const axn_place at = axn_block_at(&geometry->sums, index, columns);
  return (double)(geometry->partition.column_family ? at.rows : at.rows * at.columns);
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const int64_t blocks = run->geometry->sums.blocks;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    const axn_moments total = moments_of(run, &unit), first = stored_moments(run, u * blocks);
    memcpy(total.mean, first.mean, (size_t)unit.columns * sizeof(double));
    memcpy(total.m2, first.m2, (size_t)unit.columns * sizeof(double));
    double count = count_of_block(run->geometry, 0, unit.columns);
    for (int64_t b = 1; b < blocks; b++) {
      const double block_count = count_of_block(run->geometry, b, unit.columns);
      axn_merge_moments(total, count, stored_moments(run, u * blocks + b), block_count,
                        unit.columns);
      count += block_count;
    }
    finish_unit(run, &unit);
  }
}

/* ---- apply ---- */

/* What the statistics of one unit do to x, in the kernels' terms. */
typedef struct unit_transform {
  double mean[AXN_BLOCK_COLUMNS], rstd[AXN_BLOCK_COLUMNS];
  float mean_high[AXN_BLOCK_COLUMNS]; /* the mean as float */
  double mean_low[AXN_BLOCK_COLUMNS]; /* the rest of it */
  bool wide;                          /* some column needs float64 */
} unit_transform;

static void prepare_unit(const forward_run *run, const axn_place *unit, unit_transform *transform) {
  transform->wide = false;
  for (int64_t j = 0; j < unit->columns; j++) {
    const int64_t at = unit->cell + j;
    const bool given = run->given_mean != NULL;
    const double mean = given ? (double)run->given_mean[at] : run->mean[at];
    const double variance = given ? (double)run->given_variance[at] : run->variance[at];
    transform->mean[j] = mean;
    transform->rstd[j] = axn_rstd(variance, run->plan->desc.epsilon);
    transform->mean_high[j] = (float)mean;
    transform->mean_low[j] = mean - (double)transform->mean_high[j];
    transform->wide |= axn_needs_wide(mean, transform->rstd[j]);
  }
}

static double value_or(const float *values, int64_t at, double otherwise) {
  return values != NULL ? (double)values[at] : otherwise;
}

/* Multiplier and offset of column or row i: scale, shift and the low part of the mean folded in.
 * False where float32 does not hold them. */
static bool fold(const forward_run *run, const unit_transform *transform, int64_t column,
                 int64_t parameter, float *multiplier, float *offset) {
  const double factor = transform->rstd[column] * value_or(run->scale, parameter, 1);
  *multiplier = (float)factor;
  /* The rounded multiplier, as it is what the rest of the mean meets in the kernel. */
  *offset = (float)(value_or(run->shift, parameter, 0) -
                    transform->mean_low[column] * (double)*multiplier);
  return isfinite(*multiplier) && isfinite(*offset);
}

static void apply_wide(const forward_run *run, const unit_transform *transform,
                       const axn_apply_block *block, int64_t column, int64_t parameter) {
  const axn_nest *nest = &run->geometry->apply;
  const bool columns = run->geometry->partition.column_family;
  const axn_wide_block wide = {.x = block->x + column * block->column_stride,
                               .out = block->y + column * block->column_stride,
                               .rows = block->rows,
                               .columns = columns ? 1 : block->columns,
                               .row_stride = block->row_stride,
                               .scale = axn_parameters_at(run->scale, parameter),
                               .shift = axn_parameters_at(run->shift, parameter),
                               .parameter_row = nest->row.parameter,
                               .parameter_column = nest->column.parameter,
                               .mean = transform->mean[column],
                               .rstd = transform->rstd[column]};
  axn_wide_apply(&wide);
}

/* A block of columns of which some need float64 goes one column at a time. */
static void apply_column_by_column(const forward_run *run, const unit_transform *transform,
                                   const axn_apply_block *block, int64_t parameter) {
  const int64_t stride = run->geometry->apply.column.parameter;
  for (int64_t j = 0; j < block->columns; j++) {
    const bool folded = isfinite(block->multiplier[j]) && isfinite(block->offset[j]);
    if (!folded || axn_needs_wide(transform->mean[j], transform->rstd[j])) {
      apply_wide(run, transform, block, j, parameter + j * stride);
      continue;
    }
    axn_apply_block column = *block;
    column.x += j * block->column_stride;
    column.y += j * block->column_stride;
    column.columns = 1;
    column.mean += j;
    column.multiplier += j;
    column.offset += j;
    run->plan->kernels->apply[AXN_FORM_COLUMNS](&column);
  }
}

static void apply_block(const forward_run *run, const axn_place *unit,
                        const unit_transform *transform, int64_t index) {
  const axn_geometry *geometry = run->geometry;
  const axn_nest *nest = &geometry->apply;
  const axn_place at = axn_block_at(nest, index, unit->columns);
  const int64_t start = unit->tensor + at.tensor, parameter = unit->parameter + at.parameter;
  float multiplier[AXN_BLOCK_FACTORS], offset[AXN_BLOCK_FACTORS];
  axn_apply_block block = {.x = run->x + start,
                           .y = run->y + start,
                           .rows = at.rows,
                           .columns = at.columns,
                           .row_stride = nest->row.tensor,
                           .column_stride = nest->column.tensor,
                           .mean = transform->mean_high,
                           .multiplier = multiplier,
                           .offset = offset,
                           .streams = run->streams};
  const bool columns = geometry->form == AXN_FORM_COLUMNS;
  bool wide = transform->wide;
  if (geometry->form == AXN_FORM_WEIGHTED) {
    multiplier[0] = (float)transform->rstd[0];
    /* The rounded multiplier, as it is what the rest of the mean meets in the kernel. */
    offset[0] = (float)(-transform->mean_low[0] * (double)multiplier[0]);
    block.scale = axn_parameters_at(run->scale, parameter);
    block.shift = axn_parameters_at(run->shift, parameter);
  } else {
    const int64_t count = columns ? at.columns : at.rows;
    const int64_t stride = columns ? nest->column.parameter : nest->row.parameter;
    for (int64_t i = 0; i < count; i++) {
      wide |= !fold(run, transform, columns ? i : 0, parameter + i * stride, &multiplier[i],
                    &offset[i]);
    }
  }
  if (!wide) {
    run->plan->kernels->apply[geometry->form](&block);
  } else if (columns) {
    apply_column_by_column(run, transform, &block, parameter);
  } else {
    apply_wide(run, transform, &block, 0, parameter);
  }
}

/* Applies the blocks from `begin` to `end`, counted through all units. */
static void apply_blocks(const forward_run *run, int64_t begin, int64_t end) {
  const int64_t blocks = run->geometry->apply.blocks;
  unit_transform transform;
  axn_place unit = {0};
  for (int64_t i = begin; i < end; i++) {
    if (i == begin || i % blocks == 0) {
      unit = axn_unit_at(&run->geometry->partition, i / blocks);
      prepare_unit(run, &unit, &transform);
    }
    apply_block(run, &unit, &transform, i % blocks);
  }
}

static void apply_blocks_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  apply_blocks(run, begin, end);
  run->plan->kernels->finish_streams();
}

static void whole_units_task(void *data, int64_t begin, int64_t end) {
  const forward_run *run = data;
  const int64_t blocks = run->geometry->apply.blocks;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    sum_unit(run, &unit);
    apply_blocks(run, u * blocks, (u + 1) * blocks);
  }
  run->plan->kernels->finish_streams();
}

static void run_forward(forward_run *run) {
  const axn_geometry *geometry = run->geometry;
  run->streams = axn_streams_output(&run->runner, run->plan->elements, run->x == run->y);
  const int64_t units = geometry->partition.units;
  if (run->given_mean == NULL) {
    if (!axn_split_units(&run->runner, &geometry->partition, &geometry->sums)) {
      axn_run(&run->runner, units, whole_units_task, run);
      return;
    }
    axn_run(&run->runner, units * geometry->sums.blocks, sum_blocks_task, run);
    axn_run(&run->runner, units, merge_blocks_task, run);
  }
  axn_run(&run->runner, units * geometry->apply.blocks, apply_blocks_task, run);
}

/* ---- the public functions ---- */

static void update_running(const axn_plan *plan, const axn_training_args *args,
                           const forward_run *run) {
  const axn_running running = {args->running_mean, args->running_variance, args->batch_count,
                               plan->running};
  const axn_partition *partition = &plan->own.partition;
  if (running.mean != NULL) {
    axn_update_running(&plan->desc, running, run->mean, run->variance,
                       partition->cells / plan->running, partition->values);
  } else if (running.batch_count != NULL) {
    ++*running.batch_count;
  }
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
                       .scale = args.scale,
                       .shift = args.shift,
                       .mean_out = args.mean,
                       .rstd_out = args.rstd};
    place_workspace(&run, args.workspace);
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
                       .scale = args.scale,
                       .shift = args.shift,
                       .given_mean = args.running_mean,
                       .given_variance = args.running_variance};
    if (!given) place_workspace(&run, args.workspace);
    run_forward(&run);
  }
  return axn_succeed(error);
}
