/* SPDX-License-Identifier: MIT */
/* Blocks of a nest, in the terms of the kernels. */
#ifndef AXN_LIB_SPAN_H
#define AXN_LIB_SPAN_H

#include "kernels/kernels.h"
#include "place.h"

/* Elements from the first line of a unit to line `line`. */
static inline int64_t axn_line_offset(const axn_nest *nest, int64_t line, axn_side side) {
  return line * nest->fold * nest->line_tensor[side];
}

/* Elements from the start of a tensor to line `line` of a block. */
static inline int64_t axn_block_offset(const axn_nest *nest, const axn_place *unit,
                                       const axn_block *block, int64_t line, axn_side side) {
  return unit->tensor[side] + block->tensor[side] + axn_line_offset(nest, line, side);
}

static inline axn_strides axn_strides_of(const axn_nest *nest, axn_side side) {
  return (axn_strides){nest->line_tensor[side], nest->row.tensor[side]};
}

/* A block of so many lines, with one result per line, in a tensor of this side. */
static inline axn_span axn_span_of(const axn_nest *nest, const axn_block *block, int64_t lines,
                                   axn_side side) {
  return (axn_span){.lines = lines,
                    .line_stride = nest->line_tensor[side],
                    .rows = block->rows,
                    .row_stride = nest->row.tensor[side],
                    .length = block->length,
                    .fold = nest->fold,
                    .lanes = nest->lanes,
                    .joined = nest->lanes > 1 && nest->join == nest->lanes};
}

/* The same for work on every element: folded columns are columns like any other. */
static inline axn_span axn_apply_span(const axn_nest *nest, const axn_block *block, int64_t lines,
                                      axn_side side) {
  axn_span span = axn_span_of(nest, block, lines * nest->fold, side);
  span.fold = 1;
  return span;
}

static inline axn_line_map axn_line_map_of(const axn_nest *nest, int64_t first, int64_t lines) {
  return (axn_line_map){.first = first,
                        .lines = lines,
                        .lines_per_cell = nest->lines_per_cell,
                        .cell_parameter = nest->cell_parameter,
                        .line_parameter = nest->line_parameter,
                        .fold = nest->fold,
                        .repeat = nest->join};
}

/* Rows of columns, `of` of which are taken as one. */
static inline axn_span axn_joined_span(axn_span span, int64_t rows, int64_t of) {
  span.lines *= of;
  span.rows = rows;
  span.row_stride *= of;
  return span;
}

static inline axn_strides axn_joined_strides(axn_strides strides, int64_t of) {
  return (axn_strides){strides.line, strides.row * of};
}

#endif
