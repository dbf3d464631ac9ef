/* SPDX-License-Identifier: MIT */
/* Where the units and blocks of a partition lie in the tensors and in the arrays beside them. Pure, like it. */
#ifndef AXN_LIB_PLACE_H
#define AXN_LIB_PLACE_H

#include "partition.h"

/* Where a unit lies. */
typedef struct axn_place {
  int64_t tensor[AXN_SIDES], cell, parameter;
  int64_t cells;
} axn_place;

/* Where a block lies, relative to its unit. */
typedef struct axn_block {
  int64_t tensor[AXN_SIDES], parameter, segment;
  int64_t rows, length;
} axn_block;

/* Unit `index` of the partition. */
axn_place axn_unit_at(const axn_partition *partition, int64_t index);

/* The cells of a place from `skip` on, so many of them. */
static inline axn_place axn_place_after(const axn_place *place, const axn_axis *unit, int64_t skip,
                                        int64_t cells) {
  return (axn_place){.tensor = {place->tensor[AXN_SIDE_X] + skip * unit->tensor[AXN_SIDE_X],
                                place->tensor[AXN_SIDE_Y] + skip * unit->tensor[AXN_SIDE_Y]},
                     .cell = place->cell + skip * unit->cell,
                     .parameter = place->parameter + skip * unit->parameter,
                     .cells = cells};
}

/* Block `index`, of those for the same lines. */
axn_block axn_block_at(const axn_nest *nest, int64_t index);

/* Blocks that follow each other in a unit. */
typedef struct axn_part {
  int64_t unit, first, count;
} axn_part;

/* A walk through blocks, counted through all units, from `begin` to before `end`: counted unit after unit, or,
 * where these lie abreast, row after row of them; walked unit by unit. A part is what it meets of one unit. */
typedef struct axn_walk {
  int64_t begin, end;
  int64_t unit; /* abreast: the next; 0 at first */
} axn_walk;

/* The next part, of units of so many blocks; false where there is none. */
bool axn_next_part(const axn_partition *partition, int64_t blocks, axn_walk *walk, axn_part *part);

/* Some cells of a unit, whose sums of blocks are merged by one task. */
typedef struct axn_slice {
  int64_t unit; /* which, */
  int64_t skip; /* cells of it before these; and */
  axn_place at; /* where these lie */
} axn_slice;

/* Of a full unit. */
static inline int64_t axn_slices_of_unit(const axn_geometry *geometry) {
  return (geometry->partition.unit_cells + geometry->slice_cells - 1) / geometry->slice_cells;
}

/* Slice `index`, counted through all units; of no cells where the unit has fewer than a full one. */
axn_slice axn_slice_at(const axn_geometry *geometry, int64_t index);

/* Offset, in parameters, of a line of a unit. */
static inline int64_t axn_line_parameter(const axn_nest *nest, int64_t line) {
  return line / nest->lines_per_cell * nest->cell_parameter +
         line % nest->lines_per_cell * nest->line_parameter;
}

/* Offset, in parameters, of a segment. */
int64_t axn_segment_parameter(const axn_nest *nest, int64_t segment);

#endif
