/* SPDX-License-Identifier: MIT */
/* Activations and residuals: every one of them, forward and backward, against the oracle. */
#include "ended.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_desc(const axn_desc *given, axn_dtype dtype, axn_activation activation,
                       int with_residual, int in_place) {
  axn_desc desc = *given;
  desc.activation = activation, desc.negative_slope = ENDED_SLOPE;
  buffers own = buffers_of(&desc, dtype, dtype, dtype == AXN_FLOAT64 ? dtype : AXN_FLOAT32, 0.5);
  own.with_residual = with_residual;
  expected due = expect(&own, &desc);
  buffers_run(&own, in_place);
  expect_runs(&own, &desc, &due);
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
  desc.activation = activation, desc.negative_slope = ENDED_SLOPE, desc.isa = isa;
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
    /* What is no float may be a double. */
    desc.dtype = AXN_FLOAT64;
    const axn_status due = isfinite(slopes[i]) ? AXN_OK : AXN_ERROR_OPTION;
    cr_assert(axn_plan_create(&plan, &desc, &error) == due);
    axn_plan_destroy(plan);
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
