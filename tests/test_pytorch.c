/* SPDX-License-Identifier: MIT */
/* Numbers computed by PyTorch (tests/pytorch/make_cases.py): the oracle agrees with them in
 * float64, the library within the bounds of check.c. */
#include "check.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct pytorch_case {
  axn_norm norm;
  int rank;
  int64_t shape[5];
  int64_t groups, ghost_batch;
  int axis;
  axn_parameters parameters;
  double epsilon, momentum;
  int steps;  /* batches, one after the other in x */
  int frozen; /* from the running statistics */
  const float *x, *grad_y, *scale, *shift;
  const float *running_mean, *running_variance;       /* before the first step, or null */
  const double *y, *grad_x, *grad_scale, *grad_shift; /* of the last step */
  const double *running_means, *running_variances;    /* after each step, or null */
} pytorch_case;

#include "pytorch/cases.h"

static axn_desc desc_for(const pytorch_case *torch) {
  axn_desc desc = make_desc(torch->norm, torch->rank, torch->shape);
  desc.groups = torch->groups;
  desc.ghost_batch = torch->ghost_batch;
  desc.axis = torch->axis;
  desc.parameters = torch->parameters;
  desc.epsilon = torch->epsilon;
  desc.momentum = torch->momentum;
  return desc;
}

static void put(float *to, const float *from, int64_t count) {
  if (from) memcpy(to, from, (size_t)count * sizeof(float));
}

static rig rig_for(const pytorch_case *torch, axn_desc desc) {
  unsigned has = RIG_PLAIN;
  if (torch->scale) has |= RIG_SCALE;
  if (torch->shift) has |= RIG_SHIFT;
  if (torch->running_mean) has |= RIG_RUNNING;
  rig self = rig_make(&desc, has, DATA_STANDARD, 0);
  put(self.grad_y, torch->grad_y, self.sizes.elements);
  put(self.scale, torch->scale, self.sizes.parameters);
  put(self.shift, torch->shift, self.sizes.parameters);
  put(self.running_mean, torch->running_mean, self.sizes.running);
  put(self.running_variance, torch->running_variance, self.sizes.running);
  return self;
}

/* A few float64 roundings of the tensor's largest magnitude. */
static void check_oracle(const rig *self, const char *what, int64_t count, const double *oracle_has,
                         const double *torch_has) {
  double size = 1.0;
  for (int64_t i = 0; torch_has && i < count; i++) size = fmax(size, fabs(torch_has[i]));
  for (int64_t i = 0; torch_has && i < count; i++) {
    cr_assert(fabs(oracle_has[i] - torch_has[i]) <= 1e-11 * size,
              "%s: the oracle's %s[%d] is %.17g, PyTorch's %.17g", desc_text(&self->desc), what,
              (int)i, oracle_has[i], torch_has[i]);
  }
}

/* The averages hold |old| and |new| together; each step rounds to float32 once. */
static void check_running(const rig *self, const pytorch_case *torch, int step) {
  int64_t count = self->sizes.running;
  if (!torch->running_means) return;
  const double *mean = torch->running_means + step * count;
  const double *variance = torch->running_variances + step * count;
  for (int64_t c = 0; c < count; c++) {
    double of_mean = 0x1p-23 * (fabs(mean[c]) + 1.0), of_variance = 0x1p-22 * (variance[c] + 1.0);
    check_within(self, "running_mean", 1, self->running_mean + c, mean + c, of_mean);
    check_within(self, "running_variance", 1, self->running_variance + c, variance + c,
                 of_variance);
  }
}

static void check_steps(rig *self, const pytorch_case *torch) {
  for (int step = 0; step < torch->steps; step++) {
    put(self->x, torch->x + step * self->sizes.elements, self->sizes.elements);
    if (torch->frozen) {
      rig_infer(self);
    } else {
      rig_train(self);
      check_running(self, torch, step);
    }
  }
}

static void check_y_of(const rig *self, const pytorch_case *torch) {
  oracle_forward expected = torch->frozen ? rig_expect_inference(self) : rig_expect_training(self);
  check_oracle(self, "y", self->sizes.elements, expected.y, torch->y);
  memcpy(expected.y, torch->y, (size_t)self->sizes.elements * sizeof(double));
  check_y(self, &expected);
  oracle_forward_free(&expected);
}

static void check_gradients_of(rig *self, const pytorch_case *torch) {
  size_t elements = (size_t)self->sizes.elements, parameters = (size_t)self->sizes.parameters;
  oracle_backward expected = torch->frozen ? rig_expect_frozen(self) : rig_expect_backward(self);
  check_oracle(self, "grad_x", (int64_t)elements, expected.grad_x, torch->grad_x);
  check_oracle(self, "grad_scale", (int64_t)parameters, expected.grad_scale, torch->grad_scale);
  check_oracle(self, "grad_shift", (int64_t)parameters, expected.grad_shift, torch->grad_shift);
  memcpy(expected.grad_x, torch->grad_x, elements * sizeof(double));
  parameters *= sizeof(double);
  if (torch->grad_scale) memcpy(expected.grad_scale, torch->grad_scale, parameters);
  if (torch->grad_shift) memcpy(expected.grad_shift, torch->grad_shift, parameters);
  torch->frozen ? rig_backward_frozen(self) : rig_backward(self);
  check_gradients(self, &expected);
  oracle_backward_free(&expected);
}

static int check_norm(axn_norm norm) {
  int checked = 0;
  for (size_t i = 0; i < sizeof pytorch_cases / sizeof pytorch_cases[0]; i++) {
    const pytorch_case *torch = &pytorch_cases[i];
    if (torch->norm != norm) continue;
    rig self = rig_for(torch, desc_for(torch));
    check_steps(&self, torch);
    check_y_of(&self, torch);
    check_gradients_of(&self, torch);
    rig_free(&self);
    checked++;
  }
  return checked;
}

Test(pytorch, batch) {
  cr_assert(check_norm(AXN_BATCH_NORM) >= 12);
}
Test(pytorch, layer) {
  cr_assert(check_norm(AXN_LAYER_NORM) >= 13);
}
Test(pytorch, instance) {
  cr_assert(check_norm(AXN_INSTANCE_NORM) >= 11);
}
Test(pytorch, group) {
  cr_assert(check_norm(AXN_GROUP_NORM) >= 7);
}
Test(pytorch, rms) {
  cr_assert(check_norm(AXN_RMS_NORM) >= 11);
}
Test(pytorch, positional) {
  cr_assert(check_norm(AXN_POSITIONAL_NORM) >= 5);
}
Test(pytorch, ghost) {
  cr_assert(check_norm(AXN_GHOST_BATCH_NORM) >= 10);
}
