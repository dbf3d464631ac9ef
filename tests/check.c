/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <criterion/criterion.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of float32, 2^-23: twice the largest relative error of one rounding. */
static const double EPS = 0x1p-23;

double ulp_above(double value, double floor) {
  int exponent;
  double size = fmax(fabs(value), floor);
  frexp(size, &exponent); /* size is in [2^(exponent-1), 2^exponent) */
  return fmax(ldexp(1.0, exponent - 24), 0x1p-149);
}

/* How many times its bound an element is off; above 1 is a failure. */
static double excess(float got, double want, double bound) {
  float rounded = (float)want;
  if (isnan(rounded)) return isnan(got) ? 0.0 : INFINITY;
  if (isinf(rounded)) return got == rounded ? 0.0 : INFINITY;
  double difference = fabs((double)got - want);
  if (difference == 0.0) return 0.0;
  return isnan(got) ? INFINITY : difference / bound;
}

static void report(const rig *self, const char *what, int64_t at, double got, double want,
                   double bound, double ratio) {
  cr_assert(ratio <= 1.0,
            "%s: %s[%" PRId64 "] is %.9g, expected %.17g: off by %.3g, allowed %.3g (%.2f times)",
            desc_text(&self->desc), what, at, got, want, fabs(got - want), bound, ratio);
}

void check_close(const rig *self, const char *what, int64_t count, const float *got,
                 const double *want, const double *bound) {
  double worst = 0.0;
  int64_t at = 0;
  for (int64_t i = 0; i < count; i++) {
    double ratio = excess(got[i], want[i], bound[i]);
    if (ratio > worst) {
      worst = ratio;
      at = i;
    }
  }
  if (count) report(self, what, at, (double)got[at], want[at], bound[at], worst);
}

static double *new_bounds(int64_t count) {
  double *bounds = malloc((size_t)(count > 0 ? count : 1) * sizeof(double));
  cr_assert(bounds, "out of memory");
  return bounds;
}

void check_within(const rig *self, const char *what, int64_t count, const float *got,
                  const double *want, double bound) {
  double *bounds = new_bounds(count);
  for (int64_t i = 0; i < count; i++) bounds[i] = bound;
  check_close(self, what, count, got, want, bounds);
  free(bounds);
}

static int same_bits(float a, float b) {
  return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

void check_same(const rig *self, const char *what, int64_t count, const float *got,
                const float *want) {
  for (int64_t i = 0; i < count; i++) {
    if (!same_bits(got[i], want[i])) {
      cr_assert_fail("%s: %s[%" PRId64 "] is %a, expected the same bits as %a",
                     desc_text(&self->desc), what, i, (double)got[i], (double)want[i]);
    }
  }
}

/*
 * Without scale and shift: 3 float32 ulp of max(|y|, 1). One comes from x - mean, rounded once or
 * twice; one from rstd, rounded to float32; the last from the product and the rest of the mean,
 * which is added to it.
 *
 * With them that error is multiplied by scale. Then y = (y - shift) + shift: the product with scale
 * (or rstd * scale made beforehand) is rounded, so is what is added to it, so is the sum: each at
 * most half a unit of |y - shift| + |shift|, three halves together, bounded here by two.
 */
static double bound_of_y(const rig *self, int64_t e, double y) {
  int64_t p = self->sizes.parameter_of[e];
  if (!self->scale && !self->shift) return 3.0 * ulp_above(y, 1.0);
  double shift = self->shift ? (double)self->shift[p] : 0.0;
  double scale = self->scale ? fabs((double)self->scale[p]) : 1.0;
  double normalized = scale > 0.0 ? fabs(y - shift) / scale : 0.0;
  return 3.0 * ulp_above(normalized, 1.0) * scale + EPS * (fabs(y - shift) + fabs(shift));
}

void check_y(const rig *self, const oracle_forward *expected) {
  double *bounds = new_bounds(self->sizes.elements);
  for (int64_t e = 0; e < self->sizes.elements; e++) {
    bounds[e] = bound_of_y(self, e, expected->y[e]);
  }
  check_close(self, "y", self->sizes.elements, self->y, expected->y, bounds);
  free(bounds);
}

/* Statistics are float64, so mean and rstd are one rounding to float32 away from the exact ones;
 * what the float64 sums may lose (docs/mathematics.md, 7.5 and 7.6) is a hundredth of that.
 * FLT_TRUE_MIN: where rstd is subnormal. */
void check_statistics(const rig *self, const oracle_forward *expected) {
  double *bounds = new_bounds(self->sizes.statistics);
  for (int64_t s = 0; s < self->sizes.statistics; s++) {
    bounds[s] = 0.5 * ulp_above(expected->mean[s], 0.0) + 0.01 * EPS * sqrt(expected->variance[s]);
  }
  check_close(self, "mean", self->sizes.statistics, self->mean, expected->mean, bounds);
  for (int64_t s = 0; s < self->sizes.statistics; s++) {
    bounds[s] = 0.51 * EPS * expected->rstd[s] + FLT_TRUE_MIN;
  }
  check_close(self, "rstd", self->sizes.statistics, self->rstd, expected->rstd, bounds);
  free(bounds);
}

static double largest(const double *values, int64_t count) {
  double most = 0.0;
  for (int64_t i = 0; i < count; i++) most = fmax(most, fabs(values[i]));
  return most;
}

/*
 * Gradients: 2e-6 (17 float32 ulp) of the tensor's largest magnitude: the saved mean and rstd are
 * float32 (half an ulp each), and each element takes about six roundings.
 *
 * Where a sum cancels by chance or by nature (two values per statistic leave nothing but the part
 * of epsilon) its terms set the bound: for grad_x where a statistic has few values, and for the
 * parameter gradients where there are few parameters.
 */
void check_gradients(const rig *self, const oracle_backward *expected) {
  const oracle *sizes = &self->sizes;
  const double relative = 2e-6;
  double size = largest(expected->grad_x, sizes->elements);
  if (sizes->values < 16) size = fmax(size, expected->uncancelled);
  check_within(self, "grad_x", sizes->elements, self->grad_x, expected->grad_x,
               relative * size + FLT_TRUE_MIN);
  size = fmax(largest(expected->grad_scale, sizes->parameters),
              largest(expected->scale_terms, sizes->parameters));
  check_within(self, "grad_scale", sizes->parameters, self->grad_scale, expected->grad_scale,
               relative * size);
  size = fmax(largest(expected->grad_shift, sizes->parameters),
              largest(expected->shift_terms, sizes->parameters));
  check_within(self, "grad_shift", sizes->parameters, self->grad_shift, expected->grad_shift,
               relative * size);
}
