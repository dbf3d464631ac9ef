/* SPDX-License-Identifier: MIT */
#include "place.h"

static void add_step(int64_t tensor[AXN_SIDES], int64_t step, const axn_axis *axis) {
  tensor[AXN_SIDE_X] += step * axis->tensor[AXN_SIDE_X];
  tensor[AXN_SIDE_Y] += step * axis->tensor[AXN_SIDE_Y];
}

axn_place axn_unit_at(const axn_partition *partition, int64_t index) {
  const axn_axis *unit = &partition->unit;
  const int64_t first = index % partition->along * partition->unit_cells;
  axn_place place = {.tensor = {first * unit->tensor[AXN_SIDE_X], first * unit->tensor[AXN_SIDE_Y]},
                     .cell = first * unit->cell,
                     .parameter = first * unit->parameter,
                     .cells = axn_smaller(partition->unit_cells, unit->extent - first)};
  index /= partition->along;
  for (int i = partition->kept.count - 1; i >= 0; i--) {
    const axn_axis *axis = &partition->kept.axis[i];
    const int64_t step = index % axis->extent;
    add_step(place.tensor, step, axis);
    place.cell += step * axis->cell;
    place.parameter += step * axis->parameter;
    index /= axis->extent;
  }
  return place;
}

axn_block axn_block_at(const axn_nest *nest, int64_t index) {
  if (nest->blocks == 1)
    return (axn_block){.rows = nest->row.extent, .length = nest->length.extent};
  /* Blocks may be small: no division that is not due. */
  int64_t along = 0, row = index;
  if (nest->length_blocks > 1) {
    along = index % nest->length_blocks * nest->block_length;
    row = index /= nest->length_blocks;
  }
  if (nest->outer.count > 0) {
    row = index % nest->row_blocks;
    index /= nest->row_blocks;
  }
  row *= nest->block_rows;
  axn_block block = {.parameter = along * nest->length.parameter + row * nest->row.parameter,
                     .rows = axn_smaller(nest->block_rows, nest->row.extent - row),
                     .length = axn_smaller(nest->block_length, nest->length.extent - along)};
  add_step(block.tensor, along, &nest->length);
  add_step(block.tensor, row, &nest->row);
  for (int i = nest->outer.count - 1; i >= 0; i--) {
    const axn_axis *axis = &nest->outer.axis[i];
    const int64_t step = index % axis->extent;
    add_step(block.tensor, step, axis);
    block.parameter += step * axis->parameter;
    block.segment += step * axis->segment;
    index /= axis->extent;
  }
  return block;
}

/* How many numbers below `end` are `first` and a multiple of `step`. */
static int64_t steps_below(int64_t end, int64_t first, int64_t step) {
  return (end - first + step - 1) / step;
}

static bool next_abreast(int64_t units, axn_walk *walk, axn_part *part) {
  while (walk->unit < units) {
    const int64_t unit = walk->unit++, first = steps_below(walk->begin, unit, units);
    *part = (axn_part){unit, first, steps_below(walk->end, unit, units) - first};
    if (part->count > 0) return true;
  }
  return false;
}

bool axn_next_part(const axn_partition *partition, int64_t blocks, axn_walk *walk, axn_part *part) {
  if (partition->abreast) return next_abreast(partition->units, walk, part);
  const int64_t left = walk->end - walk->begin;
  if (left == 0) return false;
  const int64_t first = walk->begin % blocks;
  *part = (axn_part){walk->begin / blocks, first, axn_smaller(blocks - first, left)};
  walk->begin += part->count;
  return true;
}

axn_slice axn_slice_at(const axn_geometry *geometry, int64_t index) {
  const int64_t slices = axn_slices_of_unit(geometry), cells = geometry->slice_cells;
  const axn_place unit = axn_unit_at(&geometry->partition, index / slices);
  const int64_t skip = axn_smaller(index % slices * cells, unit.cells);
  return (axn_slice){index / slices, skip,
                     axn_place_after(&unit, &geometry->partition.unit, skip,
                                     axn_smaller(cells, unit.cells - skip))};
}

int64_t axn_segment_parameter(const axn_nest *nest, int64_t segment) {
  int64_t parameter = 0;
  for (int i = 0; i < nest->outer.count; i++) {
    const axn_axis *axis = &nest->outer.axis[i];
    if (axis->segment == 0) continue;
    parameter += segment / axis->segment % axis->extent * axis->parameter;
  }
  return parameter;
}
