/* SPDX-License-Identifier: MIT */
/*
 * Backward through an activation: g = grad_y * activation'(z), with z found again as forward found it. g takes
 * the place of grad_y in all that follows, in grad_residual where that is due, else in grad_x, which is
 * overwritten last. ReLU and leaky ReLU may be taken in passing instead, where grad_y is read.
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
                               .y_side = run->activated == run->grad_x ? AXN_SIDE_X : AXN_SIDE_Y,
                               .scale = run->scale,
                               .shift = run->shift,
                               .ending = run->ending};
  set_statistics(run, unit, &statistics);
  axn_apply_part(&apply, unit, &statistics, begin, end);
}

void axn_backward_ending(const axn_backward_run *run, const axn_place *unit) {
  if (run->activated == NULL || run->past_corner) return;
  apply_part(run, unit, 0, axn_blocks_of(&run->geometry->lines, unit->cells));
}

static void ending_task(void *data, int64_t begin, int64_t end) {
  const axn_backward_run *run = data;
  axn_walk walk = {begin, end, 0};
  axn_part part;
  while (
      axn_next_part(&run->geometry->partition, axn_blocks_of_unit(run->geometry), &walk, &part)) {
    const axn_place unit = axn_unit_at(&run->geometry->partition, part.unit);
    apply_part(run, &unit, part.first, part.first + part.count);
  }
}

void axn_backward_all_endings(axn_backward_run *run) {
  if (run->activated == NULL || run->past_corner) return;
  const int64_t units = run->geometry->partition.units;
  axn_run(&run->runner, units * axn_blocks_of_unit(run->geometry), ending_task, run);
}

/* ---- in passing ---- */

/* Of shorter rows, what is due between one and the next costs more than a pass of its own. */
enum { SHORT_ROW = 128 };

bool axn_goes_past_corner(const axn_backward_run *run) {
  const axn_nest *nest = &run->geometry->lines;
  const axn_activation activation = run->ending.activation;
  /* A block that is odd takes a pass of its own after all, with the same bits: what that leaves in 16 bits is rounded if
   * it leaks. */
  const bool corner = activation == AXN_ACTIVATION_RELU ||
                      (activation == AXN_ACTIVATION_LEAKY_RELU && run->plan->element_size > 2);
  /* grad_x is where a block that is odd finds its own, twice: grad_y is to be there still. */
  const bool apart = run->activated == run->grad_x && run->grad_x != run->grad_y;
  const bool fits = !nest->weighted && nest->segments == 1 &&
                    (nest->form == AXN_FORM_COLUMNS || nest->length.extent >= SHORT_ROW);
  return corner && run->ending.residual == NULL && apart && fits && !run->frozen &&
         !run->plan->doubles;
}

void axn_find_corner(const axn_backward_run *run, const axn_place *unit,
                     const axn_unit_statistics *statistics, int64_t first, int64_t lines,
                     axn_line_values *values) {
  double zeros[AXN_LINE_ROOM];
  float mean[AXN_LINE_ROOM];
  /* Statistics that are handed on as float have no rest. */
  memset(zeros, 0, (size_t)axn_padded(unit->cells) * sizeof *zeros);
  const axn_factors_block block = {.map = axn_line_map_of(&run->geometry->lines, first, lines),
                                   .mean_high = statistics->mean,
                                   .mean_low = zeros,
                                   .rstd = statistics->exact_rstd,
                                   .scale = axn_parameters_at(run->scale, unit->parameter),
                                   .shift = axn_parameters_at(run->shift, unit->parameter),
                                   .mean_out = mean,
                                   .multiplier = values->multiplier,
                                   .offset = values->bound};
  values->corner_held = run->plan->kernels->factors(&block) && !statistics->wide;
  /* A sum of floats is above 0 where one is above minus the other. */
  const int64_t count = lines * run->geometry->lines.fold * run->geometry->lines.join;
  for (int64_t i = 0; i < count; i++) values->bound[i] = -values->bound[i];
}

axn_backward_run axn_after_ending(const axn_backward_run *run, const axn_backward_step *step) {
  const axn_nest *nest = &run->geometry->lines;
  axn_backward_run after = *run;
  const int64_t block = step->first / nest->block_lines * nest->blocks + step->block;
  apply_part(run, step->unit, block, block + 1);
  after.past_corner = false;
  after.grad_y = run->activated;
  after.gradient_side = AXN_SIDE_X;
  return after;
}
