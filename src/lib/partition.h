/* SPDX-License-Identifier: MIT */
/*
 * Partition: from axes to a short loop nest. Pure; knows neither memory nor threads.
 *
 * A *cell* is what one result is computed for: a statistic, or a parameter when gradients of scale
 * and shift are summed. Axes along which the cell stays the same are reduced. A *unit* is what is
 * worked on together: a run of neighbouring cells. Its elements are seen as *lines*: runs of
 * elements with the same statistic (and, where parameters play a part, the same parameter). Lines
 * either follow each other in memory (row family) or lie side by side, one per column (column
 * family); a nest says how, and cuts a unit into *blocks* of lines x rows x length.
 *
 * Where a block of sums begins follows from the shape of the reduced axes alone. How many cells make
 * a unit may depend on anything: no cell sees its neighbours.
 */
#ifndef AXN_LIB_PARTITION_H
#define AXN_LIB_PARTITION_H

#include <stdbool.h>

#include "kernels/sizes.h"
#include "side.h"
#include "strategy.h"

enum {
  AXN_MAX_AXES = AXN_MAX_RANK + 1, /* one axis may be split */
  /* Row family: values of a cell that is summed in one block; of a block of a longer cell; of a block
   * of lines, for all else. */
  AXN_WHOLE_VALUES = 65536,
  AXN_BLOCK_VALUES = 8192,
  AXN_LINES_VALUES = 32768,
  /* Column family: rows of a block, at most. */
  AXN_BLOCK_ROWS = 256,
  /* Where statistics change along a row: of a block. */
  AXN_STATISTICS_VALUES = 1024,
  /* Rows no longer than the first, of which a statistic has no fewer than the second, are folded. */
  AXN_FOLDED_ROW = 64,
  AXN_FOLDED_ROWS = 16
};

static inline int64_t axn_smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

typedef struct axn_axis {
  int64_t extent;
  int64_t tensor[AXN_SIDES]; /* strides in elements of x and of y */
  int64_t cell;              /* stride in cells; 0: reduced */
  int64_t
      parameter;   /* stride in the other broadcast array: parameters where cells are statistics */
  int64_t segment; /* stride in the nest's segments */
} axn_axis;

typedef struct axn_axis_list {
  int count;
  axn_axis axis[AXN_MAX_AXES];
} axn_axis_list;

/* What varies along the lines of a block. */
typedef enum axn_form {
  AXN_FORM_ROWS,    /* lines are runs of memory */
  AXN_FORM_COLUMNS, /* lines are columns */
  AXN_FORM_WEIGHTED /* lines are runs of memory, with a parameter for each of their elements */
} axn_form;

/* How the elements of a unit are walked. */
typedef struct axn_nest {
  axn_form form;
  bool weighted; /* parameters meet elements, not lines: each of a line has its own, or each row */
  int64_t fold;  /* neighbouring columns that make one line; 1 in the other forms */
  int64_t lines_per_cell;         /* lines of a cell that differ in their parameter */
  int64_t line_tensor[AXN_SIDES]; /* strides from line to line, in the tensors */
  int64_t cell_parameter;         /* stride of a line's parameter from cell to cell, */
  int64_t line_parameter;         /* and from line to line of a cell */
  axn_axis length;                /* of a line, where it is a run of memory; else of extent 1 */
  axn_axis row;        /* the axis along which lines are repeated; extent 1 where there is none */
  axn_axis_list outer; /* what else is reduced */
  int64_t segments;    /* parameters that one line meets along the outer axes, 1 but in odd cases */
  int64_t
      lanes; /* of a column, in which its rows take turns: where rows are short, to fill vectors */
  int64_t join;     /* rows of columns, where they are one run of memory, that are taken as one */
  bool lines_first; /* lines of the row family follow each other in memory before their rows do */
  int64_t block_lines, block_rows, block_length; /* of a full block */
  int64_t row_blocks, length_blocks;
  int64_t blocks; /* for the same lines */
} axn_nest;

typedef struct axn_partition {
  axn_axis unit;      /* the kept axis along which the cells of a unit lie; extent 1 if none is */
  axn_axis_list kept; /* the other kept axes */
  int64_t unit_cells; /* of a full unit */
  int64_t along;      /* units along that axis */
  int64_t units;      /* in all */
  int64_t cells;      /* in all */
  int64_t values;     /* elements per cell */
  bool far;           /* the tensor is too large for caches near a core */
  /* All units, or the only one, lie side by side, and threads had better share their rows: each has a run of
   * memory then, as it has in the layers before and after. `whole`: but not for sums. */
  bool abreast, whole;
  axn_axis_list axes; /* canonical: all of them, the innermost last */
} axn_partition;

/* One way to cut the tensor. */
typedef struct axn_geometry {
  axn_partition partition;
  axn_nest sums;  /* for sums over x alone: a line is a whole cell, strides of y play no part */
  axn_nest lines; /* for all that knows parameters */
  int64_t slice_cells; /* of a unit that threads share, how many are merged at a time */
} axn_geometry;

/* Whether lines have several rows, which lie too far apart for caches and prefetching to help from one to the
 * next: what a unit has of a row is then better long. */
static inline bool axn_rows_are_far(const axn_geometry *geometry) {
  const axn_nest *sums = &geometry->sums;
  return geometry->partition.far && sums->form != AXN_FORM_COLUMNS && sums->row.extent > 1;
}

/* What is called for a plan and not for a run: better small than fast. */
#define AXN_SELDOM __attribute__((cold))

/* Axes in the order of the layout, outermost first; the descriptor's strides are those of memory, all filled
 * in. */
axn_axis_list axn_list_axes(const axn_desc *desc, const axn_axes *axes);

/* The same axes with one cell per parameter: what given statistics per channel normalize. */
axn_axis_list axn_cell_per_parameter(const axn_axis_list *axes);

/* For work on about so many threads; `twice`: a unit is visited first for its sums, so that it had better
 * fit a cache. What is visited once is better visited in the order of memory. */
AXN_SELDOM axn_geometry axn_geometry_of(const axn_axis_list *axes, int64_t threads, bool twice);

/* Cells and parameters in each other's place: cells are parameters, one per column, and what was a
 * cell is the parameter of a row. For lists whose innermost axis has parameters. */
AXN_SELDOM axn_geometry axn_parameter_geometry(const axn_axis_list *axes);

/* The same for lists whose innermost axis has none: cells are parameters, and their lines runs of memory along
 * which what was a cell changes from element to element. */
AXN_SELDOM axn_geometry axn_row_parameter_geometry(const axn_axis_list *axes);

/* Lines of a unit; how often they fill `block_lines`, the last time perhaps in part. */
static inline int64_t axn_lines_of(const axn_nest *nest, int64_t cells) {
  return cells * nest->lines_per_cell;
}

static inline int64_t axn_chunks_of(const axn_nest *nest, int64_t cells) {
  return (axn_lines_of(nest, cells) + nest->block_lines - 1) / nest->block_lines;
}

/* Lines of chunk `chunk`; none where the unit has fewer chunks than a full one. */
static inline int64_t axn_lines_of_chunk(const axn_nest *nest, int64_t cells, int64_t chunk) {
  const int64_t left = axn_lines_of(nest, cells) - chunk * nest->block_lines;
  return left < nest->block_lines ? left : nest->block_lines;
}

/* Blocks of so many cells, for all their lines. */
static inline int64_t axn_blocks_of(const axn_nest *nest, int64_t cells) {
  return nest->blocks * axn_chunks_of(nest, cells);
}

/* Blocks of lines of a full unit. */
static inline int64_t axn_blocks_of_unit(const axn_geometry *geometry) {
  return axn_blocks_of(&geometry->lines, geometry->partition.unit_cells);
}

#endif
