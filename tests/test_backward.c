/* SPDX-License-Identifier: MIT */
/* The backward pass against the oracle, and both against finite differences in float64. */
#include "check.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_through_statistics(const axn_desc *desc, unsigned has, data_spec data,
                                     uint64_t seed) {
  rig self = rig_make(desc, has, data, seed);
  oracle_backward expected = rig_expect_backward(&self);
  rig_train(&self);
  rig_backward(&self);
  check_gradients(&self, &expected);
  oracle_backward_free(&expected);
  rig_free(&self);
}

static void check_frozen(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed) {
  if (!keeps_running(desc)) return;
  rig self = rig_make(desc, has | RIG_RUNNING, data, seed);
  oracle_backward expected = rig_expect_frozen(&self);
  rig_backward_frozen(&self);
  check_gradients(&self, &expected);
  oracle_backward_free(&expected);
  rig_free(&self);
}

static void check_listed(const int64_t shape[5], data_spec data, uint64_t own) {
  uint64_t seed = test_seed(own);
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    for (unsigned has = 0; has <= RIG_SCALE; has += RIG_SCALE) {
      check_through_statistics(&desc, has, data, case_seed(seed, (uint64_t)i));
      check_frozen(&desc, has, data, case_seed(seed, (uint64_t)i));
    }
  }
}

Test(backward, every_norm_and_option) {
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  check_listed(shape, DATA_STANDARD, 101);
}

Test(backward, every_norm_with_extents_of_one) {
  const int64_t shape[5] = {1, 3, 1, 37, 1};
  check_listed(shape, DATA_STANDARD, 102);
}

Test(backward, hundreds_of_random_shapes) {
  uint64_t seed = test_seed(103);
  for (uint64_t i = 0; i < 400; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 20000);
    unsigned has = (unsigned)random_between(&source, 0, RIG_SCALE);
    data_spec data = random_data(&source);
    check_through_statistics(&desc, has, data, random_bits(&source));
    check_frozen(&desc, has, data, random_bits(&source));
  }
}

Test(backward, every_way_through_the_engine) {
  uint64_t seed = test_seed(112);
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    check_through_statistics(&desc, RIG_SCALE, DATA_STANDARD, case_seed(seed, i));
    check_through_statistics(&desc, 0, (data_spec){DATA_NORMAL, 1e4, 1.0}, case_seed(seed, i));
    check_frozen(&desc, RIG_SCALE, DATA_STANDARD, case_seed(seed, i));
  }
}

static void check_on_data(data_spec data, uint64_t own) {
  uint64_t seed = test_seed(own);
  const axn_desc descs[] = {
      desc_of(AXN_BATCH_NORM, 7, 5, 12, 11, 0),       desc_of(AXN_BATCH_NORM, 300, 19, 0, 0, 0),
      desc_of(AXN_LAYER_NORM, 5, 768, 0, 0, 0),       desc_of(AXN_LAYER_NORM, 2, 24, 13, 9, 0),
      desc_of(AXN_INSTANCE_NORM, 3, 4, 31, 29, 0),    desc_of(AXN_GROUP_NORM, 3, 12, 10, 10, 0),
      desc_of(AXN_GROUP_NORM, 1, 6, 8191, 0, 0),      desc_of(AXN_RMS_NORM, 5, 768, 0, 0, 0),
      desc_of(AXN_RMS_NORM, 2, 24, 13, 9, 0),         desc_of(AXN_POSITIONAL_NORM, 3, 40, 11, 7, 0),
      desc_of(AXN_GHOST_BATCH_NORM, 6, 5, 12, 11, 0),
  };
  for (size_t i = 0; i < 2 * sizeof descs / sizeof descs[0]; i++) {
    axn_desc desc = descs[i / 2];
    if (i % 2) desc.layout = AXN_CHANNELS_LAST;
    if (desc.norm == AXN_GROUP_NORM) desc.groups = 3;
    check_through_statistics(&desc, RIG_SCALE, data, case_seed(seed, i));
    check_frozen(&desc, RIG_SCALE, data, case_seed(seed, i));
  }
}

/* The saved float32 mean is off by up to 2^-11 here, 250 times the bound: the library must find
 * the rest of the mean again. */
Test(backward, offset_ten_thousand) {
  check_on_data((data_spec){DATA_NORMAL, 1e4, 1.0}, 104);
}

Test(backward, offset_100) {
  check_on_data((data_spec){DATA_NORMAL, -100.0, 1.0}, 105);
}

Test(backward, values_near_1e30) {
  check_on_data((data_spec){DATA_NORMAL, 0.0, 1e30}, 106);
}

Test(backward, small_values) {
  check_on_data((data_spec){DATA_NORMAL, 0.0, 1e-12}, 107);
}

Test(backward, constant_input) {
  check_on_data((data_spec){DATA_CONSTANT, 0.1, 0.0}, 108);
}

Test(backward, long_statistics) {
  uint64_t seed = test_seed(109);
  axn_desc descs[] = {
      desc_of(AXN_BATCH_NORM, 200001, 3, 0, 0, 0),
      desc_of(AXN_BATCH_NORM, 4, 3, 301, 299, 0),
      desc_of(AXN_LAYER_NORM, 1, 1000001, 0, 0, 0),
      desc_of(AXN_LAYER_NORM, 1, 5, 401, 397, 0),
      desc_of(AXN_INSTANCE_NORM, 1, 1, 700001, 0, 0),
      desc_of(AXN_GROUP_NORM, 2, 6, 401, 211, 0),
      desc_of(AXN_RMS_NORM, 1, 1000001, 0, 0, 0),
      desc_of(AXN_POSITIONAL_NORM, 1, 150001, 3, 0, 0),
      desc_of(AXN_GHOST_BATCH_NORM, 100002, 3, 0, 0, 0),
  };
  for (size_t i = 0; i < 2 * sizeof descs / sizeof descs[0]; i++) {
    axn_desc desc = descs[i / 2];
    if (i % 2) desc.layout = AXN_CHANNELS_LAST;
    if (desc.norm == AXN_GROUP_NORM) desc.groups = 2;
    check_through_statistics(&desc, RIG_SCALE, (data_spec){DATA_NORMAL, 50.0, 1.0}, seed + i);
    check_frozen(&desc, RIG_SCALE, DATA_STANDARD, seed + i);
  }
}

/* ---- outputs left out ---- */

/* Runs the backward pass with a subset of the outputs (bit 0: x, 1: scale, 2: shift). */
static void run_subset(rig *self, unsigned wanted, int frozen) {
  axn_backward_args args = axn_backward_init();
  args.x = !frozen || (wanted & 2) ? self->x : NULL; /* else optional */
  args.grad_y = self->grad_y;
  args.scale = self->scale;
  args.mean = frozen ? NULL : self->mean;
  args.rstd = frozen ? NULL : self->rstd;
  args.running_mean = frozen ? self->running_mean : NULL;
  args.running_variance = frozen ? self->running_variance : NULL;
  args.grad_x = wanted & 1 ? self->grad_x : NULL;
  args.grad_scale = wanted & 2 ? self->grad_scale : NULL;
  args.grad_shift = wanted & 4 ? self->grad_shift : NULL;
  args.workspace_size = self->info.backward_workspace;
  args.workspace = malloc(args.workspace_size + 1);
  axn_error error = {AXN_OK, ""};
  axn_status status = axn_backward(self->plan, &args, &error);
  cr_assert(status == AXN_OK, "%s, outputs %u: %s", desc_text(&self->desc), wanted, error.message);
  free(args.workspace);
}

/* One output left out changes no bit of the others. */
static void check_subsets(const axn_desc *desc, int frozen, uint64_t seed) {
  rig self = rig_make(desc, frozen ? RIG_ALL : RIG_SCALE, DATA_STANDARD, seed);
  rig all = rig_make(desc, frozen ? RIG_ALL : RIG_SCALE, DATA_STANDARD, seed);
  if (!frozen) rig_train(&self), rig_train(&all);
  run_subset(&all, 7, frozen);
  for (unsigned wanted = 0; wanted < 7; wanted++) {
    memset(self.grad_x, 0xff, (size_t)self.sizes.elements * sizeof(float));
    memset(self.grad_scale, 0xff, (size_t)self.sizes.parameters * sizeof(float));
    memset(self.grad_shift, 0xff, (size_t)self.sizes.parameters * sizeof(float));
    run_subset(&self, wanted, frozen);
    if (wanted & 1) check_same(&self, "grad_x", self.sizes.elements, self.grad_x, all.grad_x);
    if (wanted & 2)
      check_same(&self, "grad_scale", self.sizes.parameters, self.grad_scale, all.grad_scale);
    if (wanted & 4)
      check_same(&self, "grad_shift", self.sizes.parameters, self.grad_shift, all.grad_shift);
  }
  rig_free(&self);
  rig_free(&all);
}

Test(backward, each_output_may_be_left_out) {
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    check_subsets(&desc, 0, (uint64_t)i);
    if (keeps_running(&desc)) check_subsets(&desc, 1, (uint64_t)i);
  }
}

/* rms has no mean: the one that is saved is not looked at, and may be left out. */
static void check_without_mean(const axn_desc *desc, uint64_t seed) {
  rig with = rig_make(desc, RIG_SCALE, DATA_STANDARD, seed);
  rig without = rig_make(desc, RIG_SCALE, DATA_STANDARD, seed);
  rig_train(&with);
  rig_train(&without);
  free(without.mean);
  without.mean = NULL;
  for (int64_t s = 0; s < with.sizes.statistics; s++) with.mean[s] = NAN;
  rig_backward(&with);
  rig_backward(&without);
  check_same(&with, "grad_x", with.sizes.elements, with.grad_x, without.grad_x);
  check_same(&with, "grad_scale", with.sizes.parameters, with.grad_scale, without.grad_scale);
  check_same(&with, "grad_shift", with.sizes.parameters, with.grad_shift, without.grad_shift);
  cr_assert(!isnan(with.grad_x[0]), "%s: the mean was looked at", desc_text(desc));
  rig_free(&with);
  rig_free(&without);
}

Test(backward, rms_needs_no_mean) {
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    if (!knows_mean(&desc)) check_without_mean(&desc, (uint64_t)i);
  }
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    if (!knows_mean(&desc)) check_without_mean(&desc, i);
  }
}

/* ---- finite differences ---- */

typedef struct loss {
  const rig *self;
  double *x, *grad_y, *scale, *shift, *running_mean, *running_variance;
} loss;

static loss loss_make(const rig *self) {
  const oracle *sizes = &self->sizes;
  return (loss){self,
                oracle_widen(self->x, sizes->elements),
                oracle_widen(self->grad_y, sizes->elements),
                oracle_widen(self->scale, sizes->parameters),
                oracle_widen(self->shift, sizes->parameters),
                oracle_widen(self->running_mean, sizes->running),
                oracle_widen(self->running_variance, sizes->running)};
}

static void loss_free(loss *at) {
  double *const inputs[] = {at->x,     at->grad_y,       at->scale,
                            at->shift, at->running_mean, at->running_variance};
  for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) free(inputs[i]);
}

/* The loss whose gradient by y is grad_y: the sum of y * grad_y. */
static double loss_value(const loss *at) {
  const oracle *sizes = &at->self->sizes;
  oracle_forward forward = at->running_mean
                               ? oracle_from_running(sizes, at->x, at->scale, at->shift,
                                                     at->running_mean, at->running_variance)
                               : oracle_from_x(sizes, at->x, at->scale, at->shift);
  long double sum = 0.0L;
  for (int64_t e = 0; e < sizes->elements; e++) sum += (long double)forward.y[e] * at->grad_y[e];
  oracle_forward_free(&forward);
  return (double)sum;
}

/* Five points, an error of order step^4: about 1e-9 for values around 1. */
static double slope(const loss *at, double *input) {
  const double step = 1e-3, kept = *input;
  double values[4];
  for (int i = 0; i < 4; i++) {
    *input = kept + step * (i < 2 ? i - 2 : i - 1);
    values[i] = loss_value(at);
  }
  *input = kept;
  return (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * step);
}

static double *slopes(const loss *at, double *inputs, int64_t count) {
  double *result = malloc((size_t)count * sizeof(double));
  for (int64_t i = 0; i < count; i++) result[i] = slope(at, &inputs[i]);
  return result;
}

static void check_near(const rig *self, const char *what, int64_t count, const double *got,
                       const double *want) {
  for (int64_t i = 0; i < count; i++) {
    cr_assert(fabs(got[i] - want[i]) <= 1e-7 * (1.0 + fabs(want[i])),
              "%s: the oracle's %s[%d] is %.12g, the finite difference %.12g",
              desc_text(&self->desc), what, (int)i, got[i], want[i]);
  }
}

static void check_finite_differences(const axn_desc *desc, int frozen, uint64_t seed) {
  rig self = rig_make(desc, frozen ? RIG_ALL : RIG_SCALE | RIG_SHIFT, DATA_STANDARD, seed);
  const oracle *sizes = &self.sizes;
  loss at = loss_make(&self);
  oracle_backward expected = frozen ? rig_expect_frozen(&self) : rig_expect_backward(&self);
  double *by_x = slopes(&at, at.x, sizes->elements);
  double *by_scale = slopes(&at, at.scale, sizes->parameters);
  double *by_shift = slopes(&at, at.shift, sizes->parameters);
  check_near(&self, "grad_x", sizes->elements, expected.grad_x, by_x);
  check_near(&self, "grad_scale", sizes->parameters, expected.grad_scale, by_scale);
  check_near(&self, "grad_shift", sizes->parameters, expected.grad_shift, by_shift);
  if (!frozen) rig_train(&self);
  frozen ? rig_backward_frozen(&self) : rig_backward(&self);
  check_within(&self, "grad_x", sizes->elements, self.grad_x, by_x, 1e-5);
  check_within(&self, "grad_scale", sizes->parameters, self.grad_scale, by_scale, 1e-4);
  check_within(&self, "grad_shift", sizes->parameters, self.grad_shift, by_shift, 1e-4);
  free(by_x);
  free(by_scale);
  free(by_shift);
  oracle_backward_free(&expected);
  loss_free(&at);
  rig_free(&self);
}

Test(backward, finite_differences) {
  uint64_t seed = test_seed(110);
  const int64_t shape[5] = {2, 3, 4, 3, 2};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    desc.epsilon = 0.1; /* smooth enough for the step with few values */
    check_finite_differences(&desc, 0, seed + (uint64_t)i);
    if (keeps_running(&desc)) check_finite_differences(&desc, 1, seed + (uint64_t)i);
  }
}
