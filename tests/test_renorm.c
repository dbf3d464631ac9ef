/* SPDX-License-Identifier: MIT */
/* Batch renormalization: the whole step, as the header has it, against the paper's formulas in
 * float64, and the gradients against differences with r and d held. */
#include "check.h"

#include <axisnorm/moments.h>
#include <axisnorm/renorm.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A rig and what renormalization adds to it. */
typedef struct step {
  rig own;
  double r_max, d_max;
  float *r, *d, *effective_scale, *effective_shift;
} step;

static step make_step(const axn_desc *desc, double r_max, double d_max, uint64_t seed) {
  const data_spec data = {DATA_NORMAL, 0.7, 1.5};
  step self = {.own = rig_make(desc, RIG_ALL, data, seed), .r_max = r_max, .d_max = d_max};
  const int64_t channels = desc->shape[1];
  self.r = new_floats(channels), self.d = new_floats(channels);
  self.effective_scale = new_floats(channels), self.effective_shift = new_floats(channels);
  return self;
}

static void step_free(step *self) {
  rig_free(&self->own);
  free(self->r), free(self->d), free(self->effective_scale), free(self->effective_shift);
}

/* Mean and rstd of the batch, before it is normalized. */
static void find_statistics(rig *self) {
  axn_moment_state state = axn_moment_state_init();
  state.statistics = self->sizes.statistics;
  state.mean = malloc((size_t)state.statistics * sizeof(double));
  state.m2 = malloc((size_t)state.statistics * sizeof(double));
  axn_moments_args args = axn_moments_init();
  args.x = self->x, args.state = &state;
  args.workspace_size = self->info.training_workspace;
  args.workspace = malloc(args.workspace_size);
  axn_moment_results results = axn_moment_results_init();
  results.mean = self->mean, results.rstd = self->rstd, results.epsilon = self->desc.epsilon;
  cr_assert(axn_moments_reset(&state, NULL) == AXN_OK);
  cr_assert(axn_moments_accumulate(self->plan, &args, NULL) == AXN_OK);
  cr_assert(axn_moments_finish(&state, &results, NULL) == AXN_OK);
  free(args.workspace), free(state.mean), free(state.m2);
}

static axn_renorm_args renorm_args(step *self) {
  axn_renorm_args args = axn_renorm_init();
  args.channels = self->own.desc.shape[1];
  args.mean = self->own.mean, args.rstd = self->own.rstd;
  args.running_mean = self->own.running_mean;
  args.running_variance = self->own.running_variance;
  args.scale = self->own.scale, args.shift = self->own.shift;
  args.epsilon = self->own.desc.epsilon;
  args.r_max = self->r_max, args.d_max = self->d_max;
  args.r = self->r, args.d = self->d;
  args.effective_scale = self->effective_scale, args.effective_shift = self->effective_shift;
  return args;
}

/* Forward and backward; the rig's own scale and shift are in their place again afterwards. */
static void run_step(step *self) {
  rig *own = &self->own;
  float *const scale = own->scale, *const shift = own->shift;
  axn_error error = {AXN_OK, ""};
  find_statistics(own);
  const axn_renorm_args args = renorm_args(self);
  cr_assert(axn_renorm_parameters(&args, &error) == AXN_OK, "%s", error.message);
  own->scale = self->effective_scale, own->shift = self->effective_shift;
  rig_train(own);
  rig_backward(own);
  own->scale = scale, own->shift = shift;
  cr_assert(axn_renorm_grad_scale(own->desc.shape[1], self->r, self->d, own->grad_shift,
                                  own->grad_scale, &error) == AXN_OK);
}

static double clip(double value, double low, double high) {
  return fmin(fmax(value, low), high);
}

/* The paper's r and d from exact statistics and the running ones. */
typedef struct factors {
  double *r, *d;
} factors;

static factors exact_factors(const step *self, const oracle_forward *forward,
                             const double *running_mean, const double *running_variance) {
  const int64_t channels = self->own.desc.shape[1];
  factors exact = {malloc((size_t)channels * sizeof(double)),
                   malloc((size_t)channels * sizeof(double))};
  for (int64_t c = 0; c < channels; c++) {
    const double deviation = sqrt(running_variance[c] + self->own.desc.epsilon);
    const double own = sqrt(forward->variance[c] + self->own.desc.epsilon);
    exact.r[c] = clip(own / deviation, 1 / self->r_max, self->r_max);
    exact.d[c] = clip((forward->mean[c] - running_mean[c]) / deviation, -self->d_max, self->d_max);
  }
  return exact;
}

/* y = ((x - mean) / sigma * r + d) * scale + shift, and the loss sum of y * grad_y. */
static double renormalized(const step *self, int64_t e, double normalized, const factors *exact) {
  const int64_t c = self->own.sizes.channel_of[e];
  return (normalized * exact->r[c] + exact->d[c]) * (double)self->own.scale[c] +
         (double)self->own.shift[c];
}

static void check_step(const axn_desc *desc, double r_max, double d_max, uint64_t seed) {
  step self = make_step(desc, r_max, d_max, seed);
  rig *own = &self.own;
  double *running_mean = oracle_widen(own->running_mean, own->sizes.running);
  double *running_variance = oracle_widen(own->running_variance, own->sizes.running);
  double *x = oracle_widen(own->x, own->sizes.elements);
  oracle_forward forward = oracle_from_x(&own->sizes, x, NULL, NULL);
  factors exact = exact_factors(&self, &forward, running_mean, running_variance);
  run_step(&self);
  for (int64_t e = 0; e < own->sizes.elements; e++) {
    const int64_t c = own->sizes.channel_of[e];
    const double size = fabs(forward.y[e] * exact.r[c]) + fabs(exact.d[c]) + 1;
    const double want = renormalized(&self, e, forward.y[e], &exact);
    const double bound =
        6 * 0x1p-23 * (size * fabs((double)own->scale[c]) + fabs((double)own->shift[c]));
    cr_assert(fabs((double)own->y[e] - want) <= bound, "%s: y[%d] is %.9g, expected %.9g",
              desc_text(desc), (int)e, (double)own->y[e], want);
  }
  free(exact.r), free(exact.d), free(x), free(running_mean), free(running_variance);
  oracle_forward_free(&forward);
  step_free(&self);
}

Test(renorm, computes_the_papers_formulas) {
  static const double bounds[][2] = {{1, 0}, {1.1, 0.1}, {3, 5}, {INFINITY, INFINITY}};
  uint64_t seed = test_seed(931);
  const axn_desc descs[] = {desc_of(AXN_BATCH_NORM, 4, 5, 3, 3, 0),
                            desc_of(AXN_BATCH_NORM, 2, 9, 0, 0, 0),
                            desc_of(AXN_BATCH_NORM, 3, 40, 7, 7, 0)};
  for (int i = 0; i < 12; i++) {
    axn_desc desc = descs[i % 3];
    for (int layout = AXN_CHANNELS_FIRST; layout <= AXN_CHANNELS_LAST; layout++) {
      desc.layout = (axn_layout)layout;
      check_step(&desc, bounds[i / 3][0], bounds[i / 3][1], case_seed(seed, (uint64_t)i));
    }
  }
}

/* Bounds of 1 and 0 leave batch normalization, to the bit. */
Test(renorm, without_correction_is_batch_normalization) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 5, 6, 7, 0);
  step self = make_step(&desc, 1, 0, 932);
  rig plain = rig_make(&desc, RIG_ALL, (data_spec){DATA_NORMAL, 0.7, 1.5}, 932);
  run_step(&self);
  rig_train(&plain);
  rig_backward(&plain);
  check_same(&plain, "y", plain.sizes.elements, self.own.y, plain.y);
  check_same(&plain, "grad_x", plain.sizes.elements, self.own.grad_x, plain.grad_x);
  check_same(&plain, "grad_scale", 5, self.own.grad_scale, plain.grad_scale);
  check_same(&plain, "grad_shift", 5, self.own.grad_shift, plain.grad_shift);
  check_same(&plain, "running_mean", 5, self.own.running_mean, plain.running_mean);
  check_same(&plain, "running_variance", 5, self.own.running_variance, plain.running_variance);
  rig_free(&plain);
  step_free(&self);
}

/* Without bounds a batch is normalized as inference will normalize it. */
Test(renorm, without_bounds_is_inference) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 5, 6, 7, 0);
  step self = make_step(&desc, INFINITY, INFINITY, 933);
  rig plain = rig_make(&desc, RIG_ALL, (data_spec){DATA_NORMAL, 0.7, 1.5}, 933);
  rig_infer(&plain);
  run_step(&self);
  for (int64_t e = 0; e < plain.sizes.elements; e++) {
    cr_assert(fabs((double)self.own.y[e] - (double)plain.y[e]) < 2e-5);
  }
  rig_free(&plain);
  step_free(&self);
}

/* ---- gradients ---- */

/* The loss in float64, with r and d as the step had them. */
static double loss(const step *self, const double *x) {
  const oracle *sizes = &self->own.sizes;
  oracle_forward forward = oracle_from_x(sizes, x, NULL, NULL);
  double sum = 0;
  for (int64_t e = 0; e < sizes->elements; e++) {
    const int64_t c = sizes->channel_of[e];
    const double value = forward.y[e] * (double)self->r[c] + (double)self->d[c];
    sum += (value * (double)self->own.scale[c] + (double)self->own.shift[c]) *
           (double)self->own.grad_y[e];
  }
  oracle_forward_free(&forward);
  return sum;
}

Test(renorm, gradients_are_those_of_constant_r_and_d) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 3, 4, 3, 2, 0);
  desc.momentum = 0;
  step self = make_step(&desc, 1.5, 0.4, test_seed(934));
  rig *own = &self.own;
  run_step(&self);
  double *x = oracle_widen(own->x, own->sizes.elements);
  const double h = 1e-5;
  for (int64_t e = 0; e < own->sizes.elements; e++) {
    const double at = x[e];
    x[e] = at + h;
    double difference = loss(&self, x);
    x[e] = at - h;
    difference = (difference - loss(&self, x)) / (2 * h);
    x[e] = at;
    cr_assert(fabs(difference - (double)own->grad_x[e]) < 1e-5, "grad_x[%d]: %g, by difference %g",
              (int)e, (double)own->grad_x[e], difference);
  }
  for (int c = 0; c < 4; c++) {
    /* The loss is linear in scale and in shift: a difference over any distance is exact. */
    const double base = loss(&self, x);
    own->scale[c] += 1;
    const double by_scale = loss(&self, x) - base;
    own->scale[c] -= 1;
    own->shift[c] += 1;
    const double by_shift = loss(&self, x) - base;
    own->shift[c] -= 1;
    cr_assert(fabs(by_scale - (double)own->grad_scale[c]) < 2e-5, "grad_scale[%d]: %g, not %g", c,
              (double)own->grad_scale[c], by_scale);
    cr_assert(fabs(by_shift - (double)own->grad_shift[c]) < 2e-5, "grad_shift[%d]: %g, not %g", c,
              (double)own->grad_shift[c], by_shift);
  }
  free(x);
  step_free(&self);
}

/* ---- arguments ---- */

static void refuses(const axn_renorm_args *args, axn_status status, const char *field, int line) {
  axn_error error = {AXN_OK, ""};
  axn_status got = axn_renorm_parameters(args, &error);
  cr_assert(got == status && strstr(error.message, field), "line %d: status %d: %s", line, (int)got,
            error.message);
  cr_assert(axn_renorm_parameters(args, NULL) == status);
  for (int c = 0; c < 3; c++) {
    cr_assert(!args->r || isnan(args->r[c]));
    cr_assert(!args->effective_shift || isnan(args->effective_shift[c]));
  }
}

#define REFUSED(change, status, field)                                                             \
  do {                                                                                             \
    axn_renorm_args args = valid;                                                                  \
    change;                                                                                        \
    refuses(&args, status, field, __LINE__);                                                       \
  } while (0)

Test(renorm, refuses_bad_arguments) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 2, 3, 0, 0, 0);
  step self = make_step(&desc, 3, 5, 935);
  find_statistics(&self.own);
  const axn_renorm_args valid = renorm_args(&self);
  cr_assert(axn_renorm_parameters(NULL, NULL) == AXN_ERROR_NULL);
  REFUSED(args.struct_size--, AXN_ERROR_STRUCT_SIZE, "args");
  REFUSED(args.channels = 0, AXN_ERROR_SHAPE, "channels");
  REFUSED(args.channels = INT64_MAX, AXN_ERROR_OVERFLOW, "channels");
  REFUSED(args.epsilon = -1, AXN_ERROR_EPSILON, "epsilon");
  REFUSED(args.r_max = 0.5, AXN_ERROR_OPTION, "r_max");
  REFUSED(args.r_max = NAN, AXN_ERROR_OPTION, "r_max");
  REFUSED(args.d_max = -1, AXN_ERROR_OPTION, "d_max");
  REFUSED(args.mean = NULL, AXN_ERROR_NULL, "mean");
  REFUSED(args.rstd = NULL, AXN_ERROR_NULL, "rstd");
  REFUSED(args.running_mean = NULL, AXN_ERROR_NULL, "running_mean");
  REFUSED(args.running_variance = NULL, AXN_ERROR_NULL, "running_variance");
  REFUSED(args.r = NULL, AXN_ERROR_NULL, "r: is null");
  REFUSED(args.d = NULL, AXN_ERROR_NULL, "d: is null");
  REFUSED(args.effective_scale = NULL, AXN_ERROR_NULL, "effective_scale");
  REFUSED(args.effective_shift = NULL, AXN_ERROR_NULL, "effective_shift");
  REFUSED(args.effective_scale = self.own.scale, AXN_ERROR_OVERLAP, "effective_scale");
  step_free(&self);
}

Test(renorm, gradient_refuses_bad_arguments) {
  float r[3] = {1, 1, 1}, d[3] = {0}, shift[3] = {2, 3, 4}, scale[3] = {5, 6, 7};
  axn_error error;
  cr_assert(axn_renorm_grad_scale(0, r, d, shift, scale, &error) == AXN_ERROR_SHAPE);
  cr_assert(axn_renorm_grad_scale(3, NULL, d, shift, scale, &error) == AXN_ERROR_NULL);
  cr_assert(axn_renorm_grad_scale(3, r, NULL, shift, scale, &error) == AXN_ERROR_NULL);
  cr_assert(axn_renorm_grad_scale(3, r, d, NULL, scale, &error) == AXN_ERROR_NULL);
  cr_assert(axn_renorm_grad_scale(3, r, d, shift, NULL, &error) == AXN_ERROR_NULL);
  cr_assert(axn_renorm_grad_scale(3, r, d, shift, d, &error) == AXN_ERROR_OVERLAP);
  cr_assert(scale[0] == 5 && d[0] == 0);
}

/* A NaN is not clipped away. */
Test(renorm, keeps_nan) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 2, 3, 0, 0, 0);
  step self = make_step(&desc, 3, 5, 936);
  find_statistics(&self.own);
  self.own.running_mean[1] = NAN;
  self.own.rstd[2] = NAN;
  const axn_renorm_args args = renorm_args(&self);
  cr_assert(axn_renorm_parameters(&args, NULL) == AXN_OK);
  cr_assert(isfinite(self.d[0]) && isfinite(self.r[0]));
  cr_assert(isnan(self.d[1]) && isnan(self.effective_shift[1]));
  cr_assert(isnan(self.r[2]) && isnan(self.effective_scale[2]));
  step_free(&self);
}
