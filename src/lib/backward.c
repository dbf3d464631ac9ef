/* SPDX-License-Identifier: MIT */
/*
 * The backward schedule. With e = (x - mean) * rstd and g = grad_y * scale, a statistic needs the
 * sums of e, g and g * e over its values, and then
 *
 *     grad_x = rstd * (g - mean(g) - (e - mean(e)) * mean(g * (e - mean(e))))
 *
 * mean(e) is what the mean, saved as float, was off by; the first pass recovers it. The gradients
 * of scale and shift are sums of grad_y * (e - mean(e)) and of grad_y over all that share a
 * parameter:
 *
 * - where a parameter stays the same along the columns or has one of its own per column, they fall
 *   out of the first pass, as *segments*: a unit's sums for one parameter;
 * - where it changes along the columns of one statistic (layer normalization per element), a pass
 * of its own sums down the columns, before grad_x may overwrite grad_y.
 */
#include <stddef.h>
#include <string.h>

#include "arguments.h"
#include "error.h"
#include "kernels/wide.h"
#include "moments.h"
#include "plan.h"

typedef struct backward_run {
  const axn_plan *plan;
  const axn_geometry *geometry;
  axn_runner runner;
  bool frozen; /* statistics are constants */
  const float *x, *grad_y, *scale;
  const float *mean, *rstd;                  /* of x; or */
  const float *given_mean, *given_variance;  /* frozen */
  float *grad_x, *grad_scale, *grad_shift;   /* each may be null */
  axn_gradient_sums means;                   /* per statistic: of e, of g, of g * (e - mean(e)) */
  double *segment_scale, *segment_shift;     /* per unit, segment and column */
  double *parameter_scale, *parameter_shift; /* per parameter, summed over segments */
  double *blocks;                            /* sums of blocks, where units are split */
} backward_run;

/* ---- workspace ---- */

static int64_t segment_doubles(const axn_geometry *geometry) {
  if (geometry->form == AXN_FORM_WEIGHTED) return 0;
  return geometry->partition.units * geometry->partition.segments *
         geometry->partition.unit_columns;
}

static int64_t block_doubles(const axn_geometry *geometry) {
  if (geometry->terms.blocks == 1) return 0;
  return geometry->partition.units * geometry->terms.blocks * geometry->partition.unit_columns * 3;
}

int64_t axn_backward_doubles(const axn_plan *plan, const axn_geometry *geometry) {
  return 3 * geometry->partition.cells + 2 * segment_doubles(geometry) + 2 * plan->parameters +
         block_doubles(geometry);
}

static void place_workspace(backward_run *run, void *workspace) {
  const int64_t cells = run->geometry->partition.cells, parameters = run->plan->parameters;
  const int64_t segments = segment_doubles(run->geometry);
  double *start = axn_workspace_start(workspace);
  run->means = (axn_gradient_sums){start, start + cells, start + 2 * cells};
  run->segment_scale = start + 3 * cells;
  run->segment_shift = run->segment_scale + segments;
  run->parameter_scale = run->segment_shift + segments;
  run->parameter_shift = run->parameter_scale + parameters;
  run->blocks = run->parameter_shift + parameters;
}

/* ---- the statistics of a unit, as the kernels want them ---- */

typedef struct unit_statistics {
  double exact_rstd[AXN_BLOCK_COLUMNS];
  float mean[AXN_BLOCK_COLUMNS], rstd[AXN_BLOCK_COLUMNS];
  bool wide; /* some column needs float64 */
} unit_statistics;

static double rstd_at(const backward_run *run, int64_t cell) {
  if (!run->frozen) return (double)run->rstd[cell];
  return axn_rstd((double)run->given_variance[cell], run->plan->desc.epsilon);
}

static float mean_at(const backward_run *run, int64_t cell) {
  return run->frozen ? run->given_mean[cell] : run->mean[cell];
}

static void read_statistics(const backward_run *run, const axn_place *unit,
                            unit_statistics *statistics) {
  statistics->wide = false;
  for (int64_t j = 0; j < unit->columns; j++) {
    statistics->exact_rstd[j] = rstd_at(run, unit->cell + j);
    statistics->mean[j] = mean_at(run, unit->cell + j);
    statistics->rstd[j] = axn_narrow_rstd(statistics->exact_rstd[j]);
    statistics->wide |= axn_needs_wide(statistics->exact_rstd[j]);
  }
}

static const float *from(const float *values, int64_t at) {
  return values != NULL ? values + at : NULL;
}

static double scale_at(const backward_run *run, int64_t parameter) {
  return run->scale != NULL ? (double)run->scale[parameter] : 1;
}

/* The same block for the float64 kernels; one column of it in the column family. */
static axn_wide_block widen(const backward_run *run, const axn_nest *nest,
                            const unit_statistics *statistics, const axn_gradient_block *block,
                            int64_t column) {
  const bool columns = run->geometry->partition.column_family;
  return (axn_wide_block){.x = block->x + column * block->column_stride,
                          .grad_y = block->grad_y + column * block->column_stride,
                          .rows = block->rows,
                          .columns = columns ? 1 : block->columns,
                          .row_stride = block->row_stride,
                          .parameter_row = nest->row.parameter,
                          .parameter_column = nest->column.parameter,
                          .mean = (double)statistics->mean[column],
                          .rstd = statistics->exact_rstd[column]};
}

static axn_gradient_block block_of(const backward_run *run, const axn_nest *nest,
                                   const axn_place *unit, const axn_place *at,
                                   const unit_statistics *statistics) {
  const int64_t start = unit->tensor + at->tensor;
  return (axn_gradient_block){.x = run->x + start,
                              .grad_y = run->grad_y + start,
                              .rows = at->rows,
                              .columns = at->columns,
                              .row_stride = nest->row.tensor,
                              .column_stride = nest->column.tensor,
                              .mean = statistics->mean,
                              .rstd = statistics->rstd,
                              .scale = from(run->scale, unit->parameter + at->parameter)};
}

/* ---- first pass: sums ---- */

static void sum_block(const backward_run *run, const axn_place *unit,
                      const unit_statistics *statistics, int64_t index, axn_gradient_sums sums) {
  const axn_geometry *geometry = run->geometry;
  const axn_nest *nest = &geometry->terms;
  const axn_place at = axn_block_at(nest, index, unit->columns);
  const axn_gradient_block block = block_of(run, nest, unit, &at, statistics);
  run->plan->kernels->gradient_sums[geometry->form](&block, sums);
  if (!statistics->wide) return;
  for (int64_t j = 0; j < unit->columns; j++) {
    if (!axn_needs_wide(statistics->exact_rstd[j])) continue;
    axn_wide_block wide = widen(run, nest, statistics, &block, j);
    if (geometry->form == AXN_FORM_WEIGHTED) wide.scale = block.scale;
    axn_wide_gradient_sums(&wide, &sums.centred[j], &sums.gradient[j], &sums.product[j]);
  }
}

static axn_gradient_sums means_of(const backward_run *run, const axn_place *unit) {
  return (axn_gradient_sums){run->means.centred + unit->cell, run->means.gradient + unit->cell,
                             run->means.product + unit->cell};
}

static int64_t first_segment(const backward_run *run, int64_t unit_index) {
  return unit_index * run->geometry->partition.segments * run->geometry->partition.unit_columns;
}

static void clear_doubles(double *values, int64_t count) {
  memset(values, 0, (size_t)count * sizeof *values);
}

static void start_unit(const backward_run *run, const axn_place *unit, int64_t unit_index) {
  const axn_gradient_sums total = means_of(run, unit);
  clear_doubles(total.centred, unit->columns);
  clear_doubles(total.gradient, unit->columns);
  clear_doubles(total.product, unit->columns);
  if (run->geometry->form == AXN_FORM_WEIGHTED) return;
  const int64_t start = first_segment(run, unit_index);
  const int64_t count = first_segment(run, unit_index + 1) - start;
  clear_doubles(run->segment_scale + start, count);
  clear_doubles(run->segment_shift + start, count);
}

/* Adds the sums of block `index` to those of its unit, and to its segment. */
static void add_block(const backward_run *run, const axn_place *unit, int64_t unit_index,
                      int64_t index, axn_gradient_sums sums) {
  const axn_geometry *geometry = run->geometry;
  const axn_nest *nest = &geometry->terms;
  const axn_place at = axn_block_at(nest, index, unit->columns);
  const axn_gradient_sums total = means_of(run, unit);
  const bool weighted = geometry->form == AXN_FORM_WEIGHTED;
  const int64_t stride = geometry->form == AXN_FORM_COLUMNS ? nest->column.parameter : 0;
  const int64_t segment =
      first_segment(run, unit_index) + at.segment * geometry->partition.unit_columns;
  for (int64_t j = 0; j < unit->columns; j++) {
    const double scale = weighted ? 1 : scale_at(run, unit->parameter + at.parameter + j * stride);
    total.centred[j] += sums.centred[j];
    total.gradient[j] += sums.gradient[j] * scale;
    total.product[j] += sums.product[j] * scale;
    if (weighted) continue;
    run->segment_scale[segment + j] += sums.product[j];
    run->segment_shift[segment + j] += sums.gradient[j];
  }
}

/* Turns sums into means, and takes mean(e) out of every product. */
static void finish_unit(const backward_run *run, const axn_place *unit, int64_t unit_index) {
  const axn_partition *partition = &run->geometry->partition;
  const axn_gradient_sums means = means_of(run, unit);
  const double count = (double)partition->values;
  for (int64_t j = 0; j < unit->columns; j++) {
    means.centred[j] = run->frozen ? 0 : means.centred[j] / count;
    means.gradient[j] /= count;
    means.product[j] = means.product[j] / count - means.centred[j] * means.gradient[j];
  }
  if (run->geometry->form == AXN_FORM_WEIGHTED) return;
  for (int64_t s = 0; s < partition->segments; s++) {
    const int64_t start = first_segment(run, unit_index) + s * partition->unit_columns;
    for (int64_t j = 0; j < unit->columns; j++) {
      run->segment_scale[start + j] -= means.centred[j] * run->segment_shift[start + j];
    }
  }
}

static void sum_unit(const backward_run *run, const axn_place *unit, int64_t unit_index) {
  double centred[AXN_BLOCK_COLUMNS], gradient[AXN_BLOCK_COLUMNS], product[AXN_BLOCK_COLUMNS];
  const axn_gradient_sums sums = {centred, gradient, product};
  unit_statistics statistics;
  read_statistics(run, unit, &statistics);
  start_unit(run, unit, unit_index);
  for (int64_t b = 0; b < run->geometry->terms.blocks; b++) {
    sum_block(run, unit, &statistics, b, sums);
    add_block(run, unit, unit_index, b, sums);
  }
  finish_unit(run, unit, unit_index);
}

static axn_gradient_sums stored_sums(const backward_run *run, int64_t index) {
  const int64_t columns = run->geometry->partition.unit_columns;
  double *start = run->blocks + index * columns * 3;
  return (axn_gradient_sums){start, start + columns, start + 2 * columns};
}

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const backward_run *run = data;
  const int64_t blocks = run->geometry->terms.blocks;
  unit_statistics statistics;
  axn_place unit = {0};
  for (int64_t i = begin; i < end; i++) {
    if (i == begin || i % blocks == 0) {
      unit = axn_unit_at(&run->geometry->partition, i / blocks);
      read_statistics(run, &unit, &statistics);
    }
    sum_block(run, &unit, &statistics, i % blocks, stored_sums(run, i));
  }
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const backward_run *run = data;
  const int64_t blocks = run->geometry->terms.blocks;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    start_unit(run, &unit, u);
    for (int64_t b = 0; b < blocks; b++) {
      add_block(run, &unit, u, b, stored_sums(run, u * blocks + b));
    }
    finish_unit(run, &unit, u);
  }
}

/* ---- second pass: gradient of x ---- */

/* What multiplies grad_y, e and 1 in a block. */
typedef struct gradient_factors {
  float from_gradient[AXN_BLOCK_FACTORS], from_value[AXN_BLOCK_COLUMNS],
      constant[AXN_BLOCK_COLUMNS];
} gradient_factors;

static void find_factors(const backward_run *run, const axn_place *unit, const axn_place *at,
                         const unit_statistics *statistics, gradient_factors *factors) {
  const axn_geometry *geometry = run->geometry;
  const axn_gradient_sums means = means_of(run, unit);
  for (int64_t j = 0; j < unit->columns; j++) {
    const double rstd = (double)statistics->rstd[j];
    factors->from_value[j] = (float)(-rstd * means.product[j]);
    factors->constant[j] =
        (float)(rstd * (means.centred[j] * means.product[j] - means.gradient[j]));
  }
  if (geometry->form == AXN_FORM_WEIGHTED) {
    factors->from_gradient[0] = statistics->rstd[0];
    return;
  }
  const bool columns = geometry->form == AXN_FORM_COLUMNS;
  const int64_t count = columns ? at->columns : at->rows;
  const int64_t stride = columns ? geometry->apply.column.parameter : geometry->apply.row.parameter;
  for (int64_t i = 0; i < count; i++) {
    const double rstd = (double)statistics->rstd[columns ? i : 0];
    const int64_t parameter = unit->parameter + at->parameter + i * stride;
    factors->from_gradient[i] = (float)(rstd * scale_at(run, parameter));
  }
}

/* Constant statistics: grad_x = grad_y * rstd * scale, which is an apply with mean and offset 0. */
static void apply_frozen(const backward_run *run, const axn_gradient_block *block) {
  static const float zeros[AXN_BLOCK_FACTORS] = {0};
  const axn_apply_block apply = {.x = block->grad_y,
                                 .y = block->grad_x,
                                 .rows = block->rows,
                                 .columns = block->columns,
                                 .row_stride = block->row_stride,
                                 .column_stride = block->column_stride,
                                 .mean = zeros,
                                 .multiplier = block->from_gradient,
                                 .offset = zeros};
  run->plan->kernels->apply[run->geometry->form](&apply);
}

static void gradient_wide(const backward_run *run, const axn_place *unit,
                          const unit_statistics *statistics, const axn_gradient_block *block,
                          int64_t column) {
  const axn_nest *nest = &run->geometry->apply;
  const axn_gradient_sums means = means_of(run, unit);
  axn_wide_block wide = widen(run, nest, statistics, block, column);
  wide.out = block->grad_x + column * block->column_stride;
  if (run->geometry->partition.column_family) {
    wide.scale = from(block->scale, column * nest->column.parameter);
  } else {
    wide.scale = block->scale;
  }
  axn_wide_gradient(&wide, means.centred[column], means.gradient[column], means.product[column]);
}

/* A block of columns of which some need float64 goes one column at a time. */
static void gradient_column_by_column(const backward_run *run, const axn_place *unit,
                                      const unit_statistics *statistics,
                                      const axn_gradient_block *block) {
  for (int64_t j = 0; j < block->columns; j++) {
    if (axn_needs_wide(statistics->exact_rstd[j])) {
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

static void gradient_of_block(const backward_run *run, const axn_place *unit,
                              const unit_statistics *statistics, int64_t index) {
  const axn_geometry *geometry = run->geometry;
  const axn_place at = axn_block_at(&geometry->apply, index, unit->columns);
  gradient_factors factors;
  axn_gradient_block block = block_of(run, &geometry->apply, unit, &at, statistics);
  block.grad_x = run->grad_x + unit->tensor + at.tensor;
  block.from_gradient = factors.from_gradient;
  block.from_value = factors.from_value;
  block.constant = factors.constant;
  find_factors(run, unit, &at, statistics, &factors);
  if (run->frozen) {
    apply_frozen(run, &block);
  } else if (!statistics->wide) {
    run->plan->kernels->gradient[geometry->form](&block);
  } else if (geometry->form == AXN_FORM_COLUMNS) {
    gradient_column_by_column(run, unit, statistics, &block);
  } else {
    gradient_wide(run, unit, statistics, &block, 0);
  }
}

/* The blocks from `begin` to `end`, counted through all units. */
static void gradient_of_blocks(const backward_run *run, int64_t begin, int64_t end) {
  const int64_t blocks = run->geometry->apply.blocks;
  unit_statistics statistics;
  axn_place unit = {0};
  for (int64_t i = begin; i < end; i++) {
    if (i == begin || i % blocks == 0) {
      unit = axn_unit_at(&run->geometry->partition, i / blocks);
      read_statistics(run, &unit, &statistics);
    }
    gradient_of_block(run, &unit, &statistics, i % blocks);
  }
}

static void gradient_task(void *data, int64_t begin, int64_t end) {
  gradient_of_blocks(data, begin, end);
}

static void sum_units_task(void *data, int64_t begin, int64_t end) {
  const backward_run *run = data;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    sum_unit(run, &unit, u);
  }
}

/* Sums a unit and takes its gradient while its values are still in cache. */
static void whole_units_task(void *data, int64_t begin, int64_t end) {
  const backward_run *run = data;
  const int64_t blocks = run->geometry->apply.blocks;
  for (int64_t u = begin; u < end; u++) {
    sum_units_task(data, u, u + 1);
    gradient_of_blocks(run, u * blocks, (u + 1) * blocks);
  }
}

/* ---- gradients of scale and shift ---- */

static void write_parameters(const backward_run *run, int64_t first, int64_t count,
                             const double *scale, const double *shift) {
  for (int64_t p = 0; p < count; p++) {
    if (run->grad_scale != NULL) run->grad_scale[first + p] = (float)scale[p];
    if (run->grad_shift != NULL) run->grad_shift[first + p] = (float)shift[p];
  }
}

/* Sums the segments of all units, always in the same order. */
static void parameters_from_segments(const backward_run *run) {
  const axn_partition *partition = &run->geometry->partition;
  const int64_t parameters = run->plan->parameters;
  const int64_t stride = partition->column.parameter;
  clear_doubles(run->parameter_scale, parameters);
  clear_doubles(run->parameter_shift, parameters);
  for (int64_t u = 0; u < partition->units; u++) {
    const axn_place unit = axn_unit_at(partition, u);
    for (int64_t s = 0; s < partition->segments; s++) {
      const int64_t start = first_segment(run, u) + s * partition->unit_columns;
      const int64_t parameter = unit.parameter + axn_segment_parameter(partition, s);
      for (int64_t j = 0; j < unit.columns; j++) {
        run->parameter_scale[parameter + j * stride] += run->segment_scale[start + j];
        run->parameter_shift[parameter + j * stride] += run->segment_shift[start + j];
      }
    }
  }
  write_parameters(run, 0, parameters, run->parameter_scale, run->parameter_shift);
}

/* The statistics that the rows of a block belong to. */
typedef struct row_statistics {
  float mean[AXN_BLOCK_ROWS], rstd[AXN_BLOCK_ROWS], centre[AXN_BLOCK_ROWS];
  bool wide;
} row_statistics;

static void read_row_statistics(const backward_run *run, int64_t cell, int64_t stride, int64_t rows,
                                row_statistics *statistics) {
  statistics->wide = false;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t at = cell + r * stride;
    statistics->mean[r] = run->mean[at];
    statistics->rstd[r] = run->rstd[at];
    statistics->centre[r] = (float)run->means.centred[at];
    statistics->wide |= axn_needs_wide((double)run->rstd[at]);
  }
}

static void parameters_row_by_row(const backward_run *run, const axn_parameter_block *block,
                                  int64_t cell, int64_t stride) {
  for (int64_t r = 0; r < block->rows; r++) {
    axn_parameter_block row = *block;
    row.rows = 1;
    row.x += r * block->row_stride;
    row.grad_y += r * block->row_stride;
    row.mean += r;
    row.rstd += r;
    row.centre += r;
    if (!axn_needs_wide((double)row.rstd[0])) {
      run->plan->kernels->parameters(&row);
      continue;
    }
    const axn_wide_block wide = {.x = row.x,
                                 .grad_y = row.grad_y,
                                 .rows = 1,
                                 .columns = row.columns,
                                 .mean = (double)row.mean[0],
                                 .rstd = (double)row.rstd[0]};
    axn_wide_parameters(&wide, run->means.centred[cell + r * stride], row.grad_scale,
                        row.grad_shift);
  }
}

/* Parameters that change along the columns, so many at a time as a unit of theirs has. */
static void parameters_task(void *data, int64_t begin, int64_t end) {
  const backward_run *run = data;
  const axn_partition *partition = &run->plan->parameter_cells;
  const axn_nest *nest = &run->plan->parameter_blocks;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(partition, u);
    double scale[AXN_BLOCK_COLUMNS] = {0}, shift[AXN_BLOCK_COLUMNS] = {0};
    for (int64_t b = 0; b < nest->blocks; b++) {
      const axn_place at = axn_block_at(nest, b, unit.columns);
      const int64_t start = unit.tensor + at.tensor;
      const int64_t cell = unit.parameter + at.parameter, stride = nest->row.parameter;
      row_statistics statistics;
      const axn_parameter_block block = {
          run->x + start,  run->grad_y + start, at.rows,           unit.columns, nest->row.tensor,
          statistics.mean, statistics.rstd,     statistics.centre, scale,        shift};
      read_row_statistics(run, cell, stride, at.rows, &statistics);
      if (statistics.wide) {
        parameters_row_by_row(run, &block, cell, stride);
      } else {
        run->plan->kernels->parameters(&block);
      }
    }
    write_parameters(run, unit.cell, unit.columns, scale, shift);
  }
}

/* ---- the whole ---- */

static void run_sums(backward_run *run) {
  const axn_geometry *geometry = run->geometry;
  const int64_t units = geometry->partition.units;
  if (!axn_split_units(&run->runner, &geometry->partition, &geometry->terms)) {
    axn_run(&run->runner, units, sum_units_task, run);
    return;
  }
  axn_run(&run->runner, units * geometry->terms.blocks, sum_blocks_task, run);
  axn_run(&run->runner, units, merge_blocks_task, run);
}

static void run_backward(backward_run *run) {
  const axn_geometry *geometry = run->geometry;
  const axn_partition *partition = &geometry->partition;
  const bool parameters = run->grad_scale != NULL || run->grad_shift != NULL;
  const bool own_pass = parameters && geometry->form == AXN_FORM_WEIGHTED;
  const bool sums = parameters || !run->frozen;
  const bool fused = sums && run->grad_x != NULL && !own_pass &&
                     !axn_split_units(&run->runner, partition, &geometry->terms);
  if (fused) {
    axn_run(&run->runner, partition->units, whole_units_task, run);
  } else if (sums) {
    run_sums(run);
  }
  if (own_pass) {
    axn_run(&run->runner, run->plan->parameter_cells.units, parameters_task, run);
  } else if (parameters) {
    parameters_from_segments(run);
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
  backward_run run = {.plan = plan,
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
