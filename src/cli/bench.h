/* SPDX-License-Identifier: MIT */
/* The parts of axisnorm bench. */
#ifndef AXISNORM_BENCH_H
#define AXISNORM_BENCH_H

#include "copy.h"
#include "prepare.h"
#include "timing.h"

/* The cases of a CSV file with the columns norm,n,c,d,h,w,groups,ghost_batch, named by its first line,
 * in any order; further columns are passed over. Only norms in the list are kept. The caller frees. */
enum outcome bench_read_cases(const char *path, const struct norm_list *norms,
                              struct wanted **cases, int *count);

/* The fastest that memory allows for a pass: the sum of up to three passes over memory, a reading, a
 * copy and a triad, each the best of its candidates. */
struct bench_limit {
  const char *kind;
  int count; /* of works, all candidates */
  struct memory_work works[MEMORY_PASSES];
};

/* Arrays of the case: the passes over memory use those that the norm uses. */
struct bench_arrays {
  struct tensor x, y, grad_y, grad_x, mean, rstd, running_mean, running_variance;
  /* Without data where there are none: */
  struct tensor residual, grad_residual, scale, shift, grad_scale, grad_shift;
};

void bench_choose_limit(struct bench_limit *limit, enum pass pass, const struct prepared *prepared,
                        const struct bench_arrays *arrays);

/* The limit of every round, from the samples of its works, in the same order. */
void bench_limit_samples(const struct bench_limit *limit, const struct timed *works, int rounds,
                         double samples[TIMING_ROUNDS_MOST]);

#endif
