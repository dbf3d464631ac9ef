/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

float *new_floats(int64_t count) {
  size_t size = (size_t)(count > 0 ? count : 1) * sizeof(float);
  float *values = malloc(size);
  cr_assert(values, "out of memory");
  memset(values, 0xff, size);
  return values;
}

float *copy_floats(const float *values, int64_t count) {
  float *copy = new_floats(count);
  memcpy(copy, values, (size_t)count * sizeof(float));
  return copy;
}

static float *drawn(int64_t count, data_spec data, randoms *source) {
  float *values = new_floats(count);
  fill_data(values, count, data, source);
  return values;
}

static void fill_running(rig *self, randoms *source) {
  if (!(self->has & RIG_RUNNING) || !self->sizes.running) {
    self->has &= ~(unsigned)RIG_RUNNING;
    return;
  }
  self->running_mean = drawn(self->sizes.running, DATA_STANDARD, source);
  self->running_variance = new_floats(self->sizes.running);
  for (int64_t c = 0; c < self->sizes.running; c++) {
    self->running_variance[c] = (float)(0.25 + 2.0 * random_uniform(source));
  }
}

static void make_plan(rig *self) {
  axn_error error = {AXN_OK, ""};
  axn_status status = axn_plan_create(&self->plan, &self->desc, &error);
  cr_assert(status == AXN_OK, "%s: plan: %s", desc_text(&self->desc), error.message);
  self->info = axn_plan_info_init();
  status = axn_plan_describe(self->plan, &self->info, &error);
  cr_assert(status == AXN_OK, "%s: describe: %s", desc_text(&self->desc), error.message);
}

static void make_outputs(rig *self) {
  self->y = new_floats(self->sizes.elements);
  self->mean = new_floats(self->sizes.statistics);
  self->rstd = new_floats(self->sizes.statistics);
  self->grad_x = new_floats(self->sizes.elements);
  self->grad_scale = new_floats(self->sizes.parameters);
  self->grad_shift = new_floats(self->sizes.parameters);
}

rig rig_make(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed) {
  randoms source = randoms_from(seed);
  rig self = {0};
  self.desc = *desc;
  self.has = has;
  self.sizes = oracle_make(desc);
  make_plan(&self);
  self.x = drawn(self.sizes.elements, data, &source);
  self.grad_y = drawn(self.sizes.elements, DATA_STANDARD, &source);
  data_spec scales = {DATA_NORMAL, 1.0, 0.5};
  if (has & RIG_SCALE) self.scale = drawn(self.sizes.parameters, scales, &source);
  if (has & RIG_SHIFT) self.shift = drawn(self.sizes.parameters, DATA_STANDARD, &source);
  fill_running(&self, &source);
  make_outputs(&self);
  return self;
}

static float *copy_optional(const float *values, int64_t count) {
  return values ? copy_floats(values, count) : NULL;
}

rig rig_twin(const rig *of, const axn_desc *desc) {
  rig self = {0};
  const oracle *sizes = &of->sizes;
  self.desc = *desc;
  self.has = of->has;
  self.sizes = of->sizes;
  self.is_twin = 1;
  make_plan(&self);
  self.x = copy_floats(of->x, sizes->elements);
  self.grad_y = copy_floats(of->grad_y, sizes->elements);
  self.scale = copy_optional(of->scale, sizes->parameters);
  self.shift = copy_optional(of->shift, sizes->parameters);
  self.running_mean = copy_optional(of->running_mean, sizes->running);
  self.running_variance = copy_optional(of->running_variance, sizes->running);
  self.batch_count = of->batch_count;
  make_outputs(&self);
  return self;
}

void rig_free(rig *self) {
  float *const buffers[] = {
      self->x,          self->grad_y,     self->scale,        self->shift,
      self->y,          self->mean,       self->rstd,         self->grad_x,
      self->grad_scale, self->grad_shift, self->running_mean, self->running_variance};
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) free(buffers[i]);
  axn_plan_destroy(self->plan);
  if (!self->is_twin) oracle_free(&self->sizes);
  *self = (rig){0};
}

static void *new_workspace(size_t size) {
  void *workspace = malloc(size ? size : 1);
  cr_assert(workspace, "out of memory");
  memset(workspace, 0xff, size ? size : 1);
  return workspace;
}

static void expect_ok(const rig *self, axn_status status, const axn_error *error) {
  cr_assert(status == AXN_OK, "%s: status %d: %s", desc_text(&self->desc), (int)status,
            error->message);
}

/* The input of a pass: `from` itself, or `to` holding a copy of it for a pass in place. */
static const float *input_of(const rig *self, const float *from, float *to) {
  if (!(self->has & RIG_IN_PLACE)) return from;
  memcpy(to, from, (size_t)self->sizes.elements * sizeof(float));
  return to;
}

void rig_train(rig *self) {
  axn_error error = {AXN_OK, ""};
  axn_training_args args = axn_training_init();
  args.x = input_of(self, self->x, self->y);
  args.y = self->y;
  args.scale = self->scale;
  args.shift = self->shift;
  args.mean = self->mean;
  args.rstd = self->rstd;
  args.running_mean = self->running_mean;
  args.running_variance = self->running_variance;
  args.batch_count = self->running_mean ? &self->batch_count : NULL;
  args.workspace = new_workspace(self->info.training_workspace);
  args.workspace_size = self->info.training_workspace;
  args.threads = self->threads;
  expect_ok(self, axn_forward_training(self->plan, &args, &error), &error);
  free(args.workspace);
}

void rig_infer(rig *self) {
  axn_error error = {AXN_OK, ""};
  axn_inference_args args = axn_inference_init();
  args.x = input_of(self, self->x, self->y);
  args.y = self->y;
  args.scale = self->scale;
  args.shift = self->shift;
  args.running_mean = self->running_mean;
  args.running_variance = self->running_variance;
  args.workspace = new_workspace(self->info.inference_workspace);
  args.workspace_size = self->info.inference_workspace;
  args.threads = self->threads;
  expect_ok(self, axn_forward_inference(self->plan, &args, &error), &error);
  free(args.workspace);
}

static void run_backward(rig *self, int frozen) {
  axn_error error = {AXN_OK, ""};
  axn_backward_args args = axn_backward_init();
  args.x = self->x;
  args.grad_y = input_of(self, self->grad_y, self->grad_x);
  args.scale = self->scale;
  args.mean = frozen ? NULL : self->mean;
  args.rstd = frozen ? NULL : self->rstd;
  args.running_mean = frozen ? self->running_mean : NULL;
  args.running_variance = frozen ? self->running_variance : NULL;
  args.grad_x = self->grad_x;
  args.grad_scale = self->grad_scale;
  args.grad_shift = self->grad_shift;
  args.workspace = new_workspace(self->info.backward_workspace);
  args.workspace_size = self->info.backward_workspace;
  args.threads = self->threads;
  expect_ok(self, axn_backward(self->plan, &args, &error), &error);
  free(args.workspace);
}

void rig_backward(rig *self) {
  run_backward(self, 0);
}

void rig_backward_frozen(rig *self) {
  run_backward(self, 1);
}

/* ---- the oracle on the same data ---- */

typedef struct wide_inputs {
  double *x, *grad_y, *scale, *shift, *running_mean, *running_variance;
} wide_inputs;

static wide_inputs widen(const rig *self) {
  const oracle *sizes = &self->sizes;
  return (wide_inputs){oracle_widen(self->x, sizes->elements),
                       oracle_widen(self->grad_y, sizes->elements),
                       oracle_widen(self->scale, sizes->parameters),
                       oracle_widen(self->shift, sizes->parameters),
                       oracle_widen(self->running_mean, sizes->running),
                       oracle_widen(self->running_variance, sizes->running)};
}

static void wide_free(wide_inputs *wide) {
  free(wide->x);
  free(wide->grad_y);
  free(wide->scale);
  free(wide->shift);
  free(wide->running_mean);
  free(wide->running_variance);
}

oracle_forward rig_expect_training(const rig *self) {
  wide_inputs wide = widen(self);
  oracle_forward forward = oracle_from_x(&self->sizes, wide.x, wide.scale, wide.shift);
  wide_free(&wide);
  return forward;
}

oracle_forward rig_expect_inference(const rig *self) {
  if (!self->running_mean) return rig_expect_training(self);
  wide_inputs wide = widen(self);
  oracle_forward forward = oracle_from_running(&self->sizes, wide.x, wide.scale, wide.shift,
                                               wide.running_mean, wide.running_variance);
  wide_free(&wide);
  return forward;
}

oracle_backward rig_expect_backward(const rig *self) {
  wide_inputs wide = widen(self);
  oracle_backward backward = oracle_gradients(&self->sizes, wide.x, wide.grad_y, wide.scale);
  wide_free(&wide);
  return backward;
}

oracle_backward rig_expect_frozen(const rig *self) {
  wide_inputs wide = widen(self);
  oracle_backward backward = oracle_frozen_gradients(&self->sizes, wide.x, wide.grad_y, wide.scale,
                                                     wide.running_mean, wide.running_variance);
  wide_free(&wide);
  return backward;
}
