/* SPDX-License-Identifier: MIT */
/*
 * Backward through an activation: g = grad_y * activation'(z), with z found again as forward found it. g takes
 * the place of grad_y in all that follows, in grad_residual where that is due, else in grad_x, which is
 * overwritten last.
 */
#include <string.h>

#include "apply.h"
#include "backward.h"

/* Statistics in the terms of apply. */
static void set_statistics(const axn_backward_run *run, const axn_place *unit,
                           axn_apply_statistics *statistics) {
  axn_unit_statistics known;
  axn_read_statistics(run, unit, &known);
  for (int64_t j = 0; j < axn_padded(unit->cells); j++) {
    const bool there = j < unit->cells;
    const double mean = there ? known.exact_mean[j] : 0;
    statistics->mean[j] = mean;
    statistics->rstd[j] = there ? known.exact_rstd[j] : 1;
    statistics->mean_high[j] = (float)mean;
    statistics->mean_low[j] = mean - (double)statistics->mean_high[j];
  }
  statistics->wide = known.wide;
}

static void apply_part(const axn_backward_run *run, const axn_place *unit, int64_t begin,
                       int64_t end) {
  axn_apply_statistics statistics;
  const axn_apply_run apply = {.plan = run->plan,
                               .geometry = run->geometry,
                               .x = run->x,
                               .y = run->activated,
                               .y_side = run->gradient_side,
                               .scale = run->scale,
                               .shift = run->shift,
                               .ending = run->ending};
  set_statistics(run, unit, &statistics);
  axn_apply_part(&apply, unit, &statistics, begin, end);
}

void axn_backward_ending(const axn_backward_run *run, const axn_place *unit) {
  if (run->activated == NULL) return;
  apply_part(run, unit, 0, axn_blocks_of(&run->geometry->lines, unit->cells));
}

static void ending_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  while (begin < end) {
    const axn_part part = axn_part_at(run->geometry, begin, end);
    const axn_place unit = axn_unit_at(&run->geometry->partition, part.unit);
    apply_part(run, &unit, part.first, part.first + part.count);
    begin += part.count;
  }
}

void axn_backward_all_endings(axn_backward_run *run) {
  if (run->activated == NULL) return;
  const int64_t units = run->geometry->partition.units;
  axn_run(&run->runner, units * axn_blocks_of_unit(run->geometry), ending_task, run);
}
