/* SPDX-License-Identifier: MIT */
#include "apply.h"

#include <math.h>

#include "kernels/range.h"
#include "real.h"
#include "span.h"

/* What meets the elements of some lines, per line or column. */
typedef struct line_factors {
  AXN_LINES_OF_CACHE float mean[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float multiplier[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE float offset[AXN_LINE_ROOM];
  bool wide; /* some line needs float64 */
} line_factors;

static void find_factors(const axn_apply_run *run, const axn_place *unit,
                         const axn_apply_statistics *statistics, int64_t first, int64_t lines,
                         int64_t parameter, line_factors *factors) {
  const axn_nest *nest = &run->geometry->lines;
  const bool weighted = nest->weighted;
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
  const axn_apply_statistics *statistics;
  const line_factors *factors;
  int64_t first; /* line */
  axn_block at;
} apply_step;

/* A line that float32 has room for. */
static bool is_narrow(const axn_apply_run *run, const axn_apply_block *line, double mean,
                      double rstd) {
  return !run->plan->doubles && isfinite(*line->multiplier) && isfinite(*line->offset) &&
         !axn_needs_wide(mean, rstd);
}

/* The lines of a block of which some need float64, one by one. */
static void apply_line_by_line(const axn_apply_run *run, const apply_step *step,
                               const axn_apply_block *block, int64_t lines) {
  const axn_nest *nest = &run->geometry->lines;
  for (int64_t l = 0; l < lines; l++) {
    const int64_t cell = (step->first + l) / nest->lines_per_cell, entry = l * nest->fold;
    const double rstd = step->statistics->rstd[cell], mean = step->statistics->mean[cell];
    const size_t size = run->plan->element_size, real = axn_real_size(run->plan->doubles);
    axn_apply_block line = *block;
    line.x = axn_input_at(block->x, axn_line_offset(nest, l, AXN_SIDE_X), size);
    line.y = axn_output_at(block->y, axn_line_offset(nest, l, run->y_side), size);
    line.ending = axn_ending_at(&block->ending, axn_line_offset(nest, l, AXN_SIDE_Y), size);
    line.mean += entry;
    line.multiplier += entry;
    line.offset += entry;
    if (is_narrow(run, &line, mean, rstd)) {
      line.span = axn_apply_span(nest, &step->at, 1, AXN_SIDE_X);
      run->plan->kernels->apply[nest->form](&line);
      continue;
    }
    const int64_t parameter =
        step->unit->parameter + step->at.parameter + axn_line_parameter(nest, step->first + l);
    const axn_wide_block wide = {.x = line.x,
                                 .out = line.y,
                                 .rows = step->at.rows,
                                 .columns = step->at.length * nest->fold,
                                 .row_stride = line.span.row_stride,
                                 .out_row_stride = line.y_strides.row,
                                 .scale = axn_input_at(run->scale, parameter, real),
                                 .shift = axn_input_at(run->shift, parameter, real),
                                 .parameter_row = nest->row.parameter,
                                 .parameter_column = nest->length.parameter,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .ending = line.ending};
    run->plan->wide->apply(&wide);
  }
}

/* Rows of a block that float32 has room for: joined, where they are one run of memory, and then what is left. */
static void apply_rows(const axn_apply_run *run, const axn_apply_block *block) {
  const axn_nest *nest = &run->geometry->lines;
  const size_t size = run->plan->element_size;
  const int64_t rows = block->span.rows;
  for (int64_t done = 0, of = nest->join; done < rows; of = rows - done) {
    const int64_t count = (rows - done) / of;
    axn_apply_block some = *block;
    some.x = axn_input_at(block->x, done * block->span.row_stride, size);
    some.y = axn_output_at(block->y, done * block->y_strides.row, size);
    some.ending = axn_ending_at(&block->ending, done * block->ending.strides.row, size);
    some.span = axn_joined_span(block->span, count, of);
    some.y_strides = axn_joined_strides(block->y_strides, of);
    some.ending.strides = axn_joined_strides(block->ending.strides, of);
    if (count > 0) run->plan->kernels->apply[nest->form](&some);
    done += count * of;
  }
}

static void apply_block(const axn_apply_run *run, const apply_step *step, int64_t lines) {
  const axn_nest *nest = &run->geometry->lines;
  int64_t start[AXN_SIDES];
  for (int side = 0; side < AXN_SIDES; side++) {
    start[side] = axn_block_offset(nest, step->unit, &step->at, step->first, (axn_side)side);
  }
  const size_t size = run->plan->element_size;
  axn_apply_block block = {.x = axn_input_at(run->x, start[AXN_SIDE_X], size),
                           .y = axn_output_at(run->y, start[run->y_side], size),
                           .span = axn_apply_span(nest, &step->at, lines, AXN_SIDE_X),
                           .y_strides = axn_strides_of(nest, run->y_side),
                           .mean = step->factors->mean,
                           .multiplier = step->factors->multiplier,
                           .offset = step->factors->offset,
                           .ending = axn_ending_at(&run->ending, start[AXN_SIDE_Y], size),
                           .streams = run->streams};
  block.ending.strides = axn_strides_of(nest, AXN_SIDE_Y);
  if (nest->weighted) {
    block.parameter_stride = nest->row.parameter;
    const int64_t parameter =
        step->unit->parameter + step->at.parameter + axn_line_parameter(nest, step->first);
    block.scale = axn_parameters_at(run->scale, parameter);
    block.shift = axn_parameters_at(run->shift, parameter);
  }
  if (step->factors->wide) {
    apply_line_by_line(run, step, &block, lines);
  } else if (nest->join > 1) {
    apply_rows(run, &block);
  } else {
    run->plan->kernels->apply[nest->form](&block);
  }
}

void axn_apply_part(const axn_apply_run *run, const axn_place *unit,
                    const axn_apply_statistics *statistics, int64_t begin, int64_t end) {
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
