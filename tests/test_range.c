/* SPDX-License-Identifier: MIT */
/* Where float32 has no room for an intermediate result, but has for the final one: given statistics
 * far from x, factors that overflow, gradients near the largest float. */
#include "check.h"

#include <criterion/criterion.h>
#include <math.h>

/* Short and long rows: rows side by side, rows alone, and (last, a matrix) columns. */
static const int64_t SHAPES[][5] = {{3, 6, 5, 7, 2}, {2, 6, 19, 31, 1}, {40, 6, 1, 1, 1}};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

static void for_every_desc(void (*check)(const axn_desc *desc)) {
  for (int s = 0; s < SHAPE_COUNT; s++) {
    axn_desc desc;
    for (int i = 0; listed_desc(i, SHAPES[s], &desc); i++) {
      if (values_of(&desc) > 1) check(&desc);
    }
  }
}

/* y = (x - mean) * rstd is some 1e23, while x - mean is beyond float32. */
static void check_far_statistics(const axn_desc *desc) {
  if (!keeps_running(desc)) return;
  rig self = rig_make(desc, RIG_RUNNING, DATA_STANDARD, 1);
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    self.x[e] = self.sizes.channel_of[e] % 3 == 1 ? self.x[e] : 3e38f;
  }
  for (int64_t c = 0; c < self.sizes.running; c++) {
    self.running_mean[c] = c % 3 == 1 ? 0.25f : -3e38f;
    self.running_variance[c] = c % 3 == 0 ? 1e30f : 1.0e35f;
    if (c % 3 == 1) self.running_variance[c] = 2;
  }
  rig_infer(&self);
  oracle_forward expected = rig_expect_inference(&self);
  check_y(&self, &expected);
  oracle_forward_free(&expected);
  rig_free(&self);
}

Test(range, given_statistics_far_from_x) {
  for_every_desc(check_far_statistics);
}

/* rstd * scale overflows, x - mean (with rms, x) is 0: y is the shift. */
static void check_huge_factor(const axn_desc *desc) {
  axn_desc tiny = *desc;
  tiny.epsilon = 1e-30;
  const data_spec constant = {DATA_CONSTANT, knows_mean(desc) ? 7 : 0, 0};
  rig self = rig_make(&tiny, RIG_SCALE | RIG_SHIFT, constant, 2);
  for (int64_t p = 0; p < self.sizes.parameters; p++) {
    self.scale[p] = p % 2 == 0 ? 1e30f : 3;
    self.shift[p] = (float)p;
  }
  rig_train(&self);
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    const float shift = self.shift[self.sizes.parameter_of[e]];
    cr_assert(self.y[e] == shift, "%s: y is %g, the shift is %g", desc_text(&tiny),
              (double)self.y[e], (double)shift);
  }
  rig_free(&self);
}

Test(range, a_constant_times_a_huge_scale) {
  for_every_desc(check_huge_factor);
}

/* The bound of grad_x is relative to the terms. */
static void check_beside_terms(rig *self) {
  rig_train(self);
  rig_backward(self);
  oracle_backward expected = rig_expect_backward(self);
  double scale = 0, shift = 0;
  for (int64_t p = 0; p < self->sizes.parameters; p++) {
    scale = fmax(scale, expected.scale_terms[p]);
    shift = fmax(shift, fabs(expected.grad_shift[p]));
  }
  check_within(self, "grad_x", self->sizes.elements, self->grad_x, expected.grad_x,
               2e-6 * expected.uncancelled);
  check_within(self, "grad_scale", self->sizes.parameters, self->grad_scale, expected.grad_scale,
               2e-6 * scale);
  check_within(self, "grad_shift", self->sizes.parameters, self->grad_shift, expected.grad_shift,
               2e-6 * shift);
  oracle_backward_free(&expected);
}

/* All of one sign, so that a few of them overflow in float32. Their common part cancels in grad_x,
 * and so the bound is relative to the terms. */
static void check_huge_gradients(const axn_desc *desc) {
  rig self = rig_make(desc, RIG_SCALE, DATA_STANDARD, 3);
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    self.grad_y[e] = 6e37f + 1e37f * self.grad_y[e] / 8;
  }
  for (int64_t p = 0; p < self.sizes.parameters; p++) self.scale[p] = 1;
  /* A spread that gives grad_x, of the size of grad_y * rstd, room. */
  for (int64_t e = 0; e < self.sizes.elements; e++) self.x[e] *= 1024;
  check_beside_terms(&self);
  rig_free(&self);
}

Test(range, gradients_near_the_largest_float) {
  for_every_desc(check_huge_gradients);
}

/* What a few samples give to a parameter overflows on the way, and does not in the end. */
Test(range, gradients_of_parameters_that_cancel) {
  for (int64_t samples = 4; samples <= 64; samples *= 2) {
    const axn_desc desc = desc_of(AXN_LAYER_NORM, samples, 150, 0, 0, 0);
    rig self = rig_make(&desc, RIG_SCALE, DATA_STANDARD, 3);
    for (int64_t e = 0; e < self.sizes.elements; e++) {
      const float sign = e / 150 % 4 < 2 ? 1 : -1;
      self.grad_y[e] = sign * (2e38f + 1e37f * self.grad_y[e] / 8);
      self.x[e] *= 1024;
    }
    for (int64_t p = 0; p < self.sizes.parameters; p++) self.scale[p] = 1;
    check_beside_terms(&self);
    rig_free(&self);
  }
}

/* grad_x is 1e-13, or 1e20, while rstd is too small for float32's digits, or rstd * scale too large. */
static void check_constant_statistics(const axn_desc *desc) {
  if (!keeps_running(desc)) return;
  axn_desc tiny = *desc;
  tiny.epsilon = 1e-60;
  rig self = rig_make(&tiny, RIG_RUNNING | RIG_SCALE, DATA_STANDARD, 3);
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    self.x[e] = 0;
    self.grad_y[e] = self.sizes.channel_of[e] % 2 == 0 ? 1e30f : 1e-30f;
  }
  for (int64_t c = 0; c < self.sizes.running; c++) {
    self.running_mean[c] = 0;
    self.running_variance[c] = c % 2 == 0 ? 1e38f : 0;
  }
  for (int64_t p = 0; p < self.sizes.parameters; p++) self.scale[p] = p % 2 == 0 ? 1e-24f : 1e20f;
  oracle_backward expected = rig_expect_frozen(&self);
  rig_backward_frozen(&self);
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    const double want = expected.grad_x[e], got = (double)self.grad_x[e];
    cr_assert(fabs(got - want) <= 1e-6 * fabs(want), "%s: grad_x is %g, expected %g",
              desc_text(&tiny), got, want);
  }
  oracle_backward_free(&expected);
  rig_free(&self);
}

Test(range, constant_statistics_beyond_float32) {
  for_every_desc(check_constant_statistics);
}
