/* SPDX-License-Identifier: MIT */
/* Moments over batches: pooled statistics against those of the data in one piece. */
#include "check.h"
#include "loops.h"

#include <axisnorm/moments.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a state, and what the library is asked ---- */

static axn_moment_state new_state(int64_t statistics) {
  axn_moment_state state = axn_moment_state_init();
  state.statistics = statistics;
  state.mean = malloc((size_t)(statistics + 1) * sizeof(double));
  state.m2 = malloc((size_t)(statistics + 1) * sizeof(double));
  cr_assert(state.mean && state.m2);
  state.count = -77;
  cr_assert(axn_moments_reset(&state, NULL) == AXN_OK);
  cr_assert(state.count == 0);
  return state;
}

static void state_free(axn_moment_state *state) {
  free(state->mean);
  free(state->m2);
}

static void accumulate(const axn_plan *plan, const float *x, int threads, axn_moment_state *state) {
  axn_plan_info info = axn_plan_info_init();
  axn_error error = {AXN_OK, ""};
  cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
  axn_moments_args args = axn_moments_init();
  args.x = x;
  args.state = state;
  args.workspace_size = info.training_workspace;
  args.workspace = malloc(args.workspace_size + 1);
  args.threads = threads;
  axn_status status = axn_moments_accumulate(plan, &args, &error);
  cr_assert(status == AXN_OK, "%s", error.message);
  free(args.workspace);
}

/* The same for a descriptor that is only needed once. */
static void accumulate_once(const axn_desc *desc, const float *x, axn_moment_state *state) {
  axn_plan *plan;
  cr_assert(axn_plan_create(&plan, desc, NULL) == AXN_OK);
  accumulate(plan, x, 0, state);
  axn_plan_destroy(plan);
}

/* Into the rig's own outputs, so that the usual checks see them; returns the variances. */
static float *finish(rig *self, const axn_moment_state *state, axn_running_variance kind) {
  axn_error error = {AXN_OK, ""};
  axn_moment_results results = axn_moment_results_init();
  results.mean = self->mean;
  results.rstd = self->rstd;
  results.variance = new_floats(self->sizes.statistics);
  results.variance_kind = kind;
  results.epsilon = self->desc.epsilon;
  axn_status status = axn_moments_finish(state, &results, &error);
  cr_assert(status == AXN_OK, "%s: %s", desc_text(&self->desc), error.message);
  return results.variance;
}

static void check_variance(const rig *self, const oracle_forward *expected, const float *variance,
                           double factor) {
  int64_t count = self->sizes.statistics;
  double *want = malloc((size_t)(count + 1) * sizeof(double));
  double *bounds = malloc((size_t)(count + 1) * sizeof(double));
  for (int64_t s = 0; s < count; s++) {
    want[s] = expected->variance[s] * factor;
    bounds[s] = 0.51 * ulp_above(want[s], 0.0);
  }
  check_close(self, "variance", count, variance, want, bounds);
  free(want);
  free(bounds);
}

/* A state's results against the oracle's for the rig's data. */
static void check_state(rig *self, const axn_moment_state *state) {
  const double n = (double)self->sizes.values;
  oracle_forward expected = rig_expect_training(self);
  cr_assert(state->count == self->sizes.values);
  float *variance = finish(self, state, AXN_RUNNING_VARIANCE_BIASED);
  check_statistics(self, &expected);
  check_variance(self, &expected, variance, 1.0);
  free(variance);
  if (state->count > 1) {
    variance = finish(self, state, AXN_RUNNING_VARIANCE_UNBIASED);
    check_variance(self, &expected, variance, n / (n - 1.0));
    free(variance);
  }
  oracle_forward_free(&expected);
}

static void check_same_state(const rig *self, const axn_moment_state *got,
                             const axn_moment_state *want) {
  const size_t size = (size_t)want->statistics * sizeof(double);
  cr_assert(got->count == want->count, "%s", desc_text(&self->desc));
  cr_assert(memcmp(got->mean, want->mean, size) == 0, "%s: mean", desc_text(&self->desc));
  cr_assert(memcmp(got->m2, want->m2, size) == 0, "%s: m2", desc_text(&self->desc));
}

/* ---- one batch ---- */

/* The bits of a training run, in whatever way that one goes about it. Moments know a mean also where the norm
 * does not: those of rms are those of layer. */
static void check_one_batch(const axn_desc *desc, data_spec data, uint64_t seed) {
  axn_desc with_mean = *desc;
  if (desc->norm == AXN_RMS_NORM) with_mean.norm = AXN_LAYER_NORM;
  rig self = rig_make(&with_mean, RIG_PLAIN, data, seed);
  axn_moment_state state = new_state(self.sizes.statistics);
  rig_train(&self);
  float *mean = copy_floats(self.mean, self.sizes.statistics);
  float *rstd = copy_floats(self.rstd, self.sizes.statistics);
  accumulate_once(desc, self.x, &state);
  free(finish(&self, &state, AXN_RUNNING_VARIANCE_BIASED));
  check_same(&self, "mean", self.sizes.statistics, self.mean, mean);
  check_same(&self, "rstd", self.sizes.statistics, self.rstd, rstd);
  check_state(&self, &state);
  free(mean);
  free(rstd);
  state_free(&state);
  rig_free(&self);
}

Test(moments, of_one_batch_are_those_of_training) {
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  uint64_t seed = test_seed(901);
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    check_one_batch(&desc, DATA_STANDARD, case_seed(seed, (uint64_t)i));
  }
}

Test(moments, of_shapes_that_reach_every_way) {
  uint64_t seed = test_seed(902);
  const data_spec data = {DATA_NORMAL, 3.0, 1.0};
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) check_one_batch(&desc, data, seed + i);
}

Test(moments, of_random_shapes_and_data) {
  uint64_t seed = test_seed(903);
  for (uint64_t i = 0; i < 300; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 5000);
    data_spec data = random_data(&source);
    check_one_batch(&desc, data, random_bits(&source));
  }
}

Test(moments, have_the_same_bits_for_any_threads) {
  static const int counts[] = {2, 3, 5, 8, 16};
  const axn_parallel_for loops[] = {NULL, loop_pthreads, loop_reversed_singles, loop_uneven};
  uint64_t seed = test_seed(904);
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, seed + i);
    axn_moment_state want = new_state(self.sizes.statistics);
    axn_moment_state got = new_state(self.sizes.statistics);
    accumulate(self.plan, self.x, 1, &want);
    accumulate(self.plan, self.grad_y, 1, &want);
    desc.parallel_for = loops[i % 4];
    axn_plan *plan;
    cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
    for (int t = 0; t < 5; t++) {
      axn_moments_reset(&got, NULL);
      accumulate(plan, self.x, counts[t], &got);
      accumulate(plan, self.grad_y, counts[t], &got);
      check_same_state(&self, &got, &want);
    }
    axn_plan_destroy(plan);
    state_free(&want);
    state_free(&got);
    rig_free(&self);
  }
}

/* ---- many batches ---- */

/* The samples of a rig in batches of random sizes: all into one state, and each into one of its own
 * that is merged then. */
static void check_batches(const axn_desc *whole, data_spec data, uint64_t seed) {
  randoms source = randoms_from(seed);
  rig self = rig_make(whole, RIG_PLAIN, data, random_bits(&source));
  axn_moment_state state = new_state(self.sizes.statistics);
  axn_moment_state merged = new_state(self.sizes.statistics);
  const int64_t sample = self.sizes.elements / whole->shape[0];
  for (int64_t from = 0; from < whole->shape[0];) {
    axn_desc desc = *whole;
    desc.shape[0] = random_between(&source, 1, whole->shape[0] - from);
    const float *x = self.x + from * sample;
    axn_moment_state part = new_state(self.sizes.statistics);
    accumulate_once(&desc, x, &state);
    accumulate_once(&desc, x, &part);
    cr_assert(axn_moments_merge(&merged, &part, NULL) == AXN_OK);
    check_same_state(&self, &merged, &state);
    state_free(&part);
    from += desc.shape[0];
  }
  check_state(&self, &state);
  state_free(&state);
  state_free(&merged);
  rig_free(&self);
}

Test(moments, of_batches_are_those_of_all_data) {
  uint64_t seed = test_seed(905);
  for (uint64_t i = 0; i < 300; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 5000);
    data_spec data = random_data(&source);
    desc.norm = AXN_BATCH_NORM;
    desc.parameters = AXN_PARAMETERS_PER_CHANNEL;
    check_batches(&desc, data, random_bits(&source));
  }
}

/* Batches that differ much from each other: what lies between them is most of the variance, and an
 * average of the batches' variances would know nothing of it. */
Test(moments, of_batches_far_apart) {
  uint64_t seed = test_seed(906);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 12, 5, 6, 7, 0);
  rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, seed);
  axn_moment_state state = new_state(5);
  const int64_t sample = self.sizes.elements / 12;
  for (int64_t e = 0; e < self.sizes.elements; e++) self.x[e] += 1000.0f * (float)(e / sample);
  desc.shape[0] = 3;
  for (int64_t from = 0; from < 12; from += 3) {
    accumulate_once(&desc, self.x + from * sample, &state);
  }
  check_state(&self, &state);
  cr_assert(state.m2[0] / (double)state.count > 1e6);
  state_free(&state);
  rig_free(&self);
}

/* A sample at a time, one value per statistic each: a training run would refuse every one. */
Test(moments, of_single_values) {
  uint64_t seed = test_seed(907);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 9, 37, 0, 0, 0);
  rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, seed);
  axn_moment_state state = new_state(37);
  desc.shape[0] = 1;
  for (int64_t i = 0; i < 9; i++) accumulate_once(&desc, self.x + i * 37, &state);
  check_state(&self, &state);
  state_free(&state);
  rig_free(&self);
}

/* An image in two tiles, one above the other, for norms whose statistics are a sample's own. */
static void check_tiles(axn_norm norm, uint64_t seed) {
  enum { N = 2, C = 6, H = 11, W = 5, CUT = 4 };
  axn_desc desc = desc_of(norm, N, C, H, W, 0);
  desc.groups = 3;
  rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, seed);
  axn_moment_state state = new_state(self.sizes.statistics);
  float tile[N * C * H * W];
  for (int part = 0; part < 2; part++) {
    const int first = part == 0 ? 0 : CUT, rows = part == 0 ? CUT : H - CUT;
    for (int p = 0; p < N * C; p++) {
      memcpy(tile + p * rows * W, self.x + (p * H + first) * W, (size_t)(rows * W) * sizeof *tile);
    }
    desc.shape[2] = rows;
    accumulate_once(&desc, tile, &state);
  }
  check_state(&self, &state);
  state_free(&state);
  rig_free(&self);
}

Test(moments, of_tiles_are_those_of_the_image) {
  uint64_t seed = test_seed(908);
  check_tiles(AXN_LAYER_NORM, seed);
  check_tiles(AXN_INSTANCE_NORM, seed + 1);
  check_tiles(AXN_GROUP_NORM, seed + 2);
}

/* ---- empty ---- */

Test(moments, of_nothing_add_nothing) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 3, 5, 0, 0);
  rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, 909);
  axn_moment_state state = new_state(3), other = new_state(3), empty = new_state(3);
  accumulate(self.plan, self.x, 0, &state);
  cr_assert(axn_moments_merge(&other, &state, NULL) == AXN_OK);
  check_same_state(&self, &other, &state);
  cr_assert(axn_moments_merge(&state, &empty, NULL) == AXN_OK);
  desc.shape[0] = 0;
  accumulate_once(&desc, NULL, &state);
  check_same_state(&self, &state, &other);
  state_free(&state);
  state_free(&other);
  state_free(&empty);
  rig_free(&self);
}

Test(moments, of_no_samples_for_a_norm_per_sample) {
  axn_desc desc = desc_of(AXN_LAYER_NORM, 0, 3, 5, 0, 0);
  axn_moment_state state = new_state(0);
  accumulate_once(&desc, NULL, &state);
  cr_assert(state.count == 0);
  state_free(&state);
}

/* What is not finite spoils its own statistic alone. */
Test(moments, of_infinities_stay_with_their_statistic) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 5, 3, 0, 0);
  rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, 910);
  axn_moment_state clean = new_state(5), state = new_state(5);
  for (int i = 0; i < 2; i++) accumulate(self.plan, self.x, 0, &clean);
  self.x[3 * 1] = INFINITY;
  self.x[3 * 2] = NAN;
  for (int i = 0; i < 2; i++) accumulate(self.plan, self.x, 0, &state);
  for (int c = 0; c < 5; c++) {
    const int spoilt = c == 1 || c == 2;
    cr_assert(spoilt ? isnan(state.m2[c]) : state.m2[c] == clean.m2[c]);
    cr_assert(spoilt ? !isfinite(state.mean[c]) : state.mean[c] == clean.mean[c]);
  }
  state_free(&clean);
  state_free(&state);
  rig_free(&self);
}

/* ---- running statistics ---- */

static void check_ulps(const rig *self, const char *what, const float *got, const float *want,
                       double floor) {
  double *wide = oracle_widen(want, self->sizes.running);
  double *bounds = oracle_widen(want, self->sizes.running);
  for (int64_t c = 0; c < self->sizes.running; c++) bounds[c] = ulp_above(wide[c], floor);
  check_close(self, what, self->sizes.running, got, wide, bounds);
  free(wide);
  free(bounds);
}

/* As training would update them, and overwritten, on one batch. */
static void check_running(const axn_desc *desc, uint64_t seed) {
  rig self = rig_make(desc, RIG_RUNNING, DATA_STANDARD, seed);
  const int64_t channels = self.sizes.running;
  float *mean = copy_floats(self.running_mean, channels);
  float *variance = copy_floats(self.running_variance, channels);
  axn_moment_state state = new_state(self.sizes.statistics);
  int64_t batch_count = 4;
  self.batch_count = 4;
  accumulate(self.plan, self.x, 0, &state);
  rig_train(&self);
  axn_status status =
      axn_moments_update_running(self.plan, &state, mean, variance, &batch_count, NULL);
  cr_assert(status == AXN_OK && batch_count == self.batch_count);
  check_ulps(&self, "running_mean", mean, self.running_mean, 0.25);
  check_ulps(&self, "running_variance", variance, self.running_variance, 0.0);
  for (int64_t c = 0; c < channels; c++) mean[c] = variance[c] = NAN;
  oracle_forward expected = rig_expect_training(&self);
  double *want_mean = calloc((size_t)channels, sizeof(double));
  double *want_variance = calloc((size_t)channels, sizeof(double));
  oracle whole = self.sizes;
  whole.desc.momentum = 1.0;
  /* Overwritten by the average, ghost batches in turn being no matter. */
  if (whole.desc.norm == AXN_GHOST_BATCH_NORM) whole.desc.norm = AXN_INSTANCE_NORM;
  whole.batches = 1;
  oracle_update_running(&whole, &expected, 1, want_mean, want_variance);
  cr_assert(axn_moments_set_running(self.plan, &state, mean, variance, NULL) == AXN_OK);
  check_within(&self, "mean set", channels, mean, want_mean, 0x1p-23);
  check_within(&self, "variance set", channels, variance, want_variance, 0x1p-21);
  free(want_mean);
  free(want_variance);
  free(mean);
  free(variance);
  oracle_forward_free(&expected);
  state_free(&state);
  rig_free(&self);
}

Test(moments, give_running_statistics) {
  static const double momenta[] = {0.1, 0.0, 1.0, AXN_MOMENTUM_CUMULATIVE};
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  uint64_t seed = test_seed(911);
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    if (!keeps_running(&desc)) continue;
    for (int m = 0; m < 8; m++) {
      desc.momentum = momenta[m / 2];
      desc.running_variance = m % 2 ? AXN_RUNNING_VARIANCE_BIASED : AXN_RUNNING_VARIANCE_UNBIASED;
      check_running(&desc, case_seed(seed, (uint64_t)(8 * i + m)));
    }
  }
}

/* Wu & Johnson 2021: what inference should normalize with are the statistics of all training data,
 * here with the divisor that the plan asks for. */
Test(moments, give_precise_statistics) {
  uint64_t seed = test_seed(912);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 23, 6, 5, 4, 0);
  for (int kind = AXN_RUNNING_VARIANCE_UNBIASED; kind <= AXN_RUNNING_VARIANCE_BIASED; kind++) {
    desc.running_variance = (axn_running_variance)kind;
    rig self = rig_make(&desc, RIG_RUNNING, DATA_STANDARD, seed);
    axn_moment_state state = new_state(6);
    const int64_t sample = 6 * 5 * 4;
    for (int64_t from = 0; from < 23; from += 4) {
      axn_desc batch = desc;
      batch.shape[0] = from + 4 > 23 ? 23 - from : 4;
      accumulate_once(&batch, self.x + from * sample, &state);
    }
    cr_assert(axn_moments_set_running(self.plan, &state, self.running_mean, self.running_variance,
                                      NULL) == AXN_OK);
    float *variance = finish(&self, &state, desc.running_variance);
    check_same(&self, "running_mean", 6, self.running_mean, self.mean);
    check_ulps(&self, "running_variance", self.running_variance, variance, 0.0);
    check_state(&self, &state);
    free(variance);
    state_free(&state);
    rig_free(&self);
  }
}
