/* SPDX-License-Identifier: MIT */
/* Backward, first pass: the sums that a statistic and its parameters need. */
#include "backward.h"

#include <math.h>
#include <string.h>

#include "kernels/range.h"

/* `count` reals from `at` on, as doubles. */
static void read_reals(const axn_backward_run *run, const void *from, int64_t at, int64_t count,
                       double *values) {
  if (run->plan->doubles) {
    memcpy(values, (const double *)from + at, (size_t)count * sizeof *values);
  } else {
    const float *floats = (const float *)from + at;
    for (int64_t j = 0; j < count; j++) values[j] = (double)floats[j];
  }
}

void axn_read_statistics(const axn_backward_run *run, const axn_place *unit,
                         axn_unit_statistics *statistics) {
  const int64_t cells = unit->cells;
  double *mean = statistics->exact_mean, *rstd = statistics->exact_rstd;
  if (run->frozen) {
    read_reals(run, run->given_mean, unit->cell, cells, mean);
    read_reals(run, run->given_variance, unit->cell, cells, rstd);
    for (int64_t j = 0; j < cells; j++) rstd[j] = axn_rstd(rstd[j], run->plan->desc.epsilon);
  } else {
    if (run->mean == NULL) memset(mean, 0, (size_t)cells * sizeof *mean);
    if (run->mean != NULL) read_reals(run, run->mean, unit->cell, cells, mean);
    read_reals(run, run->rstd, unit->cell, cells, rstd);
  }
  const axn_known_statistics known = {.mean = mean,
                                      .rstd = rstd,
                                      .count = cells,
                                      .mean_out = statistics->mean,
                                      .rstd_out = statistics->rstd};
  statistics->wide = run->plan->kernels->known(&known) || run->plan->doubles;
}

axn_wide_block axn_widen(const axn_backward_run *run, const axn_backward_step *step,
                         const axn_gradient_block *block, int64_t line) {
  const axn_nest *nest = &run->geometry->lines;
  const int64_t cell = (step->first + line) / nest->lines_per_cell;
  const size_t size = run->plan->element_size;
  const int64_t x = axn_line_offset(nest, line, run->x_side);
  const int64_t grad_y = axn_line_offset(nest, line, run->gradient_side);
  return (axn_wide_block){.x = axn_input_at(block->x, x, size),
                          .grad_y = axn_input_at(block->grad_y, grad_y, size),
                          .rows = step->at.rows,
                          .columns = step->at.length * nest->fold,
                          .row_stride = nest->row.tensor[run->x_side],
                          .grad_y_row_stride = nest->row.tensor[run->gradient_side],
                          .mean = step->statistics->exact_mean[cell],
                          .rstd = step->statistics->exact_rstd[cell]};
}

axn_gradient_block axn_gradient_block_of(const axn_backward_run *run,
                                         const axn_backward_step *step) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_line_values *values = step->values;
  const bool weighted = nest->weighted;
  return (axn_gradient_block){
      .x = axn_input_at(run->x, axn_step_x(run, step, 0), run->plan->element_size),
      .grad_y = axn_input_at(run->grad_y, axn_step_grad_y(run, step, 0), run->plan->element_size),
      .span = axn_span_of(nest, &step->at, step->lines, run->x_side),
      .grad_y_strides = axn_strides_of(nest, run->gradient_side),
      .mean = values->mean,
      .rstd = values->rstd,
      .parameter_stride = nest->row.parameter,
      .scale = weighted && !run->plan->doubles
                   ? axn_parameters_at(run->scale, axn_step_parameter(run, step, 0))
                   : NULL,
      .corner = run->past_corner ? &run->ending : NULL,
      .multiplier = values->multiplier,
      .bound = values->bound,
      .from_gradient = values->from_gradient,
      .from_value = values->from_value,
      .constant = values->constant};
}

/* ---- sums of blocks, line by line ---- */

static void mend(double *sum, double exact, bool replace) {
  if (replace || !isfinite(*sum)) *sum = exact;
}

/* Where a sum over all is finite, they are. Four at a time, so that additions do not wait for each other. */
static bool all_finite(axn_gradient_sums sums, int64_t lines) {
  double sum[4] = {0};
  int64_t i = 0;
  for (; i + 4 <= lines; i += 4) {
    for (int j = 0; j < 4; j++) {
      sum[j] += sums.centred[i + j] + sums.gradient[i + j] + sums.product[i + j];
    }
  }
  for (; i < lines; i++) sum[0] += sums.centred[i] + sums.gradient[i] + sums.product[i];
  return isfinite((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* Sums lines again in float64 whose statistic float32 does not hold, and single sums that a few terms
 * may have made overflow; the others keep their bits. */
static void mend_lines(const axn_backward_run *run, const axn_backward_step *step,
                       const axn_gradient_block *block, axn_gradient_sums sums) {
  const axn_nest *nest = &run->geometry->lines;
  if (!step->statistics->wide && all_finite(sums, step->lines)) return;
  for (int64_t i = 0; i < step->lines; i++) {
    const int64_t cell = (step->first + i) / nest->lines_per_cell;
    const bool replace = axn_is_wide(run, step->statistics, cell);
    if (!replace && isfinite(sums.centred[i] + sums.gradient[i] + sums.product[i])) continue;
    axn_wide_block wide = axn_widen(run, step, block, i);
    if (nest->weighted) {
      wide.scale = axn_input_at(run->scale, axn_step_parameter(run, step, i),
                                axn_real_size(run->plan->doubles));
      wide.parameter_row = nest->row.parameter;
      wide.parameter_column = nest->length.parameter;
    }
    double centred, gradient, product;
    run->plan->wide->gradient_sums(&wide, &centred, &gradient, &product);
    mend(&sums.centred[i], centred, replace);
    mend(&sums.gradient[i], gradient, replace);
    mend(&sums.product[i], product, replace);
  }
}

/* The statistics of the lines of a chunk. */
static void spread_statistics(const axn_backward_run *run, const axn_unit_statistics *statistics,
                              int64_t first, int64_t lines, axn_line_values *values) {
  axn_set_statistics(&run->geometry->lines, statistics, first, values);
  if (!axn_spreads(&run->geometry->lines)) return;
  const axn_gradient_factors_block block = {
      .map = axn_line_map_of(&run->geometry->lines, first, lines),
      .mean = statistics->mean,
      .rstd = statistics->rstd,
      .mean_out = values->spread_mean,
      .rstd_out = values->spread_rstd};
  run->plan->kernels->gradient_factors(&block);
}

static void sum_block(const axn_backward_run *run, const axn_backward_step *step,
                      axn_gradient_sums sums) {
  const axn_gradient_block block = axn_gradient_block_of(run, step);
  if (!run->plan->doubles) {
    run->plan->kernels->gradient_sums[run->geometry->lines.form](&block, sums);
  }
  mend_lines(run, step, &block, sums);
}

/* Past a corner, if that does for the block. */
static void sum_block_past_corner(const axn_backward_run *run, const axn_backward_step *step,
                                  axn_gradient_sums sums) {
  if (run->past_corner) {
    const axn_gradient_block block = axn_gradient_block_of(run, step);
    run->plan->kernels->gradient_sums[run->geometry->lines.form](&block, sums);
    if (step->values->corner_held && all_finite(sums, step->lines)) return;
    const axn_backward_run after = axn_after_ending(run, step);
    sum_block(&after, step, sums);
  } else {
    sum_block(run, step, sums);
  }
}

/* ---- from blocks to units ---- */

static void clear_doubles(double *values, int64_t count) {
  memset(values, 0, (size_t)count * sizeof *values);
}

/* Lines of its unit before those of a slice. */
static int64_t lines_before(const axn_backward_run *run, const axn_slice *slice) {
  return axn_lines_of(&run->geometry->lines, slice->skip);
}

/* `adds`: the sums of blocks are added to the segments, see sum_and_add(). */
static void start_cells(const axn_backward_run *run, const axn_slice *slice, bool adds) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_gradient_sums total = axn_means_of(run, &slice->at);
  clear_doubles(total.centred, slice->at.cells);
  clear_doubles(total.gradient, slice->at.cells);
  clear_doubles(total.product, slice->at.cells);
  if (!adds || nest->weighted) return;
  const int64_t lines = axn_lines_of(nest, slice->at.cells);
  for (int64_t s = 0; s < nest->segments; s++) {
    const int64_t start = axn_segment_at(run, slice->unit, s) + lines_before(run, slice);
    clear_doubles(run->segment_scale + start, lines);
    clear_doubles(run->segment_shift + start, lines);
  }
}

/* Lines that are whole cells, or parts of them that follow each other. */
static void add_lines_of_cells(const axn_gradient_sums total, const axn_gradient_sums sums,
                               int64_t lines, const double *restrict scale) {
  double *restrict centred = total.centred, *restrict gradient = total.gradient;
  double *restrict product = total.product;
  for (int64_t i = 0; i < lines; i++) centred[i] += sums.centred[i];
  for (int64_t i = 0; i < lines; i++) gradient[i] += sums.gradient[i] * scale[i];
  for (int64_t i = 0; i < lines; i++) product[i] += sums.product[i] * scale[i];
}

/* The sum of values, each times its scale; four side by side, so that additions do not wait for each other. */
static double sum_scaled(const double *values, const double *scale, int64_t count) {
  double sum[4] = {0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; j++) sum[j] += values[i + j] * scale[i + j];
  }
  for (int j = 0; i < count; i++, j++) sum[j] += values[i] * scale[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static double sum_of(const double *values, int64_t count) {
  double sum[4] = {0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; j++) sum[j] += values[i + j];
  }
  for (int j = 0; i < count; i++, j++) sum[j] += values[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Lines of one cell. */
static void add_lines_of_cell(const axn_gradient_sums total, const axn_gradient_sums sums,
                              int64_t lines, const double *scale) {
  *total.centred += sum_of(sums.centred, lines);
  *total.gradient += sum_scaled(sums.gradient, scale, lines);
  *total.product += sum_scaled(sums.product, scale, lines);
}

static axn_gradient_sums sums_from(axn_gradient_sums sums, int64_t at) {
  return (axn_gradient_sums){sums.centred + at, sums.gradient + at, sums.product + at};
}

/* The scales of some lines, `stride` apart; 1 where there is none, or where it is in the sums already. */
static void read_scales(const axn_backward_run *run, int64_t parameter, int64_t stride,
                        int64_t lines, double *scales) {
  const bool none = run->scale == NULL || run->geometry->lines.weighted;
  if (!none && stride == 1) {
    read_reals(run, run->scale, parameter, lines, scales);
    return;
  }
  for (int64_t i = 0; i < lines; i++) {
    scales[i] = none ? 1 : axn_real_at(run->scale, parameter + i * stride, run->plan->doubles);
  }
}

/* Adds the sums of lines to those of their cells. */
static void add_to_cells(const axn_backward_run *run, const axn_backward_step *step,
                         axn_gradient_sums sums) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_gradient_sums total = axn_means_of(run, step->unit);
  double scale[AXN_LINE_ROOM];
  const int64_t per_cell = nest->lines_per_cell;
  if (per_cell == 1) {
    read_scales(run, axn_step_parameter(run, step, 0), nest->cell_parameter, step->lines, scale);
    add_lines_of_cells(sums_from(total, step->first), sums, step->lines, scale);
    return;
  }
  for (int64_t i = 0, some; i < step->lines; i += some) {
    const int64_t cell = (step->first + i) / per_cell, end = (cell + 1) * per_cell - step->first;
    some = (end < step->lines ? end : step->lines) - i;
    read_scales(run, axn_step_parameter(run, step, i), nest->line_parameter, some, scale);
    add_lines_of_cell(sums_from(total, cell), sums_from(sums, i), some, scale);
  }
}

/* The first line of a step in the segment of its block. */
static int64_t segment_of_step(const axn_backward_run *run, const axn_backward_step *step,
                               int64_t unit_index) {
  return axn_segment_at(run, unit_index, step->at.segment) + step->first;
}

/* Adds the sums of a block to those of its unit, and to its segments. */
static void add_block(const axn_backward_run *run, const axn_backward_step *step,
                      int64_t unit_index, axn_gradient_sums sums) {
  add_to_cells(run, step, sums);
  if (run->geometry->lines.weighted) return;
  const int64_t start = segment_of_step(run, step, unit_index);
  double *restrict scale = run->segment_scale + start;
  double *restrict shift = run->segment_shift + start;
  for (int64_t i = 0; i < step->lines; i++) scale[i] += sums.product[i];
  for (int64_t i = 0; i < step->lines; i++) shift[i] += sums.gradient[i];
}

void axn_means_from_sums(const axn_backward_run *run, axn_gradient_sums sums, int64_t cells) {
  const double share = 1 / (double)run->geometry->partition.values;
  double *restrict centred = sums.centred, *restrict gradient = sums.gradient;
  double *restrict product = sums.product;
  for (int64_t j = 0; j < cells; j++) centred[j] *= share;
  for (int64_t j = 0; j < cells; j++) gradient[j] *= share;
  /* Neither constant statistics nor a second moment have a mean that was off, or that x moves. */
  if (run->frozen || run->second_moment) clear_doubles(centred, cells);
  if (run->second_moment) clear_doubles(gradient, cells);
  for (int64_t j = 0; j < cells; j++) product[j] = product[j] * share - centred[j] * gradient[j];
}

/* Takes mean(e) out of every product of a segment. */
static void centre_segment(const axn_nest *nest, int64_t cells, const double *centred,
                           double *restrict scale, const double *restrict shift) {
  if (nest->lines_per_cell == 1) {
    for (int64_t c = 0; c < cells; c++) scale[c] -= centred[c] * shift[c];
    return;
  }
  for (int64_t c = 0; c < cells; c++) {
    const double off = centred[c];
    for (int64_t l = 0; l < nest->lines_per_cell; l++) scale[l] -= off * shift[l];
    scale += nest->lines_per_cell;
    shift += nest->lines_per_cell;
  }
}

/* From sums to means, in the segments too. */
static void finish_cells(const axn_backward_run *run, const axn_slice *slice) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_gradient_sums means = axn_means_of(run, &slice->at);
  axn_means_from_sums(run, means, slice->at.cells);
  if (nest->weighted) return;
  for (int64_t s = 0; s < nest->segments; s++) {
    const int64_t start = axn_segment_at(run, slice->unit, s) + lines_before(run, slice);
    centre_segment(nest, slice->at.cells, means.centred, run->segment_scale + start,
                   run->segment_shift + start);
  }
}

/* What becomes of the sums of a block: added at once, or stored. */
typedef void sink(const axn_backward_run *run, const axn_backward_step *step, int64_t unit_index,
                  int64_t block_index);

static axn_gradient_sums stored_sums(const axn_backward_run *run, int64_t unit_index,
                                     int64_t index) {
  const int64_t lines = run->geometry->lines.block_lines;
  double *start =
      run->blocks + (unit_index * axn_blocks_of_unit(run->geometry) + index) * lines * 3;
  return (axn_gradient_sums){start, start + lines, start + 2 * lines};
}

/* Whether a block is all of its lines, and its sums are those of a segment. */
static bool is_segment(const axn_nest *nest) {
  return nest->blocks == 1 && !nest->weighted;
}

static void sum_and_add(const axn_backward_run *run, const axn_backward_step *step,
                        int64_t unit_index, int64_t block_index) {
  double centred[AXN_LINE_ROOM], gradient[AXN_LINE_ROOM], product[AXN_LINE_ROOM];
  axn_gradient_sums sums = {centred, gradient, product};
  (void)block_index;
  if (!is_segment(&run->geometry->lines)) {
    sum_block_past_corner(run, step, sums);
    add_block(run, step, unit_index, sums);
    return;
  }
  const int64_t start = segment_of_step(run, step, unit_index);
  sums.gradient = run->segment_shift + start;
  sums.product = run->segment_scale + start;
  sum_block_past_corner(run, step, sums);
  add_to_cells(run, step, sums);
}

static void sum_and_store(const axn_backward_run *run, const axn_backward_step *step,
                          int64_t unit_index, int64_t block_index) {
  sum_block_past_corner(run, step, stored_sums(run, unit_index, block_index));
}

/* Walks the blocks from `begin` to `end` of a unit, counted through all its lines. */
static void walk_blocks(const axn_backward_run *run, const axn_place *unit,
                        const axn_unit_statistics *statistics, int64_t unit_index, int64_t begin,
                        int64_t end, sink *use) {
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
    if (i == begin || b == 0) {
      spread_statistics(run, statistics, step.first, step.lines, &values);
      if (run->past_corner) axn_find_corner(run, unit, statistics, step.first, step.lines, &values);
    }
    use(run, &step, unit_index, i);
  }
}

void axn_sum_gradients(const axn_backward_run *run, const axn_place *unit,
                       const axn_unit_statistics *statistics, int64_t unit_index) {
  const axn_slice whole = {unit_index, 0, *unit};
  start_cells(run, &whole, !is_segment(&run->geometry->lines));
  walk_blocks(run, unit, statistics, unit_index, 0,
              axn_blocks_of(&run->geometry->lines, unit->cells), sum_and_add);
  finish_cells(run, &whole);
}

/* ---- all units ---- */

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_unit_statistics statistics;
  axn_walk walk = {begin, end, 0};
  axn_part part;
  while (
      axn_next_part(&run->geometry->partition, axn_blocks_of_unit(run->geometry), &walk, &part)) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, part.unit);
    axn_read_statistics(run, &unit, &statistics);
    walk_blocks(run, &unit, &statistics, part.unit, part.first, part.first + part.count,
                sum_and_store);
  }
}

/* Adds the stored sums of the lines that a slice has of a chunk. */
static void merge_chunk(const axn_backward_run *run, const axn_slice *slice, const axn_place *unit,
                        int64_t chunk) {
  const axn_nest *nest = &run->geometry->lines;
  const int64_t begin = lines_before(run, slice), chunk_begin = chunk * nest->block_lines;
  const int64_t end = begin + axn_lines_of(nest, slice->at.cells);
  const int64_t first = begin > chunk_begin ? begin : chunk_begin;
  const int64_t lines = axn_smaller(end, chunk_begin + nest->block_lines) - first;
  for (int64_t b = 0; b < nest->blocks; b++) {
    const axn_backward_step step = {
        .unit = unit, .first = first, .lines = lines, .block = b, .at = axn_block_at(nest, b)};
    const axn_gradient_sums sums = stored_sums(run, slice->unit, chunk * nest->blocks + b);
    add_block(run, &step, slice->unit, sums_from(sums, first - chunk_begin));
  }
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  const axn_nest *nest = &run->geometry->lines;
  for (int64_t i = begin; i < end; i++) {
    const axn_slice slice = axn_slice_at(run->geometry, i);
    if (slice.at.cells == 0) continue;
    const axn_place unit = axn_unit_at(&run->geometry->partition, slice.unit);
    start_cells(run, &slice, true);
    const int64_t last = axn_lines_of(nest, slice.skip + slice.at.cells) - 1;
    for (int64_t chunk = lines_before(run, &slice) / nest->block_lines;
         chunk <= last / nest->block_lines; chunk++) {
      merge_chunk(run, &slice, &unit, chunk);
    }
    finish_cells(run, &slice);
  }
}

static void sum_units_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_unit_statistics statistics;
  for (int64_t u = begin; u < end; u++) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, u);
    axn_read_statistics(run, &unit, &statistics);
    axn_sum_gradients(run, &unit, &statistics, u);
  }
}

void axn_sum_all_gradients(axn_backward_run *run) {
  const axn_geometry *geometry = run->geometry;
  const int64_t units = geometry->partition.units;
  if (!axn_split_units(&run->runner, &geometry->partition, axn_blocks_of_unit(geometry))) {
    axn_run(&run->runner, units, sum_units_task, run);
    return;
  }
  axn_run(&run->runner, units * axn_blocks_of_unit(geometry), sum_blocks_task, run);
  axn_run(&run->runner, units * axn_slices_of_unit(geometry), merge_blocks_task, run);
}
