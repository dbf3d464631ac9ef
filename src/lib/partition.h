/* SPDX-License-Identifier: MIT */
/*
 * Partition: from axes to a short loop nest. Pure; knows neither memory nor threads.
 *
 * A *cell* is what one result is computed for: a statistic, or a parameter when gradients of scale
 * and shift are summed. Axes along which the cell stays the same are reduced. After neighbours that
 * play the same role have been merged, the innermost axis is either reduced (row family: sums along
 * memory) or kept (column family: many cells side by side). Cells of a short row each are taken
 * side by side too: the column family again, with a stride from column to column. A *unit* is what
 * is worked on together: one cell in the row family, a run of neighbouring cells in the column
 * family. The elements of a unit are a *nest*, cut into *blocks* of rows x columns whose bounds
 * follow from the shape alone.
 */
#ifndef AXN_LIB_PARTITION_H
#define AXN_LIB_PARTITION_H

#include <stdbool.h>

#include "kernels/tile.h"
#include "strategy.h"

enum {
  AXN_MAX_AXES = AXN_MAX_RANK + 1, /* one axis may be split */
  AXN_BLOCK_VALUES = 4096, /* of a row block: 16 KiB of float, read twice from first-level cache */
  AXN_BLOCK_ROWS = 128,    /* of a column block */
  AXN_BLOCK_COLUMNS = 64,  /* cells of a unit in the column family, at most */
  AXN_BLOCK_FACTORS = 128, /* room for one factor per row or per column of a block */
  AXN_SHORT_ROW = 64,      /* rows up to this, and cells up to */
  AXN_SHORT_CELL = AXN_TILE_ROWS,      /* this, are taken side by side, */
  AXN_SHORT_COLUMNS = AXN_TILE_COLUMNS /* so many at a time */
};

typedef struct axn_axis {
  int64_t extent;
  int64_t tensor; /* stride in elements of x */
  int64_t cell;   /* stride in cells; 0: reduced */
  int64_t
      parameter;   /* stride in the other broadcast array: parameters where cells are statistics */
  int64_t segment; /* stride in the unit's segments: runs of elements with the same parameter */
} axn_axis;

typedef struct axn_axis_list {
  int count;
  axn_axis axis[AXN_MAX_AXES];
} axn_axis_list;

/* The reduced part of a unit. */
typedef struct axn_nest {
  axn_axis_list outer;
  axn_axis row;                      /* extent 1 where the unit is one run of memory */
  axn_axis column;                   /* innermost in the row family, else the unit's cells */
  int64_t rows, columns;             /* of a full block */
  int64_t row_blocks, column_blocks; /* along each */
  int64_t blocks;                    /* of a unit, all together */
} axn_nest;

typedef struct axn_partition {
  bool column_family;
  axn_axis column;      /* column family: the axis along which the cells of a unit lie */
  axn_axis_list kept;   /* the other kept axes */
  int64_t unit_columns; /* cells of a full unit */
  int64_t column_units; /* units along that axis */
  int64_t units;
  int64_t cells;
  int64_t values;     /* elements per cell */
  int64_t segments;   /* parameters that a unit meets along its reduced axes */
  axn_axis_list axes; /* canonical: all of them, the innermost last */
} axn_partition;

/* Where a unit or a block lies; offsets of a block are relative to its unit. */
typedef struct axn_place {
  int64_t tensor, cell, parameter, segment;
  int64_t rows, columns;
} axn_place;

/* Axes in the order of memory, outermost first. */
axn_axis_list axn_list_axes(const axn_desc *desc, const axn_axes *axes);

/* The same axes with one cell per parameter: what given statistics per channel normalize. */
axn_axis_list axn_cell_per_parameter(const axn_axis_list *axes);

/* The same axes with cells and parameters in each other's place. */
axn_axis_list axn_exchange(const axn_axis_list *axes);

axn_partition axn_partition_of(const axn_axis_list *axes);

/* How the rows of a block may differ. */
typedef enum axn_rows {
  AXN_ROWS_PLAIN,    /* parameters play no part: as few, long rows as the cells allow */
  AXN_ROWS_ALIKE,    /* every row has the same parameters */
  AXN_ROWS_SEPARATE, /* likewise, or each row has one of its own: short rows that fit a tile */
  AXN_ROWS_DIFFER    /* parameters may change from row to row; at most AXN_BLOCK_ROWS rows */
} axn_rows;

axn_nest axn_nest_of(const axn_partition *partition, axn_rows rows);

/* Whether the rows of a nest have a parameter each and are short enough for a tile. */
bool axn_rows_separate(const axn_nest *nest);

/* Unit `index` of the partition; columns is the number of cells it has. */
axn_place axn_unit_at(const axn_partition *partition, int64_t index);

/* Block `index` of a unit with that many cells. */
axn_place axn_block_at(const axn_nest *nest, int64_t index, int64_t unit_columns);

/* Offset, in parameters, of a segment of a unit. */
int64_t axn_segment_parameter(const axn_partition *partition, int64_t segment);

#endif
