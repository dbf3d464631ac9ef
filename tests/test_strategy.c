/* SPDX-License-Identifier: MIT */
/* Strategies from outside the library: that they are used like built-in ones, and checked. */
#include "check.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Selects what the context holds. */
static axn_status select_given(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  (void)desc;
  (void)error;
  *axes = *(const axn_axes *)self->context;
  return AXN_OK;
}

static axn_status refuse(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                         axn_error *error) {
  (void)desc;
  (void)axes;
  if (self->context != NULL && error != NULL) {
    snprintf(error->message, sizeof error->message, "%s", (const char *)self->context);
  }
  return AXN_ERROR_SHAPE;
}

static axn_strategy given(const axn_axes *axes) {
  axn_strategy strategy = axn_strategy_init();
  strategy.name = "own";
  strategy.select = select_given;
  strategy.context = axes;
  return strategy;
}

static void check_status(const axn_strategy *strategy, int rank, axn_status expected,
                         const char *words) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 6, 5, rank > 3 ? 7 : 0, 0);
  axn_plan *plan = NULL;
  axn_error error = {AXN_OK, ""};
  desc.strategy = strategy;
  axn_status status = axn_plan_create(&plan, &desc, &error);
  cr_assert(status == expected, "%s: status %d: %s", words, (int)status, error.message);
  cr_assert(status == AXN_OK || (error.status == status && strstr(error.message, words)), "%s: %s",
            words, error.message);
  axn_plan_destroy(plan);
  cr_assert(axn_plan_create(&plan, &desc, NULL) == expected);
  axn_plan_destroy(plan);
}

Test(strategy, incomplete) {
  const axn_axes axes = {1, -1, 1};
  axn_strategy strategy = given(&axes);
  check_status(&strategy, 4, AXN_OK, "");
  strategy.select = NULL;
  check_status(&strategy, 4, AXN_ERROR_STRATEGY, "has no function");
  strategy = given(&axes);
  strategy.name = NULL;
  check_status(&strategy, 4, AXN_ERROR_STRATEGY, "has no name");
  strategy = given(&axes);
  strategy.struct_size = 0;
  check_status(&strategy, 4, AXN_ERROR_STRUCT_SIZE, "strategy");
  strategy = given(&axes);
  strategy.running = (axn_running_rule)3;
  check_status(&strategy, 4, AXN_ERROR_STRATEGY, "running");
}

Test(strategy, that_refuses) {
  axn_strategy strategy = axn_strategy_init();
  strategy.name = "own";
  strategy.select = refuse;
  strategy.context = "shape[2]: must be even";
  check_status(&strategy, 4, AXN_ERROR_SHAPE, "shape[2]: must be even");
  strategy.context = NULL;
  check_status(&strategy, 4, AXN_ERROR_SHAPE, "own: refuses");
}

Test(strategy, axes_that_cannot_be) {
  const axn_axes wrong[] = {{1u << 4, -1, 1}, {1u << 31, -1, 1}, {1, 0, 3},  {1, 0, 0}, {1, 0, -2},
                            {1, 1, 2},        {1, 4, 1},         {1, -2, 1}, {1, -1, 2}};
  const axn_axes right[] = {{0xf, -1, 1}, {1, 0, 2}, {0xf, 1, 6}, {8, 3, 7}, {0, -1, 1}, {6, 2, 5}};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    const axn_strategy strategy = given(&wrong[i]);
    check_status(&strategy, 4, AXN_ERROR_STRATEGY, "strategy: own");
  }
  for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
    const axn_strategy strategy = given(&right[i]);
    check_status(&strategy, 4, AXN_OK, "");
  }
}

Test(strategy, running_statistics_need_channels) {
  const axn_axes channels = {13, -1, 1}, none = {15, -1, 1}, rows = {5, -1, 1};
  for (int rule = AXN_RUNNING_AVERAGED; rule <= AXN_RUNNING_IN_TURN; rule++) {
    axn_strategy strategy = given(&channels);
    strategy.running = (axn_running_rule)rule;
    check_status(&strategy, 4, AXN_OK, "");
    strategy.second_moment = 1;
    check_status(&strategy, 4, AXN_ERROR_STRATEGY, "running");
    strategy.second_moment = 0;
    strategy.context = &none;
    check_status(&strategy, 4, AXN_ERROR_STRATEGY, "running");
    strategy.context = &rows;
    check_status(&strategy, 4, AXN_ERROR_STRATEGY, "running");
  }
}

/* ---- that it computes ---- */

enum { MOST = 4 * 6 * 5 * 7 };

typedef struct outcome {
  float y[MOST], grad_x[MOST], mean[MOST], rstd[MOST], grad_scale[6], grad_shift[6];
} outcome;

static void run(const axn_desc *desc, outcome *out) {
  static float x[MOST], grad_y[MOST], scale[6] = {1, 2, -1, 0.5f, 3, 1},
                                      shift[6] = {0, 1, 2, 3, 4, 5};
  axn_plan *plan = NULL;
  axn_plan_info info = axn_plan_info_init();
  for (int i = 0; i < MOST; i++) x[i] = (float)(i * i % 101), grad_y[i] = (float)(i % 13) - 6;
  memset(out, 0, sizeof *out);
  cr_assert(axn_plan_create(&plan, desc, NULL) == AXN_OK);
  cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
  void *workspace = malloc(info.training_workspace + info.backward_workspace);
  axn_training_args training = axn_training_init();
  training.x = x, training.y = out->y, training.scale = scale, training.shift = shift;
  training.mean = out->mean, training.rstd = out->rstd, training.workspace = workspace;
  training.workspace_size = info.training_workspace;
  cr_assert(axn_forward_training(plan, &training, NULL) == AXN_OK);
  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.grad_y = grad_y, backward.scale = scale, backward.mean = out->mean;
  backward.rstd = out->rstd, backward.grad_x = out->grad_x, backward.grad_scale = out->grad_scale;
  backward.grad_shift = out->grad_shift, backward.workspace = workspace;
  backward.workspace_size = info.backward_workspace;
  cr_assert(axn_backward(plan, &backward, NULL) == AXN_OK);
  free(workspace);
  axn_plan_destroy(plan);
}

/* The built-in axes by another name: the same bits. */
Test(strategy, the_same_axes_give_the_same_bits) {
  static const struct {
    axn_norm norm;
    axn_axes axes;
    int second_moment;
  } known[] = {{AXN_BATCH_NORM, {13, -1, 1}, 0},     {AXN_LAYER_NORM, {14, -1, 1}, 0},
               {AXN_INSTANCE_NORM, {12, -1, 1}, 0},  {AXN_GROUP_NORM, {14, 1, 3}, 0},
               {AXN_RMS_NORM, {14, -1, 1}, 1},       {AXN_POSITIONAL_NORM, {2, -1, 1}, 0},
               {AXN_GHOST_BATCH_NORM, {13, 0, 2}, 0}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    static outcome named, own;
    axn_desc desc = desc_of(known[i].norm, 4, 6, 5, 7, 0);
    if (known[i].norm == AXN_GROUP_NORM) desc.groups = 3;
    run(&desc, &named);
    axn_strategy strategy = given(&known[i].axes);
    strategy.second_moment = known[i].second_moment;
    desc.norm = (axn_norm)0;
    desc.strategy = &strategy;
    run(&desc, &own);
    cr_assert(memcmp(&named, &own, sizeof own) == 0, "norm %d", (int)known[i].norm);
  }
}

/* One column of one channel, by the definition. */
static void check_column(const outcome *out, int at) {
  double sum = 0.0, squares = 0.0, gradients = 0.0, products = 0.0;
  static const double scale[6] = {1, 2, -1, 0.5, 3, 1}, shift[6] = {0, 1, 2, 3, 4, 5};
  int channel = at / 35 % 6;
  for (int h = 0; h < 5; h++) {
    double e = ((double)out->y[at + 7 * h] - shift[channel]) / scale[channel];
    sum += e;
    squares += e * e;
    gradients += (double)out->grad_x[at + 7 * h];
    products += (double)out->grad_x[at + 7 * h] * e;
  }
  cr_assert(fabs(sum) < 1e-5 && fabs(squares / 5.0 - 1.0) < 1e-4, "at %d", at);
  /* The gradient is orthogonal to what mean and variance take out. */
  cr_assert(fabs(gradients) < 1e-5 && fabs(products) < 1e-4, "at %d: %g %g", at, gradients,
            products);
}

Test(strategy, over_rows_alone) {
  static outcome out;
  const axn_axes rows = {4, -1, 1};
  const axn_strategy strategy = given(&rows);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 6, 5, 7, 0);
  desc.strategy = &strategy;
  run(&desc, &out);
  for (int plane = 0; plane < 24; plane++) {
    for (int w = 0; w < 7; w++) check_column(&out, plane * 35 + w);
  }
}

/* ---- any axes ---- */

static int64_t divisor_of(randoms *source, int64_t number) {
  for (;;) {
    int64_t divisor = random_between(source, 1, number < 64 ? number : 64);
    if (number % divisor == 0) return divisor;
  }
}

/* Any set of axes, one of which may be split. */
static axn_axes random_axes(randoms *source, const axn_desc *desc) {
  axn_axes axes = {(uint32_t)random_between(source, 0, (1 << desc->rank) - 1), -1, 1};
  int axis = (int)random_between(source, 0, desc->rank - 1);
  if ((axes.reduced >> axis & 1) != 0 && random_between(source, 0, 1)) {
    axes.split_axis = axis;
    axes.split_groups = divisor_of(source, desc->shape[axis]);
  }
  return axes;
}

/* Through every pass beside the oracle. */
static void check_passes(const axn_desc *desc, unsigned has, uint64_t seed) {
  rig self = rig_make(desc, has, DATA_STANDARD, seed);
  oracle_forward forward = rig_expect_training(&self);
  oracle_backward backward = rig_expect_backward(&self);
  cr_assert(self.info.statistics == self.sizes.statistics, "%s", desc_text(desc));
  cr_assert(self.info.values_per_statistic == self.sizes.values, "%s", desc_text(desc));
  cr_assert(self.info.reduced_axes == self.sizes.reduced_axes, "%s", desc_text(desc));
  cr_assert(self.info.split_axis == self.sizes.split_axis, "%s", desc_text(desc));
  cr_assert(self.info.split_groups == self.sizes.split_groups, "%s", desc_text(desc));
  rig_train(&self);
  check_y(&self, &forward);
  check_statistics(&self, &forward);
  rig_backward(&self);
  check_gradients(&self, &backward);
  rig_infer(&self);
  check_y(&self, &forward);
  oracle_forward_free(&forward);
  oracle_backward_free(&backward);
  rig_free(&self);
}

/* One thread and several come to the same bits. */
static void check_threads(const axn_desc *desc, uint64_t seed) {
  rig one = rig_make(desc, RIG_ALL, DATA_STANDARD, seed);
  rig more = rig_make(desc, RIG_ALL, DATA_STANDARD, seed);
  one.threads = 1;
  more.threads = 3;
  rig_train(&one), rig_backward(&one);
  rig_train(&more), rig_backward(&more);
  check_same(&one, "y", one.sizes.elements, one.y, more.y);
  check_same(&one, "mean", one.sizes.statistics, one.mean, more.mean);
  check_same(&one, "grad_x", one.sizes.elements, one.grad_x, more.grad_x);
  check_same(&one, "grad_scale", one.sizes.parameters, one.grad_scale, more.grad_scale);
  check_same(&one, "grad_shift", one.sizes.parameters, one.grad_shift, more.grad_shift);
  rig_free(&one);
  rig_free(&more);
}

Test(strategy, any_axes) {
  uint64_t seed = test_seed(801);
  for (uint64_t i = 0; i < 1500; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, i % 20 ? 4000 : 60000);
    const axn_axes axes = random_axes(&source, &desc);
    axn_strategy strategy = given(&axes);
    strategy.second_moment = (int)random_between(&source, 0, 1);
    desc.strategy = &strategy;
    desc.norm = (axn_norm)0;
    strategy.parameters_per_element = 1;
    desc.parameters =
        random_between(&source, 0, 1) ? AXN_PARAMETERS_PER_ELEMENT : AXN_PARAMETERS_PER_CHANNEL;
    unsigned has = (unsigned)random_between(&source, 0, RIG_SCALE | RIG_SHIFT);
    check_passes(&desc, has, random_bits(&source));
    check_threads(&desc, random_bits(&source));
  }
}

/* ---- running statistics of any axes ---- */

/* The statistics of a channel next to those of the next one: C is the last that is kept. */
static int may_run(const axn_desc *desc, const axn_axes *axes) {
  if (axes->reduced & 2) return 0;
  for (int k = 2; desc->layout == AXN_CHANNELS_FIRST && k < desc->rank; k++) {
    if (!(axes->reduced >> k & 1)) return 0;
    if (axes->split_axis == k && axes->split_groups > 1) return 0;
  }
  return 1;
}

static void check_running(const axn_desc *desc, uint64_t seed) {
  rig self = rig_make(desc, RIG_RUNNING, DATA_STANDARD, seed);
  if (self.sizes.values > 1) {
    oracle_forward forward = rig_expect_training(&self);
    double *mean = oracle_widen(self.running_mean, self.sizes.running);
    double *variance = oracle_widen(self.running_variance, self.sizes.running);
    oracle_update_running(&self.sizes, &forward, self.sizes.batches, mean, variance);
    rig_train(&self);
    cr_assert(self.batch_count == self.sizes.batches, "%s", desc_text(desc));
    check_within(&self, "running_mean", self.sizes.running, self.running_mean, mean, 1e-5);
    check_within(&self, "running_variance", self.sizes.running, self.running_variance, variance,
                 1e-5);
    oracle_forward_free(&forward);
    free(mean);
    free(variance);
  }
  rig_free(&self);
}

Test(strategy, running_statistics_of_any_axes) {
  uint64_t seed = test_seed(802);
  for (uint64_t i = 0; i < 1500; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    axn_axes axes = random_axes(&source, &desc);
    if (i % 2) axes.reduced |= (1u << desc.rank) - 4; /* all spatial ones */
    axn_strategy strategy = given(&axes);
    strategy.running = random_between(&source, 0, 1) ? AXN_RUNNING_AVERAGED : AXN_RUNNING_IN_TURN;
    desc.strategy = &strategy;
    desc.norm = (axn_norm)0;
    desc.parameters = AXN_PARAMETERS_PER_CHANNEL;
    if (may_run(&desc, &axes)) {
      check_running(&desc, random_bits(&source));
    } else {
      axn_plan *plan = NULL;
      cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_ERROR_STRATEGY, "%s", desc_text(&desc));
    }
  }
}

/* A strategy may split N into more parts than there are samples: none. */
Test(strategy, no_samples_in_groups) {
  const axn_axes axes = {13, 0, 4};
  const axn_strategy strategy = given(&axes);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 0, 6, 5, 7, 0);
  desc.strategy = &strategy;
  axn_plan *plan = NULL;
  axn_plan_info info = axn_plan_info_init();
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
  cr_assert(info.elements == 0 && info.statistics >= 0);
  axn_plan_destroy(plan);
}
