/* SPDX-License-Identifier: MIT */
/*
 * Moments: statistics over many batches, or over many machines, by pooling.
 *
 * A state holds, for each statistic, how many values went into it, their mean, and M2, the sum of
 * squares about that mean. States of disjoint data merge into the state of all of it (Chan, Golub &
 * LeVeque 1979 and 1983):
 *
 *     count = count_a + count_b
 *     mean  = mean_a + (mean_b - mean_a) * count_b / count
 *     m2    = m2_a + m2_b + (mean_b - mean_a)^2 * count_a * count_b / count
 *
 * in float64. So the statistics of a data set need not be an average of averages: accumulate its
 * batches, of any sizes, then finish. docs/statistics.md has the uses: precise statistics (Wu &
 * Johnson 2021), pooling over machines, batch renormalization, an image in tiles.
 *
 *     double mean[C], m2[C];                      one entry per statistic of the plan; float64
 *                                                 whatever the type of the tensors
 *     axn_moment_state state = axn_moment_state_init();
 *     state.statistics = C, state.mean = mean, state.m2 = m2;
 *     status = axn_moments_reset(&state, NULL);
 *     for each batch:
 *       axn_moments_args args = axn_moments_init();
 *       args.x = x, args.state = &state, args.workspace = buffer, args.workspace_size = size;
 *       status = axn_moments_accumulate(plan, &args, NULL);
 *     status = axn_moments_set_running(plan, &state, running_mean, running_variance, NULL);
 *
 * Ownership: everything is the caller's; the library keeps and allocates nothing. Threads: calls on
 * different states may run at the same time, calls that change one state may not. Errors: arguments
 * are checked before anything is written; what is the same as in axisnorm.h is not said again.
 */
#ifndef AXISNORM_MOMENTS_H
#define AXISNORM_MOMENTS_H

#include "axisnorm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Start from axn_moment_state_init(), then set `statistics` and the arrays, then call
 * axn_moments_reset(). A state may be stored and sent as it is: it is no more than these numbers. */
typedef struct axn_moment_state {
  size_t struct_size;
  int64_t statistics; /* entries of mean and of m2 */
  int64_t count;      /* values per statistic so far, the same for all of them */
  double *mean;       /* [statistics] */
  double *m2;         /* [statistics]: sum of squares about the mean; M2 / count is the biased
                         variance */
} axn_moment_state;

static inline axn_moment_state axn_moment_state_init(void) {
  axn_moment_state state;
  memset(&state, 0, sizeof state);
  state.struct_size = sizeof state;
  return state;
}

/* Forgets all values: count, mean and m2 become 0. */
AXN_API axn_status axn_moments_reset(axn_moment_state *state, axn_error *error);

/* Start from axn_moments_init(). */
typedef struct axn_moments_args {
  size_t struct_size;
  const void *x;           /* the plan's elements, of its dtype, with x's strides */
  axn_moment_state *state; /* as many statistics as axn_plan_describe() says, updated */
  void *workspace;         /* the plan's training_workspace: it is a training run's first half */
  size_t workspace_size;
  int threads; /* for this call in place of the plan's number; 0 leaves the plan's */
} axn_moments_args;

static inline axn_moments_args axn_moments_init(void) {
  axn_moments_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  return args;
}

/*
 * Adds the values of x to the state, as the plan's norm divides them among statistics.
 * Nothing is normalized, and nothing of the plan but dtype, shape, layout and what chooses the axes
 * (norm with groups, axis or ghost_batch, or strategy) has a part in it; so batches of other N go into
 * the same state through plans of their own: batch normalization has C statistics whatever N is. All
 * other norms but ghost have statistics per sample: entry k of one call and entry k of the next are
 * then pooled, which makes sense for parts of the same samples (tiles of an image), not for batches of
 * different ones. Ghost has statistics per ghost batch, with the same consequence.
 * For rms the state holds mean and M2 as for any other norm; its second moment is M2 / count + mean^2.
 * One value per statistic is enough here. N = 0 adds nothing.
 * The bits do not depend on the number of threads or the instruction set. They do depend, in the
 * last places of float64, on how the data are cut into batches, and on the order of these.
 * Errors: AXN_ERROR_STATISTICS where the state has not the plan's number of statistics,
 * AXN_ERROR_OVERFLOW where the count would not fit.
 */
AXN_API axn_status axn_moments_accumulate(const axn_plan *plan, const axn_moments_args *args,
                                          axn_error *error);

/* Adds all that `from` has seen to `into`; `from` stays as it is. An empty state adds nothing. The
 * states have the same number of statistics (else AXN_ERROR_STATISTICS) and arrays of their own.
 * Merging in another order gives the same statistics, but for the last places of float64: where
 * several machines are to have the same bits, let all merge in the same order. */
AXN_API axn_status axn_moments_merge(axn_moment_state *into, const axn_moment_state *from,
                                     axn_error *error);

/* What axn_moments_finish() writes. Start from axn_moment_results_init(). */
typedef struct axn_moment_results {
  size_t struct_size;
  float *mean;                        /* optional, [statistics] */
  float *variance;                    /* optional, [statistics] */
  float *rstd;                        /* optional, [statistics]: 1 / sqrt(variance + epsilon) of the
                                         biased variance, whatever `variance_kind` is */
  axn_running_variance variance_kind; /* of `variance`: biased by default, M2 / count; unbiased is
                                         M2 / (count - 1) */
  double epsilon;                     /* for rstd alone; 1e-5 by default */
} axn_moment_results;

static inline axn_moment_results axn_moment_results_init(void) {
  axn_moment_results results;
  memset(&results, 0, sizeof results);
  results.struct_size = sizeof results;
  results.variance_kind = AXN_RUNNING_VARIANCE_BIASED;
  results.epsilon = 1e-5;
  return results;
}

/* Rounds a state to float, once; the state stays, and may go on. After one accumulate into an empty
 * state, mean and rstd are the bits that axn_forward_training() gives for the same x and epsilon; but
 * for AXN_FLOAT64 they are float where that gives double (the state has the doubles), and for rms,
 * whose rstd is that of the second moment, they are mean and rstd of layer normalization.
 * Errors: AXN_ERROR_STATISTICS where the state has seen no value, AXN_ERROR_TOO_FEW_VALUES where it
 * has seen one and the unbiased variance is asked for, AXN_ERROR_OPTION, AXN_ERROR_EPSILON. */
AXN_API axn_status axn_moments_finish(const axn_moment_state *state,
                                      const axn_moment_results *results, axn_error *error);

/*
 * Running statistics from a state, in place of a running average: what was in running_mean and
 * running_variance, [running_statistics] of the type that the plan's runs take (float, double with
 * AXN_FLOAT64), is overwritten. The variance is of the kind that the plan's running_variance asks for,
 * with the state's count. A state of the plan's number of statistics, which has seen more than one
 * value (AXN_ERROR_TOO_FEW_VALUES; for the biased variance one will do); of the plan nothing else has
 * a part in it.
 *   Batch: the statistics of all values seen.
 *   Instance: a channel has N statistics, and their averages count, as in training. That is right
 * after one call of axn_moments_accumulate() (or several on parts of the same samples). For the
 * average over many batches use axn_forward_training() with AXN_MOMENTUM_CUMULATIVE; for the variance
 * of a channel over all samples together, what lies between them included, a plan of batch
 * normalization.
 *   Ghost: a channel has a statistic per ghost batch, and their averages count likewise.
 *   Layer, group, rms and positional normalization keep none: AXN_ERROR_STATISTICS.
 */
AXN_API axn_status axn_moments_set_running(const axn_plan *plan, const axn_moment_state *state,
                                           void *running_mean, void *running_variance,
                                           axn_error *error);

/* The same, but moves the running statistics as axn_forward_training() would have done, had it seen
 * all the state's values as one batch: with the plan's momentum; for ghost once per ghost batch, in
 * turn. For a batch that came in several pieces, or was spread over machines. batch_count: optional,
 * batches so far, incremented (by the number of ghost batches); required with AXN_MOMENTUM_CUMULATIVE. */
AXN_API axn_status axn_moments_update_running(const axn_plan *plan, const axn_moment_state *state,
                                              void *running_mean, void *running_variance,
                                              int64_t *batch_count, axn_error *error);

#ifdef __cplusplus
}
#endif

#endif
