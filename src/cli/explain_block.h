/* SPDX-License-Identifier: MIT */
/* A tensor as a block of few enough cells to be drawn, and which of them share a statistic. What
 * is coloured follows from the axes that the library reports, whatever the norm. */
#ifndef AXISNORM_EXPLAIN_BLOCK_H
#define AXISNORM_EXPLAIN_BLOCK_H

#include "prepare.h"

struct block {
  int rank;
  int cells[AXN_MAX_RANK]; /* drawn along each axis */
  int groups;              /* drawn of the split axis, 1 where none is */
  uint32_t reduced_axes;
  int split_axis;
  bool whole; /* every element has a cell of its own */
};

struct block block_of(const struct prepared *prepared);

/* All spatial axes as one: its cells, 1 where there are none. */
int block_spatial_cells(const struct block *block);

/* Whether the cell shares the statistic of cell 0, 0, 0. */
bool block_shares(const struct block *block, int sample, int channel, int spatial);

/* "N", "C", "D", "H", "W" for the axes of that rank. */
const char *axis_name(int rank, int axis);

#endif
