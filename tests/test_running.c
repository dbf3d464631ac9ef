/* SPDX-License-Identifier: MIT */
/* Running statistics over several batches: momentum, cumulative average, both variances. */
#include "check.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const int STEPS = 5;

typedef struct tracked {
  double *mean, *variance;
} tracked;

/* A few roundings for each batch so far, of the largest of the values that were averaged. */
static void check_running(const rig *self, const tracked *expected, int step,
                          const double *mean_size, const double *variance_size) {
  int64_t count = self->sizes.running;
  double *bounds = malloc((size_t)count * sizeof(double));
  for (int64_t c = 0; c < count; c++) bounds[c] = 0x1p-23 * (step + 2) * mean_size[c];
  check_close(self, "running_mean", count, self->running_mean, expected->mean, bounds);
  for (int64_t c = 0; c < count; c++) bounds[c] = 0x1p-23 * (step + 2) * variance_size[c];
  check_close(self, "running_variance", count, self->running_variance, expected->variance, bounds);
  free(bounds);
}

/* The largest |mean| + deviation and variance that went into each channel's averages. */
static void grow_sizes(const rig *self, const oracle_forward *forward, double *mean_size,
                       double *variance_size) {
  for (int64_t s = 0; s < self->sizes.statistics; s++) {
    int64_t c = s % self->sizes.running;
    double n = (double)self->sizes.values;
    double variance = forward->variance[s] * n / (n - 1.0);
    mean_size[c] = fmax(mean_size[c], fabs(forward->mean[s]) + sqrt(variance));
    variance_size[c] = fmax(variance_size[c], variance);
  }
}

/* Trains on STEPS batches, each with data of its own; checks after each. */
static void check_steps(const axn_desc *desc, data_spec data, uint64_t seed) {
  rig self = rig_make(desc, RIG_RUNNING, data, seed);
  randoms source = randoms_from(seed + 1);
  tracked expected = {oracle_widen(self.running_mean, self.sizes.running),
                      oracle_widen(self.running_variance, self.sizes.running)};
  double *mean_size = oracle_widen(self.running_mean, self.sizes.running);
  double *variance_size = oracle_widen(self.running_variance, self.sizes.running);
  for (int64_t c = 0; c < self.sizes.running; c++) mean_size[c] = fabs(mean_size[c]);
  for (int step = 1; step <= STEPS; step++) {
    oracle_forward forward = rig_expect_training(&self);
    rig_train(&self);
    cr_assert(self.batch_count == step * self.sizes.batches, "%s: batch_count %d after %d",
              desc_text(desc), (int)self.batch_count, step);
    oracle_update_running(&self.sizes, &forward, self.batch_count, expected.mean,
                          expected.variance);
    grow_sizes(&self, &forward, mean_size, variance_size);
    check_running(&self, &expected, step, mean_size, variance_size);
    oracle_forward_free(&forward);
    data.offset += 0.75;
    fill_data(self.x, self.sizes.elements, data, &source);
  }
  free(expected.mean);
  free(expected.variance);
  free(mean_size);
  free(variance_size);
  rig_free(&self);
}

static void check_options(axn_desc desc, data_spec data, uint64_t seed) {
  static const double momenta[] = {0.1, 0.3, 0.0, 1.0, 0.9, AXN_MOMENTUM_CUMULATIVE};
  for (size_t m = 0; m < sizeof momenta / sizeof momenta[0]; m++) {
    for (int kind = AXN_RUNNING_VARIANCE_UNBIASED; kind <= AXN_RUNNING_VARIANCE_BIASED; kind++) {
      desc.momentum = momenta[m];
      desc.running_variance = (axn_running_variance)kind;
      check_steps(&desc, data, case_seed(seed, m));
    }
  }
}

Test(running, every_option) {
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  uint64_t seed = test_seed(201);
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    if (keeps_running(&desc)) check_options(desc, DATA_STANDARD, seed + (uint64_t)i);
  }
}

/* n - 1 and n differ most where n is 2. */
Test(running, two_values_per_statistic) {
  uint64_t seed = test_seed(202);
  check_options(desc_of(AXN_BATCH_NORM, 2, 37, 0, 0, 0), DATA_STANDARD, seed);
  check_options(desc_of(AXN_INSTANCE_NORM, 3, 5, 2, 0, 0), DATA_STANDARD, seed);
  check_options(desc_of(AXN_GHOST_BATCH_NORM, 4, 37, 0, 0, 0), DATA_STANDARD, seed);
}

Test(running, offset_a_million) {
  uint64_t seed = test_seed(203);
  const data_spec data = {DATA_NORMAL, 1e6, 1.0};
  check_options(desc_of(AXN_BATCH_NORM, 5, 7, 31, 3, 0), data, seed);
  check_options(desc_of(AXN_INSTANCE_NORM, 2, 3, 31, 17, 0), data, seed);
  check_options(desc_of(AXN_GHOST_BATCH_NORM, 10, 7, 31, 3, 0), data, seed);
}

/* The variance itself overflows float32: the running one is infinite, as the oracle's rounds. */
Test(running, values_near_1e30) {
  uint64_t seed = test_seed(204);
  const data_spec data = {DATA_NORMAL, 0.0, 1e30};
  axn_desc desc = desc_of(AXN_BATCH_NORM, 5, 7, 31, 3, 0);
  check_steps(&desc, data, seed);
  desc = desc_of(AXN_GHOST_BATCH_NORM, 4, 7, 31, 3, 0);
  check_steps(&desc, data, seed);
}

Test(running, long_statistics) {
  uint64_t seed = test_seed(205);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 3, 2, 257, 259, 0);
  check_steps(&desc, DATA_STANDARD, seed);
  desc.norm = AXN_INSTANCE_NORM;
  check_steps(&desc, DATA_STANDARD, seed);
  desc = desc_of(AXN_GHOST_BATCH_NORM, 4, 2, 257, 259, 0);
  check_steps(&desc, DATA_STANDARD, seed);
}

Test(running, hundreds_of_random_shapes) {
  uint64_t seed = test_seed(206);
  for (uint64_t i = 0; i < 300; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 5000);
    data_spec data = random_data(&source);
    if (keeps_running(&desc)) check_steps(&desc, data, random_bits(&source));
  }
}

/* A cumulative average of one batch is that batch, whatever the buffers held. */
Test(running, cumulative_starts_from_nothing) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 9, 5, 0, 0, 0);
  desc.momentum = AXN_MOMENTUM_CUMULATIVE;
  rig self = rig_make(&desc, RIG_RUNNING, DATA_STANDARD, 207);
  for (int64_t c = 0; c < 5; c++) self.running_mean[c] = 1e30f;
  rig_train(&self);
  check_same(&self, "running_mean", 5, self.running_mean, self.mean);
  rig_free(&self);
}

/* Counted without the cumulative average too; and the statistics need no count then. */
Test(running, batch_count_is_optional_with_momentum) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 9, 5, 0, 0, 0);
  rig self = rig_make(&desc, RIG_RUNNING, DATA_STANDARD, 208);
  rig other = rig_make(&desc, RIG_RUNNING, DATA_STANDARD, 208);
  rig_train(&self);
  axn_training_args args = axn_training_init();
  args.x = other.x;
  args.y = other.y;
  args.running_mean = other.running_mean;
  args.running_variance = other.running_variance;
  args.workspace_size = other.info.training_workspace;
  args.workspace = malloc(args.workspace_size + 1);
  cr_assert(axn_forward_training(other.plan, &args, NULL) == AXN_OK);
  check_same(&other, "running_mean", 5, other.running_mean, self.running_mean);
  check_same(&other, "running_variance", 5, other.running_variance, self.running_variance);
  check_same(&other, "y", self.sizes.elements, other.y, self.y);
  free(args.workspace);
  rig_free(&self);
  rig_free(&other);
}
