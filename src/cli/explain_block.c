/* SPDX-License-Identifier: MIT */
#include "explain_block.h"

const char *axis_name(int rank, int axis) {
  static const char *const names[4][5] = {
      {"N", "C"}, {"N", "C", "L"}, {"N", "C", "H", "W"}, {"N", "C", "D", "H", "W"}};
  return names[rank - 2][axis];
}

static int most_cells(int rank, int axis) {
  enum { SAMPLES = 6, CHANNELS = 8 };
  static const int spatial[] = {1, 1, 1, 6, 3, 2}; /* by rank: 6, 3x3 or 2x2x2 in all */
  return axis == 0 ? SAMPLES : axis == 1 ? CHANNELS : spatial[rank];
}

static int smaller(int64_t a, int64_t b) {
  return (int)(a < b ? a : b);
}

/* A split axis is drawn as whole groups of one size: two cells each where there are two, so that a
 * group never looks like a single channel, then as many groups as fit, then larger groups. */
static void split_cells(struct block *block, int64_t extent, int64_t groups) {
  int most = most_cells(block->rank, block->split_axis);
  int64_t in_group = extent / groups;
  int each = smaller(in_group, 2);
  block->groups = smaller(groups, most / each);
  each = smaller(in_group, most / block->groups);
  block->cells[block->split_axis] = block->groups * each;
}

struct block block_of(const struct prepared *prepared) {
  const axn_plan_info *info = &prepared->info;
  struct block block = {.rank = prepared->desc.rank,
                        .groups = 1,
                        .reduced_axes = info->reduced_axes,
                        .split_axis = info->split_axis,
                        .whole = true};
  for (int axis = 0; axis < block.rank; axis++) {
    int64_t extent = prepared->desc.shape[axis];
    if (axis == block.split_axis)
      split_cells(&block, extent, info->split_groups);
    else
      block.cells[axis] = smaller(extent, most_cells(block.rank, axis));
    if (block.cells[axis] != extent) block.whole = false;
  }
  return block;
}

int block_spatial_cells(const struct block *block) {
  int cells = 1;
  for (int axis = 2; axis < block->rank; axis++) cells *= block->cells[axis];
  return cells;
}

static bool axis_shares(const struct block *block, int axis, int index) {
  if (axis == block->split_axis) return index < block->cells[axis] / block->groups;
  return index == 0 || (block->reduced_axes >> axis & 1) != 0;
}

bool block_shares(const struct block *block, int sample, int channel, int spatial) {
  for (int axis = block->rank - 1; axis >= 2; axis--) {
    if (!axis_shares(block, axis, spatial % block->cells[axis])) return false;
    spatial /= block->cells[axis];
  }
  return axis_shares(block, 0, sample) && axis_shares(block, 1, channel);
}
