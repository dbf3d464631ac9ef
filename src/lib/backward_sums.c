/* SPDX-License-Identifier: MIT */
/* Backward, first pass: the sums that a statistic and its parameters need. */
#include "backward.h"

#include <math.h>
#include <string.h>

#include "moments.h"

static double rstd_at(const axn_backward_run *run, int64_t cell) {
  if (!run->frozen) return (double)run->rstd[cell];
  return axn_rstd((double)run->given_variance[cell], run->plan->desc.epsilon);
}

static float mean_at(const axn_backward_run *run, int64_t cell) {
  return run->frozen ? run->given_mean[cell] : run->mean[cell];
}

void axn_read_statistics(const axn_backward_run *run, const axn_place *unit,
                         axn_unit_statistics *statistics) {
  statistics->wide = false;
  for (int64_t j = 0; j < unit->columns; j++) {
    statistics->exact_rstd[j] = rstd_at(run, unit->cell + j);
    statistics->mean[j] = mean_at(run, unit->cell + j);
    statistics->rstd[j] = axn_narrow_rstd(statistics->exact_rstd[j]);
    statistics->wide |= axn_needs_wide((double)statistics->mean[j], statistics->exact_rstd[j]);
  }
}

axn_wide_block axn_widen(const axn_backward_run *run, const axn_nest *nest,
                         const axn_unit_statistics *statistics, const axn_gradient_block *block,
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

axn_gradient_block axn_gradient_block_at(const axn_backward_run *run, const axn_nest *nest,
                                         const axn_place *unit, const axn_place *at,
                                         const axn_unit_statistics *statistics) {
  const int64_t start = unit->tensor + at->tensor;
  return (axn_gradient_block){.x = run->x + start,
                              .grad_y = run->grad_y + start,
                              .rows = at->rows,
                              .columns = at->columns,
                              .row_stride = nest->row.tensor,
                              .column_stride = nest->column.tensor,
                              .mean = statistics->mean,
                              .rstd = statistics->rstd,
                              .scale =
                                  axn_parameters_at(run->scale, unit->parameter + at->parameter)};
}

/* A block's sums come in lines, each with one parameter: its columns, in the column family; its
 * rows, where short rows of one statistic differ in their parameters and so are taken side by side;
 * or the whole block is one line. */
static int64_t lines_of(const axn_backward_run *run, const axn_place *at) {
  const axn_geometry *geometry = run->geometry;
  if (geometry->form == AXN_FORM_COLUMNS) return at->columns;
  return geometry->rows_are_lines ? at->rows : 1;
}

static void mend(double *sum, double exact, bool replace) {
  if (replace || !isfinite(*sum)) *sum = exact;
}

/* Sums lines again in float64 whose statistic float32 does not hold, and single sums that a few terms
 * may have made overflow; the others keep their bits. */
static void mend_lines(const axn_backward_run *run, const axn_unit_statistics *statistics,
                       const axn_gradient_block *block, int64_t lines, axn_gradient_sums sums) {
  const axn_geometry *geometry = run->geometry;
  for (int64_t i = 0; i < lines; i++) {
    const int64_t column = geometry->form == AXN_FORM_COLUMNS ? i : 0;
    const bool replace =
        axn_needs_wide((double)statistics->mean[column], statistics->exact_rstd[column]);
    if (!replace && isfinite(sums.centred[i] + sums.gradient[i] + sums.product[i])) continue;
    axn_wide_block wide = axn_widen(run, &geometry->terms, statistics, block, column);
    if (geometry->form == AXN_FORM_WEIGHTED) wide.scale = block->scale;
    if (geometry->rows_are_lines) {
      wide.rows = 1;
      wide.x += i * block->row_stride;
      wide.grad_y += i * block->row_stride;
    }
    double centred, gradient, product;
    axn_wide_gradient_sums(&wide, &centred, &gradient, &product);
    mend(&sums.centred[i], centred, replace);
    mend(&sums.gradient[i], gradient, replace);
    mend(&sums.product[i], product, replace);
  }
}

/* The block with its rows as the kernels' columns, all with the same statistic. */
static void sum_rows(const axn_backward_run *run, const axn_gradient_block *block,
                     axn_gradient_sums sums) {
  float mean[AXN_TILE_COLUMNS], rstd[AXN_TILE_COLUMNS];
  axn_gradient_block turned = *block;
  for (int64_t r = 0; r < block->rows; r++) {
    mean[r] = block->mean[0];
    rstd[r] = block->rstd[0];
  }
  turned.mean = mean;
  turned.rstd = rstd;
  turned.rows = block->columns;
  turned.columns = block->rows;
  turned.row_stride = block->column_stride;
  turned.column_stride = block->row_stride;
  run->plan->kernels->gradient_sums[AXN_FORM_COLUMNS](&turned, sums);
}

static void sum_block(const axn_backward_run *run, const axn_place *unit,
                      const axn_unit_statistics *statistics, int64_t index,
                      axn_gradient_sums sums) {
  const axn_geometry *geometry = run->geometry;
  const axn_place at = axn_block_at(&geometry->terms, index, unit->columns);
  const axn_gradient_block block =
      axn_gradient_block_at(run, &geometry->terms, unit, &at, statistics);
  if (geometry->rows_are_lines) {
    sum_rows(run, &block, sums);
  } else {
    run->plan->kernels->gradient_sums[geometry->form](&block, sums);
  }
  mend_lines(run, statistics, &block, lines_of(run, &at), sums);
}

static void clear_doubles(double *values, int64_t count) {
  memset(values, 0, (size_t)count * sizeof *values);
}

static void start_unit(const axn_backward_run *run, const axn_place *unit, int64_t unit_index) {
  const axn_gradient_sums total = axn_means_of(run, unit);
  clear_doubles(total.centred, unit->columns);
  clear_doubles(total.gradient, unit->columns);
  clear_doubles(total.product, unit->columns);
  if (run->geometry->form == AXN_FORM_WEIGHTED) return;
  const int64_t start = axn_segment_at(run, unit_index, 0);
  const int64_t count = axn_segment_at(run, unit_index + 1, 0) - start;
  clear_doubles(run->segment_scale + start, count);
  clear_doubles(run->segment_shift + start, count);
}

/* Adds the sums of block `index` to those of its unit, and to its segments. */
static void add_block(const axn_backward_run *run, const axn_place *unit, int64_t unit_index,
                      int64_t index, axn_gradient_sums sums) {
  const axn_geometry *geometry = run->geometry;
  const axn_nest *nest = &geometry->terms;
  const axn_place at = axn_block_at(nest, index, unit->columns);
  const axn_gradient_sums total = axn_means_of(run, unit);
  const bool columns = geometry->form == AXN_FORM_COLUMNS;
  const bool weighted = geometry->form == AXN_FORM_WEIGHTED;
  const axn_axis *along = columns ? &nest->column : &nest->row;
  const int64_t segment = axn_segment_at(run, unit_index, at.segment);
  const int64_t segment_stride = columns ? 1 : along->segment, lines = lines_of(run, &at);
  for (int64_t i = 0; i < lines; i++) {
    const int64_t parameter = unit->parameter + at.parameter + i * along->parameter;
    const double scale = weighted ? 1 : axn_scale_at(run, parameter);
    const int64_t cell = columns ? i : 0;
    total.centred[cell] += sums.centred[i];
    total.gradient[cell] += sums.gradient[i] * scale;
    total.product[cell] += sums.product[i] * scale;
    if (weighted) continue;
    run->segment_scale[segment + i * segment_stride] += sums.product[i];
    run->segment_shift[segment + i * segment_stride] += sums.gradient[i];
  }
}

/* Turns sums into means, and takes mean(e) out of every product. */
static void finish_unit(const axn_backward_run *run, const axn_place *unit, int64_t unit_index) {
  const axn_partition *partition = &run->geometry->partition;
  const axn_gradient_sums means = axn_means_of(run, unit);
  const double count = (double)partition->values;
  for (int64_t j = 0; j < unit->columns; j++) {
    means.centred[j] = run->frozen ? 0 : means.centred[j] / count;
    means.gradient[j] /= count;
    means.product[j] = means.product[j] / count - means.centred[j] * means.gradient[j];
  }
  if (run->geometry->form == AXN_FORM_WEIGHTED) return;
  for (int64_t s = 0; s < partition->segments; s++) {
    const int64_t start = axn_segment_at(run, unit_index, s);
    for (int64_t j = 0; j < unit->columns; j++) {
      run->segment_scale[start + j] -= means.centred[j] * run->segment_shift[start + j];
    }
  }
}

void axn_sum_gradients(const axn_backward_run *run, const axn_place *unit, int64_t unit_index) {
  double centred[AXN_BLOCK_COLUMNS], gradient[AXN_BLOCK_COLUMNS], product[AXN_BLOCK_COLUMNS];
  const axn_gradient_sums sums = {centred, gradient, product};
  axn_unit_statistics statistics;
  axn_read_statistics(run, unit, &statistics);
  start_unit(run, unit, unit_index);
  for (int64_t b = 0; b < run->geometry->terms.blocks; b++) {
    sum_block(run, unit, &statistics, b, sums);
    add_block(run, unit, unit_index, b, sums);
  }
  finish_unit(run, unit, unit_index);
}

static axn_gradient_sums stored_sums(const axn_backward_run *run, int64_t index) {
  const int64_t lines = run->geometry->lines;
  double *start = run->blocks + index * lines * 3;
  return (axn_gradient_sums){start, start + lines, start + 2 * lines};
}

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  const int64_t blocks = run->geometry->terms.blocks;
  axn_unit_statistics statistics;
  axn_place unit = {0};
  for (int64_t i = begin; i < end; i++) {
    if (i == begin || i % blocks == 0) {
      unit = axn_unit_at(&run->geometry->partition, i / blocks);
      axn_read_statistics(run, &unit, &statistics);
    }
    sum_block(run, &unit, &statistics, i % blocks, stored_sums(run, i));
  }
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
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

static void sum_units_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    axn_sum_gradients(run, &unit, u);
  }
}

void axn_sum_all_gradients(axn_backward_run *run) {
  const axn_geometry *geometry = run->geometry;
  const int64_t units = geometry->partition.units;
  if (!axn_split_units(&run->runner, &geometry->partition, &geometry->terms)) {
    axn_run(&run->runner, units, sum_units_task, run);
    return;
  }
  axn_run(&run->runner, units * geometry->terms.blocks, sum_blocks_task, run);
  axn_run(&run->runner, units, merge_blocks_task, run);
}
