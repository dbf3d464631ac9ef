/* SPDX-License-Identifier: MIT */
/* Bad arguments of the calls on moments: the status, a message that names the field, and nothing
 * written. */
#include "cases.h"

#include <axisnorm/moments.h>

#include <criterion/criterion.h>
#include <string.h>

enum { CHANNELS = 3, ELEMENTS = 2 * CHANNELS * 4 };

/* A plan with all that the calls take, valid. */
typedef struct table {
  float x[ELEMENTS + 4 * CHANNELS];
  double mean[2 * CHANNELS], m2[2 * CHANNELS], other_mean[CHANNELS], other_m2[CHANNELS];
  float running_mean[2 * CHANNELS], running_variance[2 * CHANNELS];
  float result_mean[CHANNELS], result_variance[CHANNELS], result_rstd[CHANNELS];
  double workspace[512];
  int64_t batch_count;
  axn_moment_state state, other;
  axn_moments_args args;
  axn_moment_results results;
  axn_plan *plan;
} table;

static table make(const axn_desc *desc) {
  table on;
  memset(&on, 0, sizeof on);
  cr_assert(axn_plan_create(&on.plan, desc, NULL) == AXN_OK);
  for (int i = 0; i < ELEMENTS; i++) on.x[i] = (float)(i % 5);
  on.batch_count = 2;
  return on;
}

/* Pointers are set where the table has come to rest. */
static void reset(table *on) {
  on->state = on->other = axn_moment_state_init();
  on->state.statistics = on->other.statistics = CHANNELS;
  on->state.count = on->other.count = 8;
  on->state.mean = on->mean, on->state.m2 = on->m2;
  on->other.mean = on->other_mean, on->other.m2 = on->other_m2;
  on->args = axn_moments_init();
  on->args.x = on->x;
  on->args.state = &on->state;
  on->args.workspace = on->workspace;
  on->args.workspace_size = sizeof on->workspace;
  on->results = axn_moment_results_init();
  on->results.mean = on->result_mean;
  on->results.variance = on->result_variance;
  on->results.rstd = on->result_rstd;
}

typedef enum call { RESET, ACCUMULATE, MERGE, FINISH, SET, UPDATE } call;

static axn_status run(table *on, call which, axn_error *error) {
  switch (which) {
  case RESET:
    return axn_moments_reset(&on->state, error);
  case ACCUMULATE:
    return axn_moments_accumulate(on->plan, &on->args, error);
  case MERGE:
    return axn_moments_merge(&on->state, &on->other, error);
  case FINISH:
    return axn_moments_finish(&on->state, &on->results, error);
  case SET:
    return axn_moments_set_running(on->plan, &on->state, on->running_mean, on->running_variance,
                                   error);
  default:
    return axn_moments_update_running(on->plan, &on->state, on->running_mean, on->running_variance,
                                      &on->batch_count, error);
  }
}

static void refuses(table *on, call which, axn_status status, const char *field, int line) {
  axn_error error = {AXN_OK, ""};
  table before;
  memcpy(&before, on, sizeof before);
  axn_status got = run(on, which, &error);
  cr_assert(got == status, "line %d: status %d, not %d: %s", line, (int)got, (int)status,
            error.message);
  cr_assert(error.status == status && strstr(error.message, field), "line %d: no '%s' in '%s'",
            line, field, error.message);
  cr_assert(memcmp(&before, on, sizeof before) == 0, "line %d: something was written", line);
  cr_assert(run(on, which, NULL) == status);
}

#define REFUSED(which, status, field)                                                              \
  do {                                                                                             \
    refuses(&on, which, status, field, __LINE__);                                                  \
    reset(&on);                                                                                    \
  } while (0)

static axn_desc batch_desc(void) {
  return desc_of(AXN_BATCH_NORM, 2, CHANNELS, 4, 0, 0);
}

Test(moments_arguments, valid_ones_pass) {
  axn_desc desc = batch_desc();
  table on = make(&desc);
  for (int which = RESET; which <= UPDATE; which++) {
    axn_error error = {AXN_ERROR_NULL, "left over"};
    reset(&on);
    cr_assert(run(&on, (call)which, &error) == AXN_OK, "%d: %s", which, error.message);
    cr_assert(error.status == AXN_OK && error.message[0] == '\0');
  }
  axn_plan_destroy(on.plan);
}

Test(moments_arguments, of_states) {
  axn_desc desc = batch_desc();
  table on = make(&desc);
  reset(&on);
  for (int i = RESET; i <= UPDATE; i++) {
    const call which = (call)i;
    const char *name = which == MERGE ? "into" : "state";
    on.state.struct_size = 8;
    REFUSED(which, AXN_ERROR_STRUCT_SIZE, name);
    on.state.statistics = -1;
    REFUSED(which, AXN_ERROR_STATISTICS, name);
    on.state.statistics = INT64_MAX;
    REFUSED(which, AXN_ERROR_OVERFLOW, name);
    on.state.mean = NULL;
    REFUSED(which, AXN_ERROR_NULL, "mean");
    on.state.m2 = NULL;
    REFUSED(which, AXN_ERROR_NULL, "m2");
    on.state.m2 = (double *)(void *)((char *)on.m2 + 4);
    REFUSED(which, AXN_ERROR_ALIGNMENT, "m2");
    if (which == RESET) continue;
    on.state.count = -1;
    REFUSED(which, AXN_ERROR_STATISTICS, "count");
    if (which == FINISH) continue;
    on.state.statistics = CHANNELS + 1;
    REFUSED(which, AXN_ERROR_STATISTICS, "4 statistics");
  }
  for (int i = RESET; i <= MERGE; i++) {
    on.state.mean = on.m2 + 1;
    REFUSED((call)i, AXN_ERROR_OVERLAP, "m2");
  }
  axn_plan_destroy(on.plan);
}

Test(moments_arguments, of_accumulate) {
  axn_desc desc = batch_desc();
  table on = make(&desc);
  reset(&on);
  axn_error error;
  cr_assert(axn_moments_accumulate(NULL, &on.args, &error) == AXN_ERROR_NULL);
  cr_assert(strstr(error.message, "plan"));
  cr_assert(axn_moments_accumulate(on.plan, NULL, &error) == AXN_ERROR_NULL);
  on.args.struct_size--;
  REFUSED(ACCUMULATE, AXN_ERROR_STRUCT_SIZE, "args");
  on.args.state = NULL;
  REFUSED(ACCUMULATE, AXN_ERROR_NULL, "state");
  on.args.x = NULL;
  REFUSED(ACCUMULATE, AXN_ERROR_NULL, "x");
  on.args.threads = -1;
  REFUSED(ACCUMULATE, AXN_ERROR_THREADS, "threads");
  on.args.workspace = NULL;
  REFUSED(ACCUMULATE, AXN_ERROR_NULL, "workspace");
  on.args.workspace_size = 16;
  REFUSED(ACCUMULATE, AXN_ERROR_WORKSPACE, "workspace");
  on.args.workspace = on.x;
  REFUSED(ACCUMULATE, AXN_ERROR_OVERLAP, "x");
  on.state.mean = on.workspace;
  REFUSED(ACCUMULATE, AXN_ERROR_OVERLAP, "workspace");
  on.state.count = INT64_MAX - 7;
  REFUSED(ACCUMULATE, AXN_ERROR_OVERFLOW, "count");
  axn_plan_destroy(on.plan);
}

Test(moments_arguments, of_merge) {
  axn_desc desc = batch_desc();
  table on = make(&desc);
  reset(&on);
  cr_assert(axn_moments_merge(NULL, &on.other, NULL) == AXN_ERROR_NULL);
  cr_assert(axn_moments_merge(&on.state, NULL, NULL) == AXN_ERROR_NULL);
  cr_assert(axn_moments_merge(&on.state, &on.state, NULL) == AXN_ERROR_OVERLAP);
  on.other.statistics = 2;
  REFUSED(MERGE, AXN_ERROR_STATISTICS, "from has 2");
  on.other.count = -3;
  REFUSED(MERGE, AXN_ERROR_STATISTICS, "from: count");
  on.other.count = INT64_MAX;
  REFUSED(MERGE, AXN_ERROR_OVERFLOW, "count");
  on.other.m2 = NULL;
  REFUSED(MERGE, AXN_ERROR_NULL, "from's m2");
  axn_plan_destroy(on.plan);
}

/* As of layer normalization where N is 0; what the count says has no part in it. */
Test(moments_arguments, no_statistics_no_arrays) {
  axn_moment_state into = axn_moment_state_init(), from = axn_moment_state_init();
  into.count = from.count = 3;
  cr_assert(axn_moments_merge(&into, &from, NULL) == AXN_OK);
  cr_assert(into.count == 6);
  into.count = 0;
  cr_assert(axn_moments_merge(&into, &from, NULL) == AXN_OK);
  cr_assert(into.count == 3);
}

Test(moments_arguments, of_finish) {
  axn_desc desc = batch_desc();
  table on = make(&desc);
  reset(&on);
  cr_assert(axn_moments_finish(NULL, &on.results, NULL) == AXN_ERROR_NULL);
  cr_assert(axn_moments_finish(&on.state, NULL, NULL) == AXN_ERROR_NULL);
  on.results.struct_size = 3;
  REFUSED(FINISH, AXN_ERROR_STRUCT_SIZE, "results");
  on.results.variance_kind = (axn_running_variance)3;
  REFUSED(FINISH, AXN_ERROR_OPTION, "variance_kind");
  on.results.epsilon = 0;
  REFUSED(FINISH, AXN_ERROR_EPSILON, "epsilon");
  on.results.rstd = on.result_mean;
  REFUSED(FINISH, AXN_ERROR_OVERLAP, "mean");
  on.results.variance = (float *)(void *)on.mean;
  REFUSED(FINISH, AXN_ERROR_OVERLAP, "variance");
  on.state.count = 0;
  REFUSED(FINISH, AXN_ERROR_STATISTICS, "no values");
  on.state.count = 1;
  on.results.variance_kind = AXN_RUNNING_VARIANCE_UNBIASED;
  REFUSED(FINISH, AXN_ERROR_TOO_FEW_VALUES, "one value");
  on.state.count = 1;
  on.results.variance_kind = AXN_RUNNING_VARIANCE_UNBIASED;
  on.results.variance = NULL;
  on.results.epsilon = 1e-5;
  cr_assert(run(&on, FINISH, NULL) == AXN_OK, "no variance is asked for");
  axn_plan_destroy(on.plan);
}

Test(moments_arguments, of_running_statistics) {
  axn_desc desc = batch_desc();
  table on = make(&desc);
  reset(&on);
  for (int i = SET; i <= UPDATE; i++) {
    const call which = (call)i;
    on.state.count = 0;
    REFUSED(which, AXN_ERROR_STATISTICS, "no values");
    on.state.count = 1;
    REFUSED(which, AXN_ERROR_TOO_FEW_VALUES, "one value");
    on.state.mean = (double *)(void *)on.running_mean;
    REFUSED(which, AXN_ERROR_OVERLAP, "running_mean");
  }
  on.batch_count = -1;
  REFUSED(UPDATE, AXN_ERROR_MOMENTUM, "batch_count");
  on.batch_count = INT64_MAX;
  REFUSED(UPDATE, AXN_ERROR_MOMENTUM, "batch_count");
  float *mean = on.running_mean, *variance = on.running_variance;
  cr_assert(axn_moments_set_running(NULL, &on.state, mean, variance, NULL) == AXN_ERROR_NULL);
  cr_assert(axn_moments_set_running(on.plan, NULL, mean, variance, NULL) == AXN_ERROR_NULL);
  cr_assert(axn_moments_set_running(on.plan, &on.state, NULL, variance, NULL) == AXN_ERROR_NULL);
  cr_assert(axn_moments_set_running(on.plan, &on.state, mean, NULL, NULL) == AXN_ERROR_NULL);
  on.batch_count = 2;
  axn_plan_destroy(on.plan);
}

Test(moments_arguments, of_running_statistics_by_norm) {
  axn_desc desc = desc_of(AXN_LAYER_NORM, CHANNELS, 2, 4, 0, 0);
  table on = make(&desc);
  reset(&on);
  REFUSED(SET, AXN_ERROR_STATISTICS, "layer");
  REFUSED(UPDATE, AXN_ERROR_STATISTICS, "layer");
  axn_plan_destroy(on.plan);

  desc = desc_of(AXN_INSTANCE_NORM, 0, CHANNELS, 4, 0, 0);
  on = make(&desc);
  reset(&on);
  on.state.statistics = 0;
  REFUSED(SET, AXN_ERROR_STATISTICS, "no statistics");
  axn_plan_destroy(on.plan);

  desc = batch_desc();
  desc.momentum = AXN_MOMENTUM_CUMULATIVE;
  on = make(&desc);
  reset(&on);
  cr_assert(axn_moments_update_running(on.plan, &on.state, on.running_mean, on.running_variance,
                                       NULL, NULL) == AXN_ERROR_NULL);
  axn_plan_destroy(on.plan);
}
