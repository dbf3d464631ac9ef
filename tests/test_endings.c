/* SPDX-License-Identifier: MIT */
/* Activations and residuals: every one of them, forward and backward, against the oracle. */
#include "typed.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double SLOPE = 0.125;

/* ---- the activations, by their definitions ---- */

static double phi(double z) {
  return 0.5 * erfc(-z / sqrt(2.0));
}

static double inner(double z) {
  return sqrt(2.0 / acos(-1.0)) * (z + 0.044715 * z * z * z);
}

static double activation_of(axn_activation activation, double z) {
  switch (activation) {
  case AXN_ACTIVATION_RELU:
    return z > 0.0 ? z : 0.0;
  case AXN_ACTIVATION_LEAKY_RELU:
    return z > 0.0 ? z : z * SLOPE;
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
  if (activation == AXN_ACTIVATION_LEAKY_RELU) return z > 0.0 ? 1.0 : SLOPE;
  const double outer =
      activation_of(activation, z + 2 * STEP) - activation_of(activation, z - 2 * STEP);
  const double middle = activation_of(activation, z + STEP) - activation_of(activation, z - STEP);
  return (8.0 * middle - outer) / (12.0 * STEP);
}

/* ---- what is due ---- */

typedef struct expected {
  double *z, *y, *inference, *grad_z;
  oracle sizes;
  oracle_backward backward;
} expected;

static expected expect(const buffers *own, const axn_desc *desc) {
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
  oracle_forward_free(&forward);
  oracle_forward_free(&inference);
  return due;
}

static void expected_free(expected *due) {
  free(due->z);
  free(due->y);
  free(due->inference);
  free(due->grad_z);
  oracle_free(&due->sizes);
  oracle_backward_free(&due->backward);
}

/* ---- comparing ---- */

/* `each`: of every value or 1; `all`: of the largest, or of what values cancel from. */
static void check(const buffers *own, const axn_desc *desc, const char *name, const void *found,
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

static void check_desc(const axn_desc *given, axn_dtype dtype, axn_activation activation,
                       int with_residual, int in_place) {
  axn_desc desc = *given;
  desc.activation = activation, desc.negative_slope = SLOPE;
  const double unit = dtype == AXN_FLOAT64    ? 1e-12
                      : dtype == AXN_FLOAT32  ? 6e-7
                      : dtype == AXN_BFLOAT16 ? 0.0079 / 2
                                              : 0.00098 / 2;
  buffers own = buffers_of(&desc, dtype, dtype, dtype == AXN_FLOAT64 ? dtype : AXN_FLOAT32, 0.5);
  own.with_residual = with_residual;
  expected due = expect(&own, &desc);
  buffers_run(&own, in_place);
  const int64_t n = own.info.elements, p = own.info.parameters;
  check(&own, &desc, "inference", own.z, dtype, due.inference, n, unit * 1.01, 0.0, 0.0);
  check(&own, &desc, "y", own.y, dtype, due.y, n, unit * 1.01, 0.0, 0.0);
  if (!near_corner(&own, &due)) {
    const double all = dtype == AXN_FLOAT64 ? 1e-9 : 4e-6;
    if (activation != AXN_ACTIVATION_NONE && with_residual) {
      check(&own, &desc, "grad_residual", own.grad_residual, dtype, due.grad_z, n, unit * 1.01, all,
            0.0);
    }
    const oracle_backward *backward = &due.backward;
    check(&own, &desc, "grad_x", own.grad_x, dtype, backward->grad_x, n, unit * 3, all + unit * 3,
          backward->uncancelled);
    /* Where g is rounded on the way, as many roundings as terms come together. */
    check(&own, &desc, "grad_scale", own.grad_scale, own.parameters, backward->grad_scale, p,
          unit * 3, all + unit * 3, largest_of(backward->scale_terms, p));
    check(&own, &desc, "grad_shift", own.grad_shift, own.parameters, backward->grad_shift, p,
          unit * 3, all + unit * 3, largest_of(backward->shift_terms, p));
  }
  expected_free(&due);
  buffers_free(&own);
}

static const axn_dtype TYPES[] = {AXN_FLOAT32, AXN_FLOAT64, AXN_BFLOAT16, AXN_FLOAT16};

Test(endings, every_norm_type_and_activation) {
  static const int64_t shape[5] = {4, 6, 3, 5, 7};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    for (int activation = AXN_ACTIVATION_NONE; activation <= AXN_ACTIVATION_GELU_TANH;
         activation++) {
      for (int t = 0; t < 4; t++) {
        check_desc(&desc, TYPES[t], (axn_activation)activation, (i + activation) % 2,
                   (i + t) % 3 == 0);
      }
    }
  }
}

Test(endings, every_way_through_the_engine) {
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    const int activation = 1 + (int)i % AXN_ACTIVATION_GELU_TANH;
    check_desc(&desc, AXN_FLOAT32, (axn_activation)activation, (int)(i / 2 % 2), i % 3 == 0);
  }
}

Test(endings, random_shapes) {
  randoms source = randoms_from(test_seed(913));
  for (int i = 0; i < 300; i++) {
    axn_desc desc = random_desc(&source, 5000);
    if (desc.momentum == AXN_MOMENTUM_CUMULATIVE) desc.momentum = 0.5;
    if (desc.epsilon < 1e-6) desc.epsilon = 1e-5;
    const int activation = (int)random_between(&source, 0, AXN_ACTIVATION_GELU_TANH);
    check_desc(&desc, TYPES[i % 4], (axn_activation)activation, i / 4 % 2, i % 5 == 0);
  }
}

/* ---- the functions themselves, over their whole range: y = activation(shift), as x is constant ---- */

enum { POINTS = 1 << 13 };

static void check_function(axn_activation activation, axn_isa isa) {
  static float x[POINTS], y[POINTS], shift[POINTS], zeros[POINTS], ones[POINTS];
  axn_desc desc = desc_of(AXN_BATCH_NORM, 1, POINTS, 0, 0, 0);
  axn_plan *plan = NULL;
  desc.activation = activation, desc.negative_slope = SLOPE, desc.isa = isa;
  for (int i = 0; i < POINTS; i++) {
    const double t = (2.0 * i - POINTS) / POINTS; /* denser near 0, out to 120 */
    shift[i] = (float)(120.0 * t * t * t);
    ones[i] = 1.0f;
  }
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  axn_inference_args args = axn_inference_init();
  args.x = x, args.y = y, args.shift = shift, args.running_mean = zeros,
  args.running_variance = ones;
  cr_assert(axn_forward_inference(plan, &args, NULL) == AXN_OK);
  for (int i = 0; i < POINTS; i++) {
    const double z = (double)shift[i], due = activation_of(activation, z);
    cr_assert(fabs((double)y[i] - due) <= 4e-7 * fmax(fabs(due), 1.0), "%s(%.9g) is %.9g, not %.9g",
              axn_activation_name(activation), z, (double)y[i], due);
  }
  axn_plan_destroy(plan);
}

Test(endings, functions) {
  for (int isa = AXN_ISA_BASELINE; axn_isa_name((axn_isa)isa) != NULL; isa++) {
    if (!axn_isa_available((axn_isa)isa)) continue;
    for (int activation = AXN_ACTIVATION_RELU; activation <= AXN_ACTIVATION_GELU_TANH;
         activation++) {
      check_function((axn_activation)activation, (axn_isa)isa);
    }
  }
}

/* ---- arguments ---- */

Test(endings, names_and_unknown_ones) {
  static const char *const names[] = {"none", "relu", "leaky-relu", "silu", "gelu", "gelu-tanh"};
  for (int i = 0; i < 6; i++) {
    cr_assert_str_eq(axn_activation_name((axn_activation)i), names[i]);
  }
  const int unknown[] = {-1, 6, 1000};
  for (int i = 0; i < 3; i++) {
    axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 6, 5, 7, 0);
    axn_plan *plan = NULL;
    axn_error error;
    cr_assert_null(axn_activation_name((axn_activation)unknown[i]));
    desc.activation = (axn_activation)unknown[i];
    cr_assert(axn_plan_create(&plan, &desc, &error) == AXN_ERROR_OPTION);
    cr_assert(strstr(error.message, "activation"));
  }
  const double slopes[] = {NAN, INFINITY, 1e300};
  for (int i = 0; i < 3; i++) {
    axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 6, 5, 7, 0);
    axn_plan *plan = NULL;
    axn_error error;
    desc.negative_slope = slopes[i];
    cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK); /* not looked at */
    axn_plan_destroy(plan);
    desc.activation = AXN_ACTIVATION_LEAKY_RELU;
    cr_assert(axn_plan_create(&plan, &desc, &error) == AXN_ERROR_OPTION);
    cr_assert(strstr(error.message, "negative_slope"));
  }
}

/* ---- far out, and in place of the residual ---- */

Test(endings, far_to_the_left_nothing_is_left) {
  static const float far[] = {-15.0f, -90.0f, -1e4f, -1e30f, -FLT_MAX, -INFINITY};
  for (int dtype = AXN_FLOAT32; dtype <= AXN_FLOAT64; dtype++) {
    for (int activation = AXN_ACTIVATION_SILU; activation <= AXN_ACTIVATION_GELU_TANH;
         activation++) {
      axn_desc desc = desc_of(AXN_BATCH_NORM, 1, 1, 6, 0, 0);
      desc.activation = (axn_activation)activation, desc.epsilon = 1.0;
      desc.dtype = (axn_dtype)dtype;
      axn_plan *plan = NULL;
      double x[6], y[6], zero[1] = {0};
      for (int i = 0; i < 6; i++) typed_set(x, desc.dtype, i, (double)far[i]);
      cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
      axn_inference_args args = axn_inference_init();
      args.x = x, args.y = y, args.running_mean = args.running_variance = zero;
      cr_assert(axn_forward_inference(plan, &args, NULL) == AXN_OK);
      for (int i = 0; i < 6; i++) {
        const double is = typed_get(y, desc.dtype, i);
        cr_assert(fabs(is) < 5e-6, "%s(%g) is %g", axn_activation_name(desc.activation),
                  (double)far[i], is);
      }
      axn_plan_destroy(plan);
    }
  }
}

Test(endings, y_may_be_the_residual) {
  static const int64_t shape[5] = {4, 6, 3, 5, 7};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    desc.activation = (axn_activation)(i % 6);
    buffers own = buffers_of(&desc, TYPES[i % 4], TYPES[i % 4], TYPES[i % 4], 0.5);
    const size_t bytes = (size_t)own.info.elements * axn_dtype_size(own.dtype);
    own.with_residual = 1;
    buffers_run(&own, 0);
    axn_training_args args = axn_training_init();
    args.x = own.x, args.scale = own.scale, args.shift = own.shift;
    args.residual = args.y = own.residual;
    args.workspace = own.workspace, args.workspace_size = own.info.training_workspace;
    cr_assert(axn_forward_training(own.plan, &args, NULL) == AXN_OK);
    cr_assert(memcmp(own.residual, own.y, bytes) == 0, "%s", desc_text(&desc));
    buffers_free(&own);
  }
}

/* A slope that float32 does not have is not rounded to it in float64. */
Test(endings, slope_of_float64) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 1, 1, 2, 0, 0);
  axn_plan *plan = NULL;
  double x[2] = {-1.0, 1.0}, y[2], zero[1] = {0.0};
  desc.activation = AXN_ACTIVATION_LEAKY_RELU, desc.dtype = AXN_FLOAT64, desc.epsilon = 1.0;
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  axn_inference_args args = axn_inference_init();
  args.x = x, args.y = y, args.running_mean = args.running_variance = zero;
  cr_assert(axn_forward_inference(plan, &args, NULL) == AXN_OK);
  cr_assert(y[0] == -0.01 && y[1] == 1.0, "%.17g", y[0]);
  axn_plan_destroy(plan);
}
