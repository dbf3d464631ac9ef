/* SPDX-License-Identifier: MIT */
/* Backward: gradients of scale and shift. */
#include "backward.h"

#include <math.h>
#include <string.h>

#include "moments.h"

void axn_write_parameters(const axn_backward_run *run, int64_t first, int64_t count,
                          const double *scale, const double *shift) {
  for (int64_t p = 0; p < count; p++) {
    if (run->grad_scale != NULL) run->grad_scale[first + p] = (float)scale[p];
    if (run->grad_shift != NULL) run->grad_shift[first + p] = (float)shift[p];
  }
}

/* Sums the segments of all units, always in the same order. */
void axn_parameters_from_segments(const axn_backward_run *run) {
  const axn_partition *partition = &run->geometry->partition;
  const int64_t parameters = run->plan->parameters;
  const int64_t stride = partition->column.parameter;
  memset(run->parameter_scale, 0, (size_t)parameters * sizeof(double));
  memset(run->parameter_shift, 0, (size_t)parameters * sizeof(double));
  for (int64_t u = 0; u < partition->units; u++) {
    const axn_place unit = axn_unit_at(partition, u);
    for (int64_t s = 0; s < partition->segments; s++) {
      const int64_t start = axn_segment_at(run, u, s);
      const int64_t parameter = unit.parameter + axn_segment_parameter(partition, s);
      for (int64_t j = 0; j < unit.columns; j++) {
        run->parameter_scale[parameter + j * stride] += run->segment_scale[start + j];
        run->parameter_shift[parameter + j * stride] += run->segment_shift[start + j];
      }
    }
  }
  axn_write_parameters(run, 0, parameters, run->parameter_scale, run->parameter_shift);
}

/* The statistics that the rows of a block belong to. */
typedef struct row_statistics {
  float mean[AXN_BLOCK_ROWS], rstd[AXN_BLOCK_ROWS], centre[AXN_BLOCK_ROWS];
  bool wide;
} row_statistics;

static void read_row_statistics(const axn_backward_run *run, int64_t cell, int64_t stride,
                                int64_t rows, row_statistics *statistics) {
  statistics->wide = false;
  for (int64_t r = 0; r < rows; r++) {
    const int64_t at = cell + r * stride;
    statistics->mean[r] = run->mean[at];
    statistics->rstd[r] = run->rstd[at];
    statistics->centre[r] = (float)run->means.centred[at];
    statistics->wide |= axn_needs_wide((double)run->mean[at], (double)run->rstd[at]);
  }
}

static void parameters_row_by_row(const axn_backward_run *run, const axn_parameter_block *block,
                                  int64_t cell, int64_t stride, bool all_wide) {
  for (int64_t r = 0; r < block->rows; r++) {
    axn_parameter_block row = *block;
    row.rows = 1;
    row.x += r * block->row_stride;
    row.grad_y += r * block->row_stride;
    row.mean += r;
    row.rstd += r;
    row.centre += r;
    if (!all_wide && !axn_needs_wide((double)row.mean[0], (double)row.rstd[0])) {
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

void axn_add_parameter_rows(const axn_backward_run *run, const axn_parameter_rows *rows,
                            bool all_wide, double *scale, double *shift) {
  row_statistics statistics;
  const axn_parameter_block block = {.x = run->x + rows->tensor,
                                     .grad_y = run->grad_y + rows->tensor,
                                     .rows = rows->rows,
                                     .columns = rows->columns,
                                     .row_stride = rows->row_stride,
                                     .mean = statistics.mean,
                                     .rstd = statistics.rstd,
                                     .centre = statistics.centre,
                                     .grad_scale = scale,
                                     .grad_shift = shift};
  read_row_statistics(run, rows->cell, rows->cell_stride, rows->rows, &statistics);
  if (all_wide || statistics.wide) {
    parameters_row_by_row(run, &block, rows->cell, rows->cell_stride, all_wide);
  } else {
    run->plan->kernels->parameters(&block);
  }
}

/* The parameters of one unit of theirs. */
static void sum_parameters(const axn_backward_run *run, const axn_place *unit, bool all_wide,
                           double *scale, double *shift) {
  const axn_nest *nest = &run->plan->parameter_blocks;
  for (int64_t b = 0; b < nest->blocks; b++) {
    const axn_place at = axn_block_at(nest, b, unit->columns);
    const axn_parameter_rows rows = {.tensor = unit->tensor + at.tensor,
                                     .cell = unit->parameter + at.parameter,
                                     .rows = at.rows,
                                     .columns = unit->columns,
                                     .row_stride = nest->row.tensor,
                                     .cell_stride = nest->row.parameter};
    axn_add_parameter_rows(run, &rows, all_wide, scale, shift);
  }
}

/* Puts the exact sums where the others are not finite: a few terms may have overflowed in float32 where
 * the whole does not. True if there is any such sum, without `exact`. */
static bool mend(double *sums, const double *exact, int64_t count) {
  bool any = false;
  for (int64_t i = 0; i < count; i++) {
    if (isfinite(sums[i])) continue;
    any = true;
    if (exact != NULL) sums[i] = exact[i];
  }
  return any;
}

static void parameters_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->plan->parameter_cells, u);
    double scale[AXN_BLOCK_COLUMNS] = {0}, shift[AXN_BLOCK_COLUMNS] = {0};
    sum_parameters(run, &unit, false, scale, shift);
    if (mend(scale, NULL, unit.columns) || mend(shift, NULL, unit.columns)) {
      double exact_scale[AXN_BLOCK_COLUMNS] = {0}, exact_shift[AXN_BLOCK_COLUMNS] = {0};
      sum_parameters(run, &unit, true, exact_scale, exact_shift);
      mend(scale, exact_scale, unit.columns);
      mend(shift, exact_shift, unit.columns);
    }
    axn_write_parameters(run, unit.cell, unit.columns, scale, shift);
  }
}

void axn_parameters_down_columns(axn_backward_run *run) {
  axn_run(&run->runner, run->plan->parameter_cells.units, parameters_task, run);
}
