/* SPDX-License-Identifier: MIT */
/* The public moments: a caller's states, checked; accumulated by the forward schedule, merged,
 * finished. */
#include <math.h>
#include <string.h>

#include "axisnorm/moments.h"
#include "check.h"
#include "error.h"
#include "kernels/range.h"
#include "moments.h"
#include "plan.h"
#include "real.h"
#include "running.h"

/* ---- states ---- */

/* A state whose count need not mean anything yet. */
static axn_status read_new_state(const axn_moment_state *theirs, axn_moment_state *ours,
                                 const char *name, axn_error *error) {
  const axn_status status = axn_read_struct(ours, sizeof *ours, sizeof *ours, theirs, name, error);
  if (status != AXN_OK) return status;
  if (ours->statistics < 0) {
    return axn_fail(error, AXN_ERROR_STATISTICS, "%s: statistics is %lld, below 0", name,
                    (long long)ours->statistics);
  }
  if (ours->statistics > PTRDIFF_MAX / (int64_t)sizeof(double)) {
    return axn_fail(error, AXN_ERROR_OVERFLOW, "%s: statistics is %lld, too many for memory", name,
                    (long long)ours->statistics);
  }
  return AXN_OK;
}

static axn_status read_state(const axn_moment_state *theirs, axn_moment_state *ours,
                             const char *name, axn_error *error) {
  const axn_status status = read_new_state(theirs, ours, name, error);
  if (status != AXN_OK || ours->count >= 0) return status;
  return axn_fail(error, AXN_ERROR_STATISTICS,
                  "%s: count is %lld, below 0; start with axn_moments_reset", name,
                  (long long)ours->count);
}

/* A state to take results from: it has what its variance takes. */
static axn_status read_filled_state(const axn_moment_state *theirs, axn_moment_state *ours,
                                    axn_running_variance kind, axn_error *error) {
  const axn_status status = read_state(theirs, ours, "state", error);
  if (status != AXN_OK) return status;
  if (ours->count == 0) {
    return axn_fail(error, AXN_ERROR_STATISTICS, "state: has seen no values");
  }
  if (ours->count == 1 && kind == AXN_RUNNING_VARIANCE_UNBIASED) {
    return axn_fail(error, AXN_ERROR_TOO_FEW_VALUES,
                    "state: has seen one value per statistic; the unbiased variance takes two");
  }
  return AXN_OK;
}

static axn_status check_statistics(const axn_moment_state *state, int64_t due, const char *other,
                                   axn_error *error) {
  if (state->statistics == due) return AXN_OK;
  return axn_fail(error, AXN_ERROR_STATISTICS, "state: has %lld statistics, %s has %lld",
                  (long long)state->statistics, other, (long long)due);
}

static axn_status check_count(const axn_moment_state *state, int64_t more, axn_error *error) {
  if (more <= INT64_MAX - state->count) return AXN_OK;
  return axn_fail(error, AXN_ERROR_OVERFLOW, "count: %lld and %lld more do not fit",
                  (long long)state->count, (long long)more);
}

static axn_buffer buffer_of(const char *name, const double *values, const axn_moment_state *state,
                            bool written) {
  return (axn_buffer){name, values, state->statistics, sizeof(double), true, written, NULL,
                      NULL, NULL};
}

axn_status axn_moments_reset(axn_moment_state *state, axn_error *error) {
  axn_moment_state ours;
  axn_status status = read_new_state(state, &ours, "state", error);
  if (status != AXN_OK) return status;
  const axn_buffer buffers[] = {buffer_of("mean", ours.mean, &ours, true),
                                buffer_of("m2", ours.m2, &ours, true)};
  status = axn_check_buffers(buffers, 2, error);
  if (status != AXN_OK) return status;
  state->count = 0;
  for (int64_t k = 0; k < ours.statistics; k++) ours.mean[k] = ours.m2[k] = 0;
  return axn_succeed(error);
}

/* ---- adding to a state ---- */

/* Moments that go into a state. */
typedef struct addition {
  const axn_moment_state *state;
  axn_moments moments;
  int64_t count;
} addition;

/* An empty state takes over what it gets, infinities and all, without arithmetic. */
static void add_task(void *data, int64_t begin, int64_t end) {
  const addition *add = data;
  if (begin == end) return; /* arrays of no statistics may be null */
  const axn_moments total = {add->state->mean + begin, add->state->m2 + begin};
  const axn_moments part = {add->moments.mean + begin, add->moments.m2 + begin};
  if (add->state->count > 0) {
    axn_merge_moments(total, (double)add->state->count, part, (double)add->count, end - begin);
    return;
  }
  for (int64_t k = 0; k < end - begin; k++) {
    total.mean[k] = part.mean[k];
    total.m2[k] = part.m2[k];
  }
}

static axn_status check_accumulate(const axn_plan *plan, const axn_moments_args *args,
                                   const axn_moment_state *state, axn_error *error) {
  const size_t needed = axn_training_bytes(plan);
  const axn_buffer buffers[] = {
      {"x", args->x, plan->elements, plan->element_size, true, false, NULL, NULL,
       &plan->views[AXN_SIDE_X]},
      buffer_of("mean", state->mean, state, true),
      buffer_of("m2", state->m2, state, true),
      {"state", args->state, (int64_t)sizeof *state, 1, true, true, NULL, NULL, NULL},
      {"workspace", args->workspace, (int64_t)needed, 1, false, true, NULL, NULL, NULL},
  };
  axn_status status = axn_check_threads(args->threads, error);
  if (status == AXN_OK) {
    status = check_statistics(state, axn_statistics(plan), "the plan", error);
  }
  if (status == AXN_OK && plan->elements > 0) {
    status = check_count(state, plan->own.partition.values, error);
  }
  if (status == AXN_OK) {
    status = axn_check_workspace(args->workspace, args->workspace_size, needed, error);
  }
  if (status != AXN_OK) return status;
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

axn_status axn_moments_accumulate(const axn_plan *plan, const axn_moments_args *caller_args,
                                  axn_error *error) {
  axn_moments_args args;
  axn_moment_state state;
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  axn_status status = axn_read_struct(&args, sizeof args, sizeof args, caller_args, "args", error);
  if (status == AXN_OK) status = read_state(args.state, &state, "state", error);
  if (status == AXN_OK) status = check_accumulate(plan, &args, &state, error);
  if (status != AXN_OK) return status;
  if (plan->elements > 0) {
    const axn_runner runner = axn_runner_of(&plan->desc, args.threads, plan->elements);
    addition add = {&state, axn_sum_moments(plan, &runner, args.x, args.workspace),
                    plan->own.partition.values};
    axn_run(&runner, state.statistics, add_task, &add);
    args.state->count = state.count + add.count;
  }
  return axn_succeed(error);
}

axn_status axn_moments_merge(axn_moment_state *into, const axn_moment_state *from,
                             axn_error *error) {
  axn_moment_state total, part;
  axn_status status = read_state(into, &total, "into", error);
  if (status == AXN_OK) status = read_state(from, &part, "from", error);
  if (status != AXN_OK) return status;
  const axn_buffer buffers[] = {buffer_of("into's mean", total.mean, &total, true),
                                buffer_of("into's m2", total.m2, &total, true),
                                buffer_of("from's mean", part.mean, &part, false),
                                buffer_of("from's m2", part.m2, &part, false)};
  if (total.statistics != part.statistics) {
    return axn_fail(error, AXN_ERROR_STATISTICS, "into: has %lld statistics, from has %lld",
                    (long long)total.statistics, (long long)part.statistics);
  }
  status = check_count(&total, part.count, error);
  if (status == AXN_OK) status = axn_check_buffers(buffers, 4, error);
  if (status != AXN_OK) return status;
  if (part.count > 0) {
    addition add = {&total, {part.mean, part.m2}, part.count};
    add_task(&add, 0, total.statistics);
    into->count = total.count + part.count;
  }
  return axn_succeed(error);
}

/* ---- results ---- */

static axn_status check_kind(axn_running_variance kind, axn_error *error) {
  if (kind == AXN_RUNNING_VARIANCE_UNBIASED || kind == AXN_RUNNING_VARIANCE_BIASED) return AXN_OK;
  return axn_fail(error, AXN_ERROR_OPTION, "variance_kind: %d is unknown", (int)kind);
}

static axn_status check_results(const axn_moment_state *state, const axn_moment_results *results,
                                axn_error *error) {
  const size_t value = sizeof(float);
  const axn_buffer buffers[] = {
      buffer_of("state's mean", state->mean, state, false),
      buffer_of("state's m2", state->m2, state, false),
      {"mean", results->mean, state->statistics, value, false, true, NULL, NULL, NULL},
      {"variance", results->variance, state->statistics, value, false, true, NULL, NULL, NULL},
      {"rstd", results->rstd, state->statistics, value, false, true, NULL, NULL, NULL},
  };
  if (results->rstd != NULL && !(results->epsilon > 0 && isfinite(results->epsilon))) {
    return axn_fail(error, AXN_ERROR_EPSILON, "epsilon: %g is not a finite number above 0",
                    results->epsilon);
  }
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

static void write_results(const axn_moment_state *state, const axn_moment_results *results) {
  /* The forward run multiplies by the same share, so that rstd has the same bits. */
  const double share = 1 / (double)state->count;
  const double factor =
      results->variance != NULL ? axn_running_factor(results->variance_kind, state->count) : 1;
  for (int64_t k = 0; k < state->statistics; k++) {
    const double variance = state->m2[k] * share;
    if (results->mean != NULL) results->mean[k] = (float)state->mean[k];
    if (results->variance != NULL) results->variance[k] = (float)(variance * factor);
    if (results->rstd != NULL) {
      results->rstd[k] = axn_narrow_rstd(axn_rstd(variance, results->epsilon));
    }
  }
}

axn_status axn_moments_finish(const axn_moment_state *caller_state,
                              const axn_moment_results *caller_results, axn_error *error) {
  axn_moment_state state;
  axn_moment_results results;
  axn_status status =
      axn_read_struct(&results, sizeof results, sizeof results, caller_results, "results", error);
  if (status == AXN_OK) status = check_kind(results.variance_kind, error);
  if (status == AXN_OK) {
    /* Only a variance that is asked for can lack a value. */
    const axn_running_variance kind =
        results.variance != NULL ? results.variance_kind : AXN_RUNNING_VARIANCE_BIASED;
    status = read_filled_state(caller_state, &state, kind, error);
  }
  if (status == AXN_OK) status = check_results(&state, &results, error);
  if (status != AXN_OK) return status;
  write_results(&state, &results);
  return axn_succeed(error);
}

/* ---- running statistics ---- */

static axn_status check_running(const axn_moment_state *state, const axn_running *running,
                                bool counted, axn_error *error) {
  const size_t value = axn_real_size(running->doubles);
  const axn_buffer buffers[] = {
      buffer_of("state's mean", state->mean, state, false),
      buffer_of("state's m2", state->m2, state, false),
      {"running_mean", running->mean, running->channels, value, true, true, NULL, NULL, NULL},
      {"running_variance", running->variance, running->channels, value, true, true, NULL, NULL,
       NULL},
      {"batch_count", running->batch_count, 1, sizeof(int64_t), counted, true, NULL, NULL, NULL},
  };
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

/* What the state's statistics are for running ones. */
static axn_status read_batch(const axn_plan *plan, const axn_moment_state *caller_state,
                             axn_moment_state *state, axn_batch_statistics *batch,
                             axn_error *error) {
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  if (plan->running == 0) {
    return axn_fail(error, AXN_ERROR_STATISTICS,
                    "running_mean, running_variance: %s normalization keeps none",
                    plan->strategy.name);
  }
  const axn_running_variance kind = plan->desc.running_variance;
  axn_status status = read_filled_state(caller_state, state, kind, error);
  if (status == AXN_OK) status = check_statistics(state, axn_statistics(plan), "the plan", error);
  if (status != AXN_OK) return status;
  if (state->statistics == 0) {
    return axn_fail(error, AXN_ERROR_STATISTICS, "state: has no statistics, as the plan's N is 0");
  }
  const double share = 1 / (double)state->count;
  *batch =
      (axn_batch_statistics){state->mean, state->m2, share * axn_running_factor(kind, state->count),
                             state->statistics / plan->running};
  return AXN_OK;
}

axn_status axn_moments_set_running(const axn_plan *plan, const axn_moment_state *caller_state,
                                   void *running_mean, void *running_variance, axn_error *error) {
  axn_moment_state state;
  axn_batch_statistics batch;
  axn_status status = read_batch(plan, caller_state, &state, &batch, error);
  if (status != AXN_OK) return status;
  const axn_running running = {.mean = running_mean,
                               .variance = running_variance,
                               .doubles = plan->doubles,
                               .channels = plan->running};
  status = check_running(&state, &running, false, error);
  if (status != AXN_OK) return status;
  /* Nothing of the old values is to stay, not even a NaN. */
  const size_t bytes = (size_t)running.channels * axn_real_size(running.doubles);
  memset(running_mean, 0, bytes);
  memset(running_variance, 0, bytes);
  axn_update_running(running, &batch, 1);
  return axn_succeed(error);
}

axn_status axn_moments_update_running(const axn_plan *plan, const axn_moment_state *caller_state,
                                      void *running_mean, void *running_variance,
                                      int64_t *batch_count, axn_error *error) {
  axn_moment_state state;
  axn_batch_statistics batch;
  axn_status status = read_batch(plan, caller_state, &state, &batch, error);
  if (status != AXN_OK) return status;
  const axn_running running = {.mean = running_mean,
                               .variance = running_variance,
                               .doubles = plan->doubles,
                               .batch_count = batch_count,
                               .channels = plan->running,
                               .in_turn = plan->strategy.running == AXN_RUNNING_IN_TURN};
  const bool counted = plan->desc.momentum == AXN_MOMENTUM_CUMULATIVE;
  status = check_running(&state, &running, counted, error);
  if (status == AXN_OK) status = axn_check_batch_count(batch_count, error);
  if (status != AXN_OK) return status;
  axn_update_running(running, &batch, plan->desc.momentum);
  return axn_succeed(error);
}
