/* SPDX-License-Identifier: MIT */
/* Backward: gradients of scale and shift. */
#include "backward.h"

#include <math.h>
#include <string.h>

#include "kernels/range.h"

void axn_write_parameters(const axn_backward_run *run, int64_t first, int64_t count,
                          const double *scale, const double *shift) {
  void *const outputs[] = {run->grad_scale, run->grad_shift};
  const double *const sums[] = {scale, shift};
  for (int i = 0; i < 2; i++) {
    if (outputs[i] == NULL) continue;
    run->plan->parameter_kernels->store(outputs[i], first, sums[i], count);
  }
}

/* Neighbours are the usual case, and their loop becomes vectors. */
static void add_strided(double *restrict to, int64_t stride, const double *restrict from,
                        int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; i++) to[i] += from[i];
  } else {
    for (int64_t i = 0; i < count; i++) to[i * stride] += from[i];
  }
}

/* Adds a segment of some cells to the parameters from `parameter` on. */
static void add_segment(const axn_backward_run *run, int64_t start, int64_t parameter,
                        int64_t cells) {
  const axn_nest *nest = &run->geometry->lines;
  const int64_t lines = nest->lines_per_cell;
  /* Where a cell is one line, its cells are the lines of a single one. */
  const bool single = lines == 1;
  const int64_t count = single ? cells : lines, turns = single ? 1 : cells;
  const int64_t stride = single ? nest->cell_parameter : nest->line_parameter;
  for (int64_t c = 0; c < turns; c++) {
    const int64_t at = parameter + c * nest->cell_parameter, from = start + c * count;
    add_strided(run->parameter_scale + at, stride, run->segment_scale + from, count);
    add_strided(run->parameter_shift + at, stride, run->segment_shift + from, count);
  }
}

/* Sums the segments of all units, always in the same order. */
void axn_parameters_from_segments(const axn_backward_run *run) {
  const axn_partition *partition = &run->geometry->partition;
  const axn_nest *nest = &run->geometry->lines;
  const int64_t parameters = run->plan->parameters;
  memset(run->parameter_scale, 0, (size_t)parameters * sizeof(double));
  memset(run->parameter_shift, 0, (size_t)parameters * sizeof(double));
  for (int64_t u = 0; u < partition->units; u++) {
    const axn_place unit = axn_unit_at(partition, u);
    for (int64_t s = 0; s < nest->segments; s++) {
      add_segment(run, axn_segment_at(run, u, s), unit.parameter + axn_segment_parameter(nest, s),
                  unit.cells);
    }
  }
  axn_write_parameters(run, 0, parameters, run->parameter_scale, run->parameter_shift);
}

/* Statistics, as floats: of the rows of a block, or of the elements of a run. */
typedef struct some_statistics {
  AXN_LINES_OF_CACHE float mean[AXN_STATISTICS_VALUES];
  AXN_LINES_OF_CACHE float rstd[AXN_STATISTICS_VALUES];
  AXN_LINES_OF_CACHE float centre[AXN_STATISTICS_VALUES];
  bool wide; /* float32 has no room for some */
} some_statistics;

_Static_assert(AXN_BLOCK_ROWS <= AXN_STATISTICS_VALUES, "room for the rows of a block");

static double mean_at(const axn_backward_run *run, int64_t cell) {
  return run->mean != NULL ? axn_real_at(run->mean, cell, run->plan->doubles) : 0;
}

static double rstd_at(const axn_backward_run *run, int64_t cell) {
  return axn_real_at(run->rstd, cell, run->plan->doubles);
}

static void read_some_statistics(const axn_backward_run *run, int64_t cell, int64_t stride,
                                 int64_t count, some_statistics *statistics) {
  int64_t wide = run->plan->doubles;
  for (int64_t i = 0; i < count; i++) {
    const int64_t at = cell + i * stride;
    const double mean = mean_at(run, at), rstd = rstd_at(run, at);
    statistics->mean[i] = (float)mean;
    statistics->rstd[i] = (float)rstd;
    statistics->centre[i] = (float)run->means.centred[at];
    wide |= axn_needs_wide(mean, rstd);
  }
  statistics->wide = wide != 0;
}

static void parameters_row_by_row(const axn_backward_run *run, const axn_parameter_block *block,
                                  int64_t cell, int64_t stride) {
  const size_t size = run->plan->element_size;
  for (int64_t r = 0; r < block->rows; r++) {
    const double mean = mean_at(run, cell + r * stride), rstd = rstd_at(run, cell + r * stride);
    axn_parameter_block row = *block;
    row.rows = 1;
    row.x = axn_input_at(block->x, r * block->row_stride, size);
    row.grad_y = axn_input_at(block->grad_y, r * block->grad_y_row_stride, size);
    row.mean += r;
    row.rstd += r;
    row.centre += r;
    if (!run->plan->doubles && !axn_needs_wide(mean, rstd)) {
      run->plan->kernels->parameters(&row);
      continue;
    }
    const axn_wide_block wide = {.x = row.x,
                                 .grad_y = row.grad_y,
                                 .rows = 1,
                                 .columns = row.columns,
                                 .mean = mean,
                                 .rstd = rstd};
    run->plan->wide->parameters(&wide, run->means.centred[cell + r * stride], row.grad_scale,
                                row.grad_shift);
  }
}

void axn_add_parameter_rows(const axn_backward_run *run, const axn_parameter_rows *rows,
                            double *scale, double *shift) {
  some_statistics statistics;
  const size_t size = run->plan->element_size;
  const axn_side x = run->x_side, grad_y = run->gradient_side;
  const axn_parameter_block block = {.x = axn_input_at(run->x, rows->tensor[x], size),
                                     .grad_y =
                                         axn_input_at(run->grad_y, rows->tensor[grad_y], size),
                                     .rows = rows->rows,
                                     .columns = rows->columns,
                                     .row_stride = rows->row_stride[x],
                                     .grad_y_row_stride = rows->row_stride[grad_y],
                                     .mean = statistics.mean,
                                     .rstd = statistics.rstd,
                                     .centre = statistics.centre,
                                     .grad_scale = scale,
                                     .grad_shift = shift};
  read_some_statistics(run, rows->cell, rows->cell_stride, rows->rows, &statistics);
  if (statistics.wide) {
    parameters_row_by_row(run, &block, rows->cell, rows->cell_stride);
  } else {
    run->plan->kernels->parameters(&block);
  }
}

static void clear_sums(double *scale, double *shift, int64_t count) {
  memset(scale, 0, (size_t)count * sizeof *scale);
  memset(shift, 0, (size_t)count * sizeof *shift);
}

static void sum_parameters(const axn_backward_run *run, const axn_place *unit, double *scale,
                           double *shift) {
  const axn_nest *nest = &run->plan->by_parameter.lines;
  for (int64_t b = 0; b < nest->blocks; b++) {
    const axn_block at = axn_block_at(nest, b);
    const axn_parameter_rows rows = {
        .tensor = {axn_block_offset(nest, unit, &at, 0, AXN_SIDE_X),
                   axn_block_offset(nest, unit, &at, 0, AXN_SIDE_Y)},
        .cell = unit->parameter + at.parameter,
        .rows = at.rows,
        .columns = unit->cells,
        .row_stride = {nest->row.tensor[AXN_SIDE_X], nest->row.tensor[AXN_SIDE_Y]},
        .cell_stride = nest->row.parameter};
    axn_add_parameter_rows(run, &rows, scale, shift);
  }
}

void axn_parameters_of_unit(const axn_backward_run *run, const axn_place *unit) {
  double scale[AXN_MOST_LINES], shift[AXN_MOST_LINES];
  clear_sums(scale, shift, unit->cells);
  sum_parameters(run, unit, scale, shift);
  axn_write_parameters(run, unit->cell, unit->cells, scale, shift);
}

static void parameters_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->plan->by_parameter.partition, u);
    axn_parameters_of_unit(run, &unit);
  }
}

void axn_parameters_down_columns(axn_backward_run *run) {
  axn_run(&run->runner, run->plan->by_parameter.partition.units, parameters_task, run);
}

/* ---- along rows whose elements have a statistic each ---- */

/* A run of elements that have a statistic each. */
typedef struct statistics_run {
  const void *x, *grad_y;
  int64_t cell, count;
} statistics_run;

/* A block in float64, which float32 has no room for. */
static void add_run_exactly(const axn_backward_run *run, const statistics_run *part, double *scale,
                            double *shift) {
  const int64_t cell = part->cell;
  for (int64_t i = 0; i < part->count; i++) {
    const double x = run->plan->wide->load(part->x, i);
    const double g = run->plan->wide->load(part->grad_y, i);
    const double e = (x - mean_at(run, cell + i)) * rstd_at(run, cell + i);
    *scale += g * (e - run->means.centred[cell + i]);
    *shift += g;
  }
}

static void add_run(const axn_backward_run *run, const statistics_run *part,
                    const some_statistics *statistics, double *scale, double *shift) {
  const axn_axis *next = &run->plan->by_parameter.partition.unit;
  double product = 0, gradient = 0;
  if (!statistics->wide) {
    const axn_parameter_run narrow = {.x = part->x,
                                      .grad_y = part->grad_y,
                                      .length = part->count,
                                      .mean = statistics->mean,
                                      .rstd = statistics->rstd,
                                      .centre = statistics->centre,
                                      .ahead = next->tensor[run->x_side],
                                      .grad_y_ahead = next->tensor[run->gradient_side]};
    run->plan->kernels->parameters_of_run(&narrow, &product, &gradient);
  }
  /* Few terms in float may overflow where their sum does not; one that did not keeps its bits. */
  if (statistics->wide || !isfinite(product) || !isfinite(gradient)) {
    double exact_product = 0, exact_gradient = 0;
    add_run_exactly(run, part, &exact_product, &exact_gradient);
    if (statistics->wide || !isfinite(product)) product = exact_product;
    if (statistics->wide || !isfinite(gradient)) gradient = exact_gradient;
  }
  *scale += product;
  *shift += gradient;
}

/* Adds the elements of a block to some parameters, which share the statistics of these. */
static void add_runs(const axn_backward_run *run, const axn_block *at, int64_t first, int64_t count,
                     double *scale, double *shift) {
  const axn_geometry *geometry = &run->plan->by_parameter;
  const axn_nest *nest = &geometry->lines;
  const size_t size = run->plan->element_size;
  some_statistics statistics;
  int64_t known = -1;
  for (int64_t p = 0; p < count; p++) {
    const axn_place unit = axn_unit_at(&geometry->partition, first + p);
    const int64_t x = axn_block_offset(nest, &unit, at, 0, run->x_side);
    const int64_t grad_y = axn_block_offset(nest, &unit, at, 0, run->gradient_side);
    const statistics_run part = {axn_input_at(run->x, x, size),
                                 axn_input_at(run->grad_y, grad_y, size),
                                 unit.parameter + at->parameter, at->length};
    if (part.cell != known) read_some_statistics(run, part.cell, 1, part.count, &statistics);
    known = part.cell;
    add_run(run, &part, &statistics, scale + p, shift + p);
  }
}

static void parameters_along_rows_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  const axn_nest *nest = &run->plan->by_parameter.lines;
  for (int64_t p = begin, some; p < end; p += some) {
    double scale[AXN_MOST_LINES], shift[AXN_MOST_LINES];
    some = end - p < AXN_MOST_LINES ? end - p : AXN_MOST_LINES;
    clear_sums(scale, shift, some);
    for (int64_t b = 0; b < nest->blocks; b++) {
      const axn_block at = axn_block_at(nest, b);
      add_runs(run, &at, p, some, scale, shift);
    }
    axn_write_parameters(run, p, some, scale, shift);
  }
}

void axn_parameters_along_rows(axn_backward_run *run) {
  axn_run(&run->runner, run->plan->by_parameter.partition.units, parameters_along_rows_task, run);
}
