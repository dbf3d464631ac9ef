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

/* Sums lines again in float64 whose statistic float32 does not hold, and single sums that a few terms
 * may have made overflow; the others keep their bits. */
static void mend_lines(const axn_backward_run *run, const axn_backward_step *step,
                       const axn_gradient_block *block, axn_gradient_sums sums) {
  const axn_nest *nest = &run->geometry->lines;
  if (!step->statistics->wide && run->plan->kernels->finite_sums(sums, step->lines)) return;
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
    if (step->values->corner_held && run->plan->kernels->finite_sums(sums, step->lines)) return;
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

/* Whether the sums of lines are those of their parameters: these are then where they grow. */
static bool is_segment(const axn_nest *nest) {
  return nest->segments == 1 && !nest->weighted;
}

static void start_cells(const axn_backward_run *run, const axn_slice *slice) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_gradient_sums total = axn_means_of(run, &slice->at);
  clear_doubles(total.centred, slice->at.cells);
  clear_doubles(total.gradient, slice->at.cells);
  clear_doubles(total.product, slice->at.cells);
  if (is_segment(nest) || nest->weighted) return;
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

/* Adds the sums of lines to those of a segment. */
static void add_to_segment(const axn_backward_run *run, int64_t start, axn_gradient_sums sums,
                           int64_t lines) {
  double *restrict scale = run->segment_scale + start, *restrict shift = run->segment_shift + start;
  for (int64_t i = 0; i < lines; i++) scale[i] += sums.product[i];
  for (int64_t i = 0; i < lines; i++) shift[i] += sums.gradient[i];
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

static axn_gradient_sums stored_sums(const axn_backward_run *run, int64_t unit_index,
                                     int64_t index) {
  const int64_t lines = run->geometry->lines.block_lines;
  double *start =
      run->blocks + (unit_index * axn_blocks_of_unit(run->geometry) + index) * lines * 3;
  return (axn_gradient_sums){start, start + lines, start + 2 * lines};
}

/* Lines of a chunk: all of those that a unit has, or those of a slice. */
typedef struct some_lines {
  const axn_place *unit;
  int64_t unit_index, chunk, first, lines;
} some_lines;

static axn_backward_step step_of(const axn_backward_run *run, const some_lines *some,
                                 int64_t block) {
  return (axn_backward_step){.unit = some->unit,
                             .first = some->first,
                             .lines = some->lines,
                             .block = block,
                             .at = axn_block_at(&run->geometry->lines, block)};
}

/* What is known of the lines of a chunk before their blocks are summed. */
static void prepare_lines(const axn_backward_run *run, const axn_unit_statistics *statistics,
                          const some_lines *some, axn_line_values *values) {
  spread_statistics(run, statistics, some->first, some->lines, values);
  if (run->past_corner) {
    axn_find_corner(run, some->unit, statistics, some->first, some->lines, values);
  }
}

/* The sums of a block: made here, where there are statistics, or stored before. */
static void find_sums(const axn_backward_run *run, const some_lines *some,
                      const axn_backward_step *step, axn_gradient_sums sums) {
  if (step->statistics != NULL) {
    sum_block_past_corner(run, step, sums);
    return;
  }
  const axn_nest *nest = &run->geometry->lines;
  const size_t bytes = (size_t)some->lines * sizeof(double);
  const axn_gradient_sums stored =
      sums_from(stored_sums(run, some->unit_index, some->chunk * nest->blocks + step->block),
                some->first - some->chunk * nest->block_lines);
  memcpy(sums.centred, stored.centred, bytes);
  memcpy(sums.gradient, stored.gradient, bytes);
  memcpy(sums.product, stored.product, bytes);
}

/* Adds up blocks, those that meet the same parameters first, then these sums to their cells and to the segment of the
 * parameters. `statistics`: null where the sums of blocks are stored. */
static void add_up_lines(const axn_backward_run *run, const axn_unit_statistics *statistics,
                         const some_lines *some) {
  const axn_nest *nest = &run->geometry->lines;
  AXN_LINES_OF_CACHE double room[2][3][AXN_LINE_ROOM];
  const axn_gradient_sums block = {room[0][0], room[0][1], room[0][2]};
  axn_gradient_sums total = {room[1][0], room[1][1], room[1][2]};
  axn_line_values values;
  if (statistics != NULL) prepare_lines(run, statistics, some, &values);
  for (int64_t b = 0, before = -1; b < nest->blocks; b++) {
    axn_backward_step step = step_of(run, some, b);
    const int64_t segment = axn_segment_at(run, some->unit_index, step.at.segment) + some->first;
    const int64_t next = b + 1 < nest->blocks && nest->segments > 1
                             ? axn_block_at(nest, b + 1).segment
                             : step.at.segment;
    step.statistics = statistics;
    step.values = &values;
    if (is_segment(nest)) {
      total.gradient = run->segment_shift + segment;
      total.product = run->segment_scale + segment;
    }
    find_sums(run, some, &step, step.at.segment == before ? block : total);
    if (step.at.segment == before) run->plan->kernels->add_sums(total, block, some->lines);
    before = step.at.segment;
    if (next == before && b + 1 < nest->blocks) continue;
    add_to_cells(run, &step, total);
    if (nest->segments > 1) add_to_segment(run, segment, total, some->lines);
  }
}

void axn_sum_gradients(const axn_backward_run *run, const axn_place *unit,
                       const axn_unit_statistics *statistics, int64_t unit_index) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_slice whole = {unit_index, 0, *unit};
  const int64_t chunks = axn_chunks_of(nest, unit->cells);
  start_cells(run, &whole);
  for (int64_t c = 0; c < chunks; c++) {
    const some_lines some = {unit, unit_index, c, c * nest->block_lines,
                             axn_lines_of_chunk(nest, unit->cells, c)};
    add_up_lines(run, statistics, &some);
  }
  finish_cells(run, &whole);
}

/* ---- all units ---- */

/* Sums the blocks from `begin` to `end` of a unit, counted through all its lines, and stores the sums. */
static void store_part(const axn_backward_run *run, const axn_place *unit,
                       const axn_unit_statistics *statistics, const axn_part *part) {
  const axn_nest *nest = &run->geometry->lines;
  axn_line_values values;
  for (int64_t i = part->first; i < part->first + part->count; i++) {
    const int64_t chunk = i / nest->blocks;
    const some_lines some = {unit, part->unit, chunk, chunk * nest->block_lines,
                             axn_lines_of_chunk(nest, unit->cells, chunk)};
    if (some.lines <= 0) break;
    axn_backward_step step = step_of(run, &some, i % nest->blocks);
    step.statistics = statistics;
    step.values = &values;
    if (i == part->first || step.block == 0) prepare_lines(run, statistics, &some, &values);
    sum_block_past_corner(run, &step, stored_sums(run, part->unit, i));
  }
}

static void sum_blocks_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_unit_statistics statistics;
  axn_walk walk = {begin, end, 0};
  axn_part part;
  while (
      axn_next_part(&run->geometry->partition, axn_blocks_of_unit(run->geometry), &walk, &part)) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, part.unit);
    axn_read_statistics(run, &unit, &statistics);
    store_part(run, &unit, &statistics, &part);
  }
}

/* Merges the blocks of a slice of cells. */
static void merge_slice(const axn_backward_run *run, const axn_slice *slice) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_place unit = axn_unit_at(&run->geometry->partition, slice->unit);
  const int64_t begin = lines_before(run, slice), most = nest->block_lines;
  const int64_t end = begin + axn_lines_of(nest, slice->at.cells);
  start_cells(run, slice);
  for (int64_t chunk = begin / most, first = begin; first < end; first = ++chunk * most) {
    const some_lines some = {&unit, slice->unit, chunk, first,
                             axn_smaller(end, (chunk + 1) * most) - first};
    add_up_lines(run, NULL, &some);
  }
  finish_cells(run, slice);
}

static void merge_blocks_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  for (int64_t i = begin; i < end; i++) {
    const axn_slice slice = axn_slice_at(run->geometry, i);
    if (slice.at.cells > 0) merge_slice(run, &slice);
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
