/* SPDX-License-Identifier: MIT */
#include "partition.h"

#include <string.h>

enum {
  L2_UNIT_BYTES = 1 << 19,  /* what second-level cache holds beside an output */
  SHORT_UNIT_BYTES = 65536, /* the same where cells are short; more makes nothing faster */
  VECTOR_CELLS = 8,         /* statistics that the widest vectors finish at once */
  FAR_BYTES = 1 << 22, /* of a tensor that caches near a core do not hold: its rows lie far apart */
  FAR_PIECE_BYTES = 32768, /* of such a row, so that memory is read in long runs */
  COLUMNS_LEAST = 64,      /* of a strip: shorter pieces of memory cost more than they save */
  FEW_COLUMNS = 64,        /* fewer have lanes */
  COLUMNS_WORTH = 256,     /* a strip that cannot be this wide and fit a cache is not worth it */
  UNITS_PER_THREAD = 4,    /* so that threads end together */
  PARAMETER_COLUMNS = 256, /* of a unit of parameters, or, */
  MANY_PARAMETERS = 65536, /* where there are as many, */
  LONG_COLUMNS = 1024
};

static int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

static int64_t blocks_of(int64_t extent, int64_t block) {
  return extent / block + (extent % block != 0);
}

/* The axis that stands at `position` of the layout, outermost first. */
static int axis_in_layout(const axn_desc *desc, int position) {
  if (desc->layout == AXN_CHANNELS_FIRST || position == 0) return position;
  return position == desc->rank - 1 ? 1 : position + 1;
}

/* Strides from the innermost axis outwards: each array advances over the axes that it has. */
typedef struct strides {
  int64_t cell, parameter;
} strides;

/* `x` and `y`: its strides in the tensors. */
static void add_axis(axn_axis_list *list, strides *next, int64_t extent, int64_t x, int64_t y,
                     bool reduced, bool parameter) {
  axn_axis *axis = &list->axis[AXN_MAX_AXES - 1 - list->count++];
  *axis = (axn_axis){.extent = extent, .tensor = {x, y}};
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
  strides next = {1, 1};
  for (int position = desc->rank - 1; position >= 0; position--) {
    const int k = axis_in_layout(desc, position);
    const bool reduced = axes->reduced >> k & 1;
    const bool parameter = desc->parameters == AXN_PARAMETERS_PER_CHANNEL ? k == 1 : reduced;
    const int64_t groups = k == axes->split_axis ? axes->split_groups : 1;
    const int64_t extent = desc->shape[k] / groups;
    const int64_t x = desc->x_strides[k], y = desc->y_strides[k];
    add_axis(&list, &next, extent, x, y, reduced, parameter);
    if (groups > 1) {
      add_axis(&list, &next, groups, extent * x, extent * y, false, parameter);
    }
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

static bool continues(const axn_axis *outer, const axn_axis *inner) {
  return outer->tensor[AXN_SIDE_X] == inner->extent * inner->tensor[AXN_SIDE_X] &&
         outer->tensor[AXN_SIDE_Y] == inner->extent * inner->tensor[AXN_SIDE_Y] &&
         outer->cell == inner->extent * inner->cell &&
         outer->parameter == inner->extent * inner->parameter;
}

/* Whether neighbours along the axis are neighbours in memory. */
static bool is_dense(const axn_axis *axis) {
  return axis->tensor[AXN_SIDE_X] == 1 && axis->tensor[AXN_SIDE_Y] == 1;
}

/* Drops axes of extent 1 and merges neighbours that one stride per array can walk. The innermost axis is
 * a run of memory: where a view has none, one of extent 1. */
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
  if (list.count == 0 || !is_dense(&list.axis[list.count - 1])) {
    list.axis[list.count++] = (axn_axis){.extent = 1, .tensor = {1, 1}};
  }
  return list;
}

/* The same axes where parameters and y play no part, so that more of them merge. */
static axn_axis_list for_sums(const axn_axis_list *axes) {
  axn_axis_list list = *axes;
  for (int i = 0; i < list.count; i++) {
    list.axis[i].parameter = 0;
    list.axis[i].tensor[AXN_SIDE_Y] = list.axis[i].tensor[AXN_SIDE_X];
  }
  return canonical(&list);
}

/* ---- nests ---- */

/* Takes an axis out of the list. */
static axn_axis take(axn_axis_list *list, int index) {
  const axn_axis axis = list->axis[index];
  list->count--;
  for (int i = index; i < list->count; i++) list->axis[i] = list->axis[i + 1];
  return axis;
}

/* The innermost reduced axis that has a parameter, or has none; -1 where there is no such. */
static int find_reduced(const axn_axis_list *list, bool parameter) {
  for (int i = list->count - 1; i >= 0; i--) {
    if (list->axis[i].cell == 0 && (list->axis[i].parameter != 0) == parameter) return i;
  }
  return -1;
}

static axn_axis_list reduced_of(const axn_axis_list *list) {
  axn_axis_list reduced = {0};
  for (int i = 0; i < list->count; i++) {
    if (list->axis[i].cell == 0) reduced.axis[reduced.count++] = list->axis[i];
  }
  return reduced;
}

static int64_t reduced_extent(const axn_axis_list *list) {
  int64_t extent = 1;
  for (int i = 0; i < list->count; i++) {
    if (list->axis[i].cell == 0) extent *= list->axis[i].extent;
  }
  return extent;
}

/* Whether the innermost axis, which is reduced, is short and often repeated, with cells in between:
 * columns then have no row ends, and sums across a row come once per cell. */
static bool folds(const axn_axis_list *list) {
  const axn_axis *inner = &list->axis[list->count - 1];
  if (list->count < 3 || inner->extent == 1 || inner->extent > AXN_FOLDED_ROW) return false;
  return list->axis[list->count - 2].cell != 0 &&
         reduced_extent(list) / inner->extent >= AXN_FOLDED_ROWS;
}

/* Whether the reduced axes are the innermost ones and all have parameters: lines with a parameter for each of
 * their elements, several where a view has gaps. */
static bool is_weighted_to_the_end(const axn_axis_list *list) {
  int64_t extent = 1;
  for (int i = list->count - 1; i >= 0; i--) {
    if (list->axis[i].cell != 0 || list->axis[i].parameter == 0) break;
    extent *= list->axis[i].extent;
  }
  return extent == reduced_extent(list);
}

/* Decided by the reduced axes alone: a sample alone has the same bits as in a batch. What is visited once
 * is better not folded: whole lines are then one run of aligned vectors. */
static axn_form form_of(const axn_axis_list *list, bool twice) {
  const axn_axis *inner = &list->axis[list->count - 1];
  if (inner->cell != 0) return AXN_FORM_COLUMNS;
  if (inner->parameter != 0) {
    return is_weighted_to_the_end(list) ? AXN_FORM_WEIGHTED : AXN_FORM_COLUMNS;
  }
  return twice && folds(list) ? AXN_FORM_COLUMNS : AXN_FORM_ROWS;
}

/* Numbers the parameters that a line meets along the outer axes. */
static void number_segments(axn_nest *nest) {
  nest->segments = 1;
  for (int i = nest->outer.count - 1; i >= 0; i--) {
    axn_axis *axis = &nest->outer.axis[i];
    if (axis->parameter == 0) continue;
    axis->segment = nest->segments;
    nest->segments *= axis->extent;
  }
}

/* Lines of a cell lie along an axis with parameters, `along`; those of the next cell follow. */
static void set_lines(axn_nest *nest, const axn_axis *along, const axn_axis *unit) {
  nest->lines_per_cell = along->extent;
  memcpy(nest->line_tensor, along->tensor, sizeof nest->line_tensor);
  nest->line_parameter = along->parameter;
  nest->cell_parameter = unit->parameter;
}

/* Whether lines of neighbouring cells are one sequence, in a tensor of this side. */
static bool cells_follow(const axn_nest *nest, const axn_axis *unit, axn_side side) {
  return unit->tensor[side] == nest->lines_per_cell * nest->fold * nest->line_tensor[side];
}

/* Every cell a column. */
static axn_nest plain_columns(const axn_axis *unit) {
  return (axn_nest){.form = AXN_FORM_COLUMNS,
                    .fold = 1,
                    .lanes = 1,
                    .join = 1,
                    .lines_per_cell = 1,
                    .line_tensor = {1, 1},
                    .cell_parameter = unit->parameter,
                    .length = {.extent = 1},
                    .row = {.extent = 1}};
}

enum { FLOATS = 16 }; /* in the widest vectors */

/* How many rows of so many columns make one that has no part of a vector, nor too few of them. */
static int64_t rows_to_join(int64_t columns, int64_t rows) {
  enum { ENOUGH = 64 };
  int64_t join = 1;
  while ((join * columns < ENOUGH || join * columns % FLOATS != 0) && join < FLOATS &&
         2 * join * columns <= AXN_MOST_COLUMNS && 2 * join <= rows) {
    join *= 2;
  }
  return join;
}

/* Lanes of a column. Extents alone decide, those of the axes within its rows: a view so has the sums of a dense tensor,
 * a sample alone those of a batch. */
static int64_t lanes_of(const axn_axis_list *list, int64_t rows) {
  int64_t columns = 1;
  for (int i = list->count - 1; i >= 0 && (i == list->count - 1 || list->axis[i].cell != 0); i--) {
    columns *= list->axis[i].extent;
  }
  return columns < FEW_COLUMNS && columns % FLOATS != 0 ? rows_to_join(columns, rows) : 1;
}

static axn_nest columns_of(const axn_axis_list *list, const axn_axis *unit) {
  const axn_axis *inner = &list->axis[list->count - 1];
  axn_axis_list reduced = reduced_of(list);
  axn_nest nest = plain_columns(unit);
  if (inner->cell == 0) {
    reduced.count--;
    if (inner->parameter != 0) {
      set_lines(&nest, inner, unit);
    } else {
      nest.fold = inner->extent;
    }
  }
  const int row = find_reduced(&reduced, false), weighted = find_reduced(&reduced, true);
  if (row >= 0) {
    nest.row = take(&reduced, row);
    nest.lanes = lanes_of(list, nest.row.extent);
  } else if (weighted >= 0 && inner->cell != 0 && inner->parameter == 0) {
    nest.row = take(&reduced, weighted);
    nest.weighted = true;
  }
  nest.outer = reduced;
  return nest;
}

static axn_nest rows_of(axn_axis_list reduced, axn_form form, const axn_axis *unit) {
  axn_nest nest = {.form = form,
                   .weighted = form == AXN_FORM_WEIGHTED,
                   .fold = 1,
                   .lanes = 1,
                   .join = 1,
                   .lines_per_cell = 1,
                   .line_tensor = {unit->tensor[AXN_SIDE_X], unit->tensor[AXN_SIDE_Y]},
                   .cell_parameter = unit->parameter,
                   .row = {.extent = 1}};
  nest.length = reduced.axis[--reduced.count];
  const int along = find_reduced(&reduced, true), row = find_reduced(&reduced, false);
  if (along >= 0) {
    const axn_axis lines = take(&reduced, along);
    set_lines(&nest, &lines, unit);
  }
  if (row >= 0) nest.row = take(&reduced, row > along && along >= 0 ? row - 1 : row);
  nest.outer = reduced;
  return nest;
}

/* In pieces of the same size but for the last, at most `most`, a multiple of `unit` if they can. */
static int64_t even_piece(int64_t extent, int64_t most, int64_t unit) {
  const int64_t pieces = blocks_of(extent, most), piece = blocks_of(extent, pieces);
  return axn_smaller(axn_smaller(blocks_of(piece, unit) * unit, most), extent);
}

/* Few rows are cut finer, so that there is something to share. Many short ones, whose columns have lanes, are more in a
 * block, which else were little beside what comes between blocks. */
static int64_t rows_of_block(int64_t rows, int64_t lanes) {
  enum { BLOCKS = 8, LEAST = 32, MANY = 4 * BLOCKS };
  const int64_t plain = axn_smaller(AXN_BLOCK_ROWS, larger(LEAST, rows / BLOCKS));
  return larger(plain, axn_smaller(lanes * AXN_BLOCK_ROWS, rows / MANY)) / lanes * lanes;
}

/* `most`: values of a block in the row family. `widest`: lines of the largest unit that there could be, since
 * how many rows a block has is not to depend on how units are shared. */
static void cut(axn_nest *nest, int64_t lines, int64_t widest, int64_t most) {
  if (nest->form == AXN_FORM_COLUMNS) {
    nest->block_length = 1;
    nest->block_rows = even_piece(nest->row.extent, rows_of_block(nest->row.extent, nest->lanes),
                                  larger(4, nest->lanes));
    nest->block_lines = axn_smaller(lines, larger(1, AXN_MOST_COLUMNS / nest->fold));
  } else {
    nest->block_length = even_piece(nest->length.extent, most, 64);
    const int64_t fit = larger(1, most / nest->block_length);
    const int64_t most_lines = axn_smaller(lines, AXN_MOST_ROWS);
    const int64_t most_rows = nest->block_length < nest->length.extent ? 1 : nest->row.extent;
    if (nest->lines_first) {
      nest->block_lines = most_lines;
      nest->block_rows =
          axn_smaller(most_rows, larger(1, fit / axn_smaller(widest, AXN_MOST_ROWS)));
    } else {
      nest->block_rows = axn_smaller(most_rows, fit);
      /* Lines that follow each other are one run of memory in each of their rows. */
      nest->block_lines = nest->row.extent > 1
                              ? most_lines
                              : axn_smaller(most_lines, larger(1, fit / nest->block_rows));
    }
    /* The lines of a weighted block share their parameters. */
    if (nest->form == AXN_FORM_WEIGHTED && (nest->cell_parameter | nest->line_parameter) != 0) {
      nest->block_lines = 1;
    }
  }
  nest->row_blocks = blocks_of(nest->row.extent, nest->block_rows);
  nest->length_blocks = blocks_of(nest->length.extent, nest->block_length);
  nest->blocks = nest->row_blocks * nest->length_blocks;
  for (int i = 0; i < nest->outer.count; i++) nest->blocks *= nest->outer.axis[i].extent;
}

/* A nest over the reduced axes of a list; cut once the size of a unit is known. */
static axn_nest nest_of(const axn_axis_list *list, const axn_axis *unit, bool twice) {
  const axn_form form = form_of(list, twice);
  axn_nest nest =
      form == AXN_FORM_COLUMNS ? columns_of(list, unit) : rows_of(reduced_of(list), form, unit);
  nest.lines_first = !twice;
  number_segments(&nest);
  return nest;
}

/* ---- the partition ---- */

static axn_partition partition_of(const axn_axis_list *axes) {
  axn_partition partition = {.unit = {.extent = 1, .cell = 1}, .cells = 1, .axes = canonical(axes)};
  const axn_axis_list *list = &partition.axes;
  for (int i = 0; i < list->count; i++) {
    if (list->axis[i].cell == 0) continue;
    partition.cells *= list->axis[i].extent;
    partition.kept.axis[partition.kept.count++] = list->axis[i];
  }
  if (partition.kept.count > 0) partition.unit = partition.kept.axis[--partition.kept.count];
  partition.values = reduced_extent(list);
  partition.far =
      partition.values > FAR_BYTES / (int64_t)sizeof(float) / larger(1, partition.cells);
  return partition;
}

/* Whether the lines of a unit may be cut in several blocks of rows or pieces. */
static bool has_blocks(const axn_nest *lines) {
  return lines->row.extent > 1 || lines->outer.count > 0 || lines->length.extent > AXN_LINES_VALUES;
}

/* The most cells of a unit that the kernels take in one go. */
static int64_t most_cells(const axn_geometry *geometry) {
  const axn_nest *sums = &geometry->sums, *lines = &geometry->lines;
  const axn_axis *unit = &geometry->partition.unit;
  if (!cells_follow(lines, unit, AXN_SIDE_X) || !cells_follow(lines, unit, AXN_SIDE_Y) ||
      !cells_follow(sums, unit, AXN_SIDE_X)) {
    return 1;
  }
  /* Sums of the lines of a cell are added chunk by chunk of lines, and there block by block: in an order of the cell's
   * own only if no chunk begins within it because of others. */
  if (lines->form != AXN_FORM_COLUMNS && lines->lines_per_cell > 1 && has_blocks(lines)) return 1;
  int64_t most = sums->form == AXN_FORM_COLUMNS ? AXN_MOST_COLUMNS / (sums->fold * sums->lanes)
                                                : AXN_MOST_ROWS;
  if (lines->form == AXN_FORM_COLUMNS) {
    most =
        axn_smaller(most, AXN_MOST_COLUMNS / (lines->fold * lines->lines_per_cell * lines->lanes));
  }
  return larger(1, most);
}

/* Down to a number of cells whose columns fill whole cache lines, if there is one. */
static int64_t fill_lines(int64_t cells, int64_t fold) {
  enum { FLOATS_PER_LINE = 16 };
  int64_t step = 1;
  while (step < FLOATS_PER_LINE && step * fold % FLOATS_PER_LINE != 0) step *= 2;
  return cells < step ? cells : cells / step * step;
}

/* How many cells are best worked on together: what the caches hold between the sums and the rest, in
 * pieces of memory that are not too short. */
static int64_t fitting_cells(const axn_geometry *geometry) {
  const axn_partition *partition = &geometry->partition;
  const axn_nest *sums = &geometry->sums;
  const int64_t bytes = partition->values * (int64_t)sizeof(float);
  if (sums->form == AXN_FORM_COLUMNS) {
    const int64_t worth = blocks_of(COLUMNS_WORTH, sums->fold), fit = L2_UNIT_BYTES / bytes;
    /* Where nothing would stay in cache, the longest pieces. */
    if (fit < worth) return INT64_MAX;
    return partition->far ? larger(fit, AXN_MOST_COLUMNS / sums->fold) : fit;
  }
  if (bytes <= SHORT_UNIT_BYTES / VECTOR_CELLS) {
    return SHORT_UNIT_BYTES / bytes / VECTOR_CELLS * VECTOR_CELLS;
  }
  if (bytes <= SHORT_UNIT_BYTES) return SHORT_UNIT_BYTES / bytes;
  return sums->row.extent > 1 ? larger(1, L2_UNIT_BYTES / bytes) : 1;
}

/* The same where rows come from far. Units are few then: as many for each thread. */
static int64_t far_cells(const axn_geometry *geometry, int64_t threads) {
  const axn_partition *partition = &geometry->partition;
  const int64_t piece = geometry->sums.length.extent * (int64_t)sizeof(float);
  const int64_t bytes = partition->values * (int64_t)sizeof(float);
  const int64_t best = larger(L2_UNIT_BYTES / bytes, blocks_of(FAR_PIECE_BYTES, piece));
  const int64_t units = blocks_of(partition->cells, axn_smaller(best, most_cells(geometry)));
  return blocks_of(partition->cells, blocks_of(units, threads) * threads);
}

/* Whether nothing stays in cache in between, so that threads share rows rather than columns. */
static bool shares_rows(const axn_geometry *geometry, bool twice) {
  return geometry->sums.form == AXN_FORM_COLUMNS &&
         (!twice || fitting_cells(geometry) == INT64_MAX);
}

/* Where threads share rows, and there are not enough blocks of them for all, into how many strips the columns are cut. */
static int64_t strips(const axn_geometry *geometry, int64_t threads) {
  const axn_nest *sums = &geometry->sums;
  int64_t blocks = blocks_of(sums->row.extent, rows_of_block(sums->row.extent, sums->lanes));
  for (int i = 0; i < sums->outer.count; i++) blocks *= sums->outer.axis[i].extent;
  return larger(1, threads / larger(1, blocks));
}

static int64_t choose_unit_cells(const axn_geometry *geometry, int64_t threads, bool twice) {
  const axn_partition *partition = &geometry->partition;
  if (twice && axn_rows_are_far(geometry)) {
    return axn_smaller(far_cells(geometry, threads), partition->unit.extent);
  }
  const bool columns = geometry->sums.form == AXN_FORM_COLUMNS;
  const int64_t least = columns ? blocks_of(COLUMNS_LEAST, geometry->sums.fold) : 1;
  const int64_t share = threads > 1 ? partition->cells / (UNITS_PER_THREAD * threads) : INT64_MAX;
  const int64_t most = most_cells(geometry);
  int64_t cells = most;
  if (shares_rows(geometry, twice)) {
    cells = larger(least, partition->unit.extent / strips(geometry, threads));
  } else if (!(columns && threads == 1)) {
    /* One thread had better have whole rows: pieces of rows that lie 4 KiB apart share few sets of a cache. */
    const int64_t fit = twice ? fitting_cells(geometry) : INT64_MAX;
    cells = larger(least, axn_smaller(fit, share));
  }
  cells = axn_smaller(cells, most);
  if (columns) cells = fill_lines(cells, geometry->sums.fold);
  return axn_smaller(cells, partition->unit.extent);
}

static void set_unit_cells(axn_partition *partition, int64_t cells) {
  partition->unit_cells = cells;
  partition->along = blocks_of(partition->unit.extent, cells);
  partition->units = partition->cells / partition->unit.extent * partition->along;
}

/* Values of a block of sums in the row family. Lines shorter than there are lanes, which views have, fill few
 * of them: blocks are then so much shorter that no lane takes more terms. */
static int64_t values_of_block(const axn_geometry *geometry) {
  enum { LANES = 32 };
  const int64_t lanes = axn_smaller(LANES, geometry->sums.length.extent);
  const int64_t most = AXN_WHOLE_VALUES / LANES * lanes, values = geometry->partition.values;
  return values <= most ? AXN_WHOLE_VALUES : axn_smaller(AXN_BLOCK_VALUES, most);
}

/* How many rows of a unit are taken as one, if they are one run of memory. */
static int64_t joined_rows(const axn_partition *partition, const axn_nest *nest) {
  const int64_t columns = axn_lines_of(nest, partition->unit_cells) * nest->fold;
  if (nest->form != AXN_FORM_COLUMNS || nest->weighted ||
      (partition->along > 1 && partition->unit_cells > 1) ||
      nest->row.tensor[AXN_SIDE_X] != columns || nest->row.tensor[AXN_SIDE_Y] != columns) {
    return 1;
  }
  return rows_to_join(columns, nest->row.extent);
}

/* What blocks leave behind was written by all threads that share a unit, so all of them had better fetch some of it,
 * whole lines of the cache. */
static int64_t choose_slice_cells(const axn_geometry *geometry, int64_t threads) {
  enum { MOST_LINES = 128, LEAST_LINES = 8 };
  const axn_partition *partition = &geometry->partition;
  const int64_t per_cell = geometry->lines.lines_per_cell;
  const int64_t share = blocks_of(partition->units * partition->unit_cells * per_cell, threads);
  const int64_t lines = blocks_of(share, LEAST_LINES) * LEAST_LINES;
  return larger(1, axn_smaller(MOST_LINES, lines) / per_cell);
}

axn_geometry axn_geometry_of(const axn_axis_list *axes, int64_t threads, bool twice) {
  axn_geometry geometry = {.partition = partition_of(axes)};
  axn_partition *partition = &geometry.partition;
  const axn_axis_list plain = for_sums(&partition->axes);
  geometry.sums = nest_of(&plain, &partition->unit, twice);
  geometry.lines = nest_of(&partition->axes, &partition->unit, twice);
  set_unit_cells(partition, choose_unit_cells(&geometry, threads, twice));
  const bool rows = !twice && geometry.lines.row.extent > 1;
  partition->whole = !shares_rows(&geometry, twice);
  partition->abreast = partition->kept.count == 0 && (rows || !partition->whole);
  const int64_t widest = axn_smaller(partition->unit.extent, most_cells(&geometry));
  cut(&geometry.sums, partition->unit_cells, widest, values_of_block(&geometry));
  geometry.sums.block_lines = partition->unit_cells; /* the moments of a unit come in one go */
  cut(&geometry.lines, axn_lines_of(&geometry.lines, partition->unit_cells),
      axn_lines_of(&geometry.lines, widest), AXN_LINES_VALUES);
  geometry.sums.join = joined_rows(partition, &geometry.sums);
  geometry.lines.join = joined_rows(partition, &geometry.lines);
  geometry.slice_cells = choose_slice_cells(&geometry, threads);
  return geometry;
}

/* Cells and parameters in each other's place. */
static axn_axis_list swapped(const axn_axis_list *axes) {
  axn_axis_list list = *axes;
  for (int i = 0; i < list.count; i++) {
    list.axis[i].cell = axes->axis[i].parameter;
    list.axis[i].parameter = axes->axis[i].cell;
  }
  return list;
}

axn_geometry axn_parameter_geometry(const axn_axis_list *axes) {
  const axn_axis_list list = swapped(axes);
  axn_geometry geometry = {.partition = partition_of(&list)};
  axn_partition *partition = &geometry.partition;
  axn_nest *nest = &geometry.lines;
  const bool many = partition->cells >= MANY_PARAMETERS;
  set_unit_cells(partition,
                 axn_smaller(partition->unit.extent, many ? LONG_COLUMNS : PARAMETER_COLUMNS));
  *nest = plain_columns(&partition->unit);
  nest->outer = reduced_of(&partition->axes);
  if (nest->outer.count > 0) nest->row = nest->outer.axis[--nest->outer.count];
  cut(nest, partition->unit_cells, partition->unit_cells, AXN_BLOCK_VALUES);
  return geometry;
}

axn_geometry axn_row_parameter_geometry(const axn_axis_list *axes) {
  const axn_axis_list list = swapped(axes);
  axn_geometry geometry = {.partition = partition_of(&list)};
  axn_partition *partition = &geometry.partition;
  axn_nest *nest = &geometry.lines;
  set_unit_cells(partition, 1);
  *nest = (axn_nest){.form = AXN_FORM_ROWS,
                     .fold = 1,
                     .lanes = 1,
                     .join = 1,
                     .lines_per_cell = 1,
                     .row = {.extent = 1}};
  nest->outer = reduced_of(&partition->axes);
  nest->length = nest->outer.axis[--nest->outer.count];
  cut(nest, 1, 1, AXN_STATISTICS_VALUES);
  return geometry;
}
