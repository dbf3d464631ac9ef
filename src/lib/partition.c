/* SPDX-License-Identifier: MIT */
#include "partition.h"

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t blocks_of(int64_t extent, int64_t block) {
  return extent / block + (extent % block != 0);
}

/* The axis that stands at `position` of memory, outermost first. */
static int axis_in_memory(const axn_desc *desc, int position) {
  if (desc->layout == AXN_CHANNELS_FIRST || position == 0) return position;
  return position == desc->rank - 1 ? 1 : position + 1;
}

/* Strides from the innermost axis outwards: each array advances over the axes that it has. */
typedef struct strides {
  int64_t tensor, cell, parameter;
} strides;

static void add_axis(axn_axis_list *list, strides *next, int64_t extent, bool reduced,
                     bool parameter) {
  axn_axis *axis = &list->axis[AXN_MAX_AXES - 1 - list->count++];
  *axis = (axn_axis){.extent = extent, .tensor = next->tensor};
  next->tensor *= extent;
  if (!reduced) {
    axis->cell = next->cell;
    next->cell *= extent;
  }
  if (parameter) {
    axis->parameter = next->parameter;
    next->parameter *= extent;
  }
}

axn_axis_list axn_list_axes(const axn_desc *desc, const axn_axes *axes) {
  axn_axis_list list = {0};
  strides next = {1, 1, 1};
  for (int position = desc->rank - 1; position >= 0; position--) {
    const int k = axis_in_memory(desc, position);
    const bool reduced = axes->reduced >> k & 1;
    const bool parameter = desc->parameters == AXN_PARAMETERS_PER_CHANNEL ? k == 1 : reduced;
    const int64_t groups = k == axes->split_axis ? axes->split_groups : 1;
    add_axis(&list, &next, desc->shape[k] / groups, reduced, parameter);
    if (groups > 1) add_axis(&list, &next, groups, false, parameter);
  }
  for (int i = 0; i < list.count; i++) {
    list.axis[i] = list.axis[AXN_MAX_AXES - list.count + i];
  }
  return list;
}

axn_axis_list axn_cell_per_parameter(const axn_axis_list *axes) {
  axn_axis_list list = *axes;
  for (int i = 0; i < list.count; i++) list.axis[i].cell = list.axis[i].parameter;
  return list;
}

axn_axis_list axn_exchange(const axn_axis_list *axes) {
  axn_axis_list list = *axes;
  for (int i = 0; i < list.count; i++) {
    list.axis[i].cell = axes->axis[i].parameter;
    list.axis[i].parameter = axes->axis[i].cell;
  }
  return list;
}

static bool continues(const axn_axis *outer, const axn_axis *inner) {
  return outer->tensor == inner->extent * inner->tensor &&
         outer->cell == inner->extent * inner->cell &&
         outer->parameter == inner->extent * inner->parameter;
}

/* Drops axes of extent 1 and merges neighbours that one stride per array can walk. */
static axn_axis_list canonical(const axn_axis_list *axes) {
  axn_axis_list list = {0};
  for (int i = 0; i < axes->count; i++) {
    const axn_axis *axis = &axes->axis[i];
    if (axis->extent == 1) continue;
    if (list.count > 0 && continues(&list.axis[list.count - 1], axis)) {
      const int64_t extent = list.axis[list.count - 1].extent * axis->extent;
      list.axis[list.count - 1] = *axis;
      list.axis[list.count - 1].extent = extent;
    } else {
      list.axis[list.count++] = *axis;
    }
  }
  if (list.count == 0) list.axis[list.count++] = (axn_axis){.extent = 1, .tensor = 1};
  return list;
}

/* Numbers the parameters that a unit meets along its reduced axes. */
static int64_t number_segments(axn_axis_list *list) {
  int64_t segments = 1;
  for (int i = list->count - 1; i >= 0; i--) {
    axn_axis *axis = &list->axis[i];
    if (axis->cell == 0 && axis->parameter != 0) {
      axis->segment = segments;
      segments *= axis->extent;
    }
  }
  return segments;
}

bool axn_rows_separate(const axn_nest *nest) {
  return nest->row.parameter != 0 && nest->column.cell == 0 && nest->column.parameter == 0 &&
         nest->column.extent <= AXN_TILE_ROWS;
}

/* Cuts the nest into blocks. */
static void cut(axn_nest *nest, const axn_partition *partition, axn_rows rows) {
  if (partition->column_family) {
    nest->rows = partition->column.tensor == 1 ? AXN_BLOCK_ROWS : AXN_SHORT_CELL;
    nest->columns = partition->unit_columns;
    nest->column_blocks = 1;
  } else {
    nest->columns = smaller(nest->column.extent, AXN_BLOCK_VALUES);
    nest->rows = AXN_BLOCK_VALUES / nest->columns;
    nest->column_blocks = blocks_of(nest->column.extent, nest->columns);
    if (nest->column_blocks > 1) nest->rows = 1;
  }
  if (rows == AXN_ROWS_ALIKE && nest->row.parameter != 0) nest->rows = 1;
  if (rows == AXN_ROWS_SEPARATE && nest->row.parameter != 0) {
    nest->rows = axn_rows_separate(nest) ? AXN_TILE_COLUMNS : 1;
  }
  if (rows == AXN_ROWS_DIFFER) nest->rows = smaller(nest->rows, AXN_BLOCK_ROWS);
  nest->rows = smaller(nest->rows, nest->row.extent);
  nest->row_blocks = blocks_of(nest->row.extent, nest->rows);
  nest->blocks = nest->row_blocks * nest->column_blocks;
  for (int i = 0; i < nest->outer.count; i++) nest->blocks *= nest->outer.axis[i].extent;
}

/* The same axes where parameters play no part, so that more of them merge. */
static axn_axis_list without_parameters(const axn_axis_list *axes) {
  axn_axis_list list = *axes;
  for (int i = 0; i < list.count; i++) list.axis[i].parameter = 0;
  return canonical(&list);
}

axn_nest axn_nest_of(const axn_partition *partition, axn_rows rows) {
  const axn_axis_list list =
      rows == AXN_ROWS_PLAIN ? without_parameters(&partition->axes) : partition->axes;
  axn_nest nest = {.row = {.extent = 1}, .column = partition->column};
  for (int i = 0; i < list.count; i++) {
    if (list.axis[i].cell == 0) nest.outer.axis[nest.outer.count++] = list.axis[i];
  }
  if (!partition->column_family) nest.column = nest.outer.axis[--nest.outer.count];
  if (nest.outer.count > 0) nest.row = nest.outer.axis[--nest.outer.count];
  cut(&nest, partition, rows);
  return nest;
}

static void count_cells(axn_partition *partition, const axn_axis_list *list) {
  partition->cells = partition->values = 1;
  for (int i = 0; i < list->count; i++) {
    if (list->axis[i].cell == 0) {
      partition->values *= list->axis[i].extent;
    } else {
      partition->cells *= list->axis[i].extent;
    }
  }
}

/* The axis along which cells are worked on side by side: the innermost if it is kept; else, where
 * one cell's sums would be too short, the innermost kept one, or an axis of extent 1 if there is
 * none. That choice must not depend on the extents of kept axes: a sample alone has the same bits
 * as in a batch. Extent 0: one cell at a time. */
static axn_axis choose_columns(const axn_axis_list *list, int64_t values) {
  const axn_axis *inner = &list->axis[list->count - 1];
  if (inner->cell != 0) return *inner;
  const axn_axis_list plain = without_parameters(list);
  const int64_t row = plain.axis[plain.count - 1].extent;
  const bool is_short = row <= AXN_SHORT_ROW || values <= AXN_SHORT_CELL;
  /* Parameters that change along the row want vectors along it. */
  if (!is_short || inner->parameter != 0) return (axn_axis){.extent = 0};
  for (int i = list->count - 1; i >= 0; i--) {
    if (list->axis[i].cell != 0) return list->axis[i];
  }
  return (axn_axis){.extent = 1, .cell = 1};
}

axn_partition axn_partition_of(const axn_axis_list *axes) {
  axn_partition partition = {.unit_columns = 1, .column_units = 1, .axes = canonical(axes)};
  axn_axis_list *list = &partition.axes;
  partition.segments = number_segments(list);
  count_cells(&partition, list);
  partition.column = choose_columns(list, partition.values);
  partition.column_family = partition.column.extent > 0;
  if (partition.column_family) {
    const int most = partition.column.tensor == 1 ? AXN_BLOCK_COLUMNS : AXN_SHORT_COLUMNS;
    partition.unit_columns = smaller(partition.column.extent, most);
    partition.column_units = blocks_of(partition.column.extent, partition.unit_columns);
  }
  partition.units = partition.column_units;
  for (int i = 0; i < list->count; i++) {
    if (list->axis[i].cell == 0 || list->axis[i].cell == partition.column.cell) continue;
    partition.kept.axis[partition.kept.count++] = list->axis[i];
    partition.units *= list->axis[i].extent;
  }
  return partition;
}

/* Moves `place` to `index` along `axis`. */
static void advance(axn_place *place, const axn_axis *axis, int64_t index) {
  place->tensor += index * axis->tensor;
  place->cell += index * axis->cell;
  place->parameter += index * axis->parameter;
  place->segment += index * axis->segment;
}

static void advance_all(axn_place *place, const axn_axis_list *list, int64_t index) {
  for (int i = list->count - 1; i >= 0; i--) {
    advance(place, &list->axis[i], index % list->axis[i].extent);
    index /= list->axis[i].extent;
  }
}

axn_place axn_unit_at(const axn_partition *partition, int64_t index) {
  axn_place place = {.rows = 1, .columns = 1};
  if (partition->column_family) {
    const int64_t first = index % partition->column_units * partition->unit_columns;
    index /= partition->column_units;
    advance(&place, &partition->column, first);
    place.columns = smaller(partition->unit_columns, partition->column.extent - first);
  }
  advance_all(&place, &partition->kept, index);
  return place;
}

axn_place axn_block_at(const axn_nest *nest, int64_t index, int64_t unit_columns) {
  axn_place place = {0};
  const bool cells_along_columns = nest->column.cell != 0;
  const int64_t column = index % nest->column_blocks * nest->columns;
  index /= nest->column_blocks;
  const int64_t row = index % nest->row_blocks * nest->rows;
  index /= nest->row_blocks;
  advance(&place, &nest->column, column);
  advance(&place, &nest->row, row);
  advance_all(&place, &nest->outer, index);
  place.rows = smaller(nest->rows, nest->row.extent - row);
  place.columns =
      cells_along_columns ? unit_columns : smaller(nest->columns, nest->column.extent - column);
  return place;
}

int64_t axn_segment_parameter(const axn_partition *partition, int64_t segment) {
  int64_t parameter = 0;
  for (int i = 0; i < partition->axes.count; i++) {
    const axn_axis *axis = &partition->axes.axis[i];
    if (axis->segment == 0) continue;
    parameter += segment / axis->segment % axis->extent * axis->parameter;
  }
  return parameter;
}
