/* SPDX-License-Identifier: MIT */
#include "ended.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

/* ---- the activations, by their definitions ---- */

static double phi(double z) {
  return 0.5 * erfc(-z / sqrt(2.0));
}

static double inner(double z) {
  return sqrt(2.0 / acos(-1.0)) * (z + 0.044715 * z * z * z);
}

double activation_of(axn_activation activation, double z) {
  switch (activation) {
  case AXN_ACTIVATION_RELU:
    return z > 0.0 ? z : 0.0;
  case AXN_ACTIVATION_LEAKY_RELU:
    return z > 0.0 ? z : z * ENDED_SLOPE;
  case AXN_ACTIVATION_SILU:
    return z / (1.0 + exp(-z));
  case AXN_ACTIVATION_GELU:
    return z * phi(z);
  case AXN_ACTIVATION_GELU_TANH:
    return 0.5 * z * (1.0 + tanh(inner(z)));
  default:
    return z;
  }
}

/* By finite differences: shares nothing with the formulas of the library. ReLU's has no such thing at 0. */
static double derivative_of(axn_activation activation, double z) {
  static const double STEP = 1e-4;
  if (activation == AXN_ACTIVATION_RELU) return z > 0.0;
  if (activation == AXN_ACTIVATION_LEAKY_RELU) return z > 0.0 ? 1.0 : ENDED_SLOPE;
  const double outer =
      activation_of(activation, z + 2 * STEP) - activation_of(activation, z - 2 * STEP);
  const double middle = activation_of(activation, z + STEP) - activation_of(activation, z - STEP);
  return (8.0 * middle - outer) / (12.0 * STEP);
}

/* ---- what is due ---- */

expected expect(const buffers *own, const axn_desc *desc) {
  const int64_t n = own->info.elements, p = own->info.parameters, r = own->info.running_statistics;
  expected due = {.sizes = oracle_make(desc)};
  double *x = doubles_of(own->x, own->dtype, n), *grad_y = doubles_of(own->grad_y, own->dtype, n);
  double *scale = doubles_of(own->scale, own->parameters, p);
  double *shift = doubles_of(own->shift, own->parameters, p);
  double *mean = doubles_of(own->running_mean, own->reals, r);
  double *variance = doubles_of(own->running_variance, own->reals, r);
  oracle_forward forward = oracle_from_x(&due.sizes, x, scale, shift);
  oracle_forward inference = r > 0
                                 ? oracle_from_running(&due.sizes, x, scale, shift, mean, variance)
                                 : oracle_from_x(&due.sizes, x, scale, shift);
  due.z = typed_room(n, AXN_FLOAT64), due.y = typed_room(n, AXN_FLOAT64);
  due.inference = typed_room(n, AXN_FLOAT64), due.grad_z = typed_room(n, AXN_FLOAT64);
  for (int64_t i = 0; i < n; i++) {
    const double residual = own->with_residual ? typed_get(own->residual, own->dtype, i) : 0.0;
    due.z[i] = forward.y[i] + residual;
    due.y[i] = activation_of(own->activation, due.z[i]);
    due.inference[i] = activation_of(own->activation, inference.y[i] + residual);
    due.grad_z[i] = grad_y[i] * derivative_of(own->activation, due.z[i]);
  }
  due.backward = oracle_gradients(&due.sizes, x, due.grad_z, scale);
  double *const mine[] = {x, grad_y, scale, shift, mean, variance};
  for (int i = 0; i < 6; i++) free(mine[i]);
  due.forward = forward;
  oracle_forward_free(&inference);
  return due;
}

void expected_free(expected *due) {
  free(due->z);
  free(due->y);
  free(due->inference);
  free(due->grad_z);
  oracle_free(&due->sizes);
  oracle_forward_free(&due->forward);
  oracle_backward_free(&due->backward);
}

/* ---- comparing ---- */

void expect_near(const buffers *own, const axn_desc *desc, const char *name, const void *found,
                 axn_dtype dtype, const double *due, int64_t count, double each, double all,
                 double largest) {
  for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(due[i]));
  for (int64_t i = 0; i < count; i++) {
    const double is = typed_get(found, dtype, i);
    const double room = each * fmax(fabs(due[i]), 1.0) + all * largest;
    cr_assert(fabs(is - due[i]) <= room, "%s, %s, %s, residual %d: %s[%lld] is %.9g, not %.9g",
              desc_text(desc), axn_dtype_name(own->dtype), axn_activation_name(own->activation),
              own->with_residual, name, (long long)i, is, due[i]);
  }
}

static double largest_of(const double *values, int64_t count) {
  double largest = 0.0;
  for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(values[i]));
  return largest;
}

/* A value next to ReLU's corner may fall on either side of it: the derivative there is anyone's. */
static int near_corner(const buffers *own, const expected *due) {
  if (own->activation > AXN_ACTIVATION_LEAKY_RELU) return 0;
  for (int64_t i = 0; i < own->info.elements; i++) {
    if (fabs(due->z[i]) < (own->dtype == AXN_FLOAT64 ? 1e-12 : 2e-6)) return 1;
  }
  return 0;
}

double unit_of(axn_dtype dtype) {
  return dtype == AXN_FLOAT64    ? 1e-12
         : dtype == AXN_FLOAT32  ? 6e-7
         : dtype == AXN_BFLOAT16 ? 0.0079 / 2
                                 : 0.00098 / 2;
}

double all_of(axn_dtype dtype) {
  return dtype == AXN_FLOAT64 ? 1e-9 : 4e-6;
}

/* Where g is rounded on the way, as many roundings as terms come together. */
void expect_gradients(const buffers *own, const axn_desc *desc, const oracle_backward *backward) {
  const int64_t n = own->info.elements, p = own->info.parameters;
  const double unit = unit_of(own->dtype), all = all_of(own->dtype);
  expect_near(own, desc, "grad_x", own->grad_x, own->dtype, backward->grad_x, n, unit * 3,
              all + unit * 3, backward->uncancelled);
  expect_near(own, desc, "grad_scale", own->grad_scale, own->parameters, backward->grad_scale, p,
              unit * 3, all + unit * 3, largest_of(backward->scale_terms, p));
  expect_near(own, desc, "grad_shift", own->grad_shift, own->parameters, backward->grad_shift, p,
              unit * 3, all + unit * 3, largest_of(backward->shift_terms, p));
}

void expect_runs(const buffers *own, const axn_desc *desc, const expected *due) {
  const int64_t n = own->info.elements;
  const double unit = unit_of(own->dtype);
  /* A shift or a residual may take away most of what was rounded before it. */
  const double rounded_before = own->dtype == AXN_FLOAT32 ? 1e-7 : 0.0;
  expect_near(own, desc, "inference", own->z, own->dtype, due->inference, n, unit * 1.01,
              rounded_before, 0.0);
  expect_near(own, desc, "y", own->y, own->dtype, due->y, n, unit * 1.01, rounded_before, 0.0);
  if (near_corner(own, due)) return;
  if (own->activation != AXN_ACTIVATION_NONE && own->with_residual) {
    expect_near(own, desc, "grad_residual", own->grad_residual, own->dtype, due->grad_z, n,
                unit * 1.01, all_of(own->dtype), 0.0);
  }
  expect_gradients(own, desc, &due->backward);
}
