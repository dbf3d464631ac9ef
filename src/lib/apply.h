/* SPDX-License-Identifier: MIT */
/*
 * Apply: from statistics that are known to outputs, block by block. Forward's second half, and where backward
 * finds again what an activation was applied to.
 */
#ifndef AXN_LIB_APPLY_H
#define AXN_LIB_APPLY_H

#include "place.h"
#include "plan.h"

typedef struct axn_apply_run {
  const axn_plan *plan;
  const axn_geometry *geometry;
  const void *x;
  void *y;
  axn_side y_side;           /* how y lies; what it ends with lies as y does in forward */
  const void *scale, *shift; /* reals; may be null */
  axn_ending ending;
  bool streams; /* y goes past the caches */
} axn_apply_run;

/* The statistics of a unit. Entries past its cells, up to a whole vector, are those of any numbers. */
typedef struct axn_apply_statistics {
  AXN_LINES_OF_CACHE double mean[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE double variance[AXN_LINE_ROOM]; /* not used to apply */
  double rstd[AXN_LINE_ROOM];
  float mean_high[AXN_LINE_ROOM]; /* the mean as float */
  double mean_low[AXN_LINE_ROOM]; /* the rest of it */
  bool wide;                      /* some cell needs float64 */
} axn_apply_statistics;

/* Applies the blocks from `begin` to `end` of a unit, counted through all its lines. */
void axn_apply_part(const axn_apply_run *run, const axn_place *unit,
                    const axn_apply_statistics *statistics, int64_t begin, int64_t end);

#endif
