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

/* All kinds of floats, numbers or not, some of few digits: the same bits on every instruction set, both ways. */
typedef struct function_values {
  float y[POINTS], g[POINTS];
} function_values;

static void run_function(axn_activation activation, axn_isa isa, const float *z,
                         const float *grad_y, function_values *to) {
  static float x[POINTS], zeros[POINTS], ones[POINTS];
  axn_desc desc = desc_of(AXN_BATCH_NORM, 1, POINTS, 0, 0, 0);
  axn_plan *plan = NULL;
  desc.activation = activation, desc.isa = isa;
  for (int i = 0; i < POINTS; i++) ones[i] = 1.0f;
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  axn_inference_args args = axn_inference_init();
  args.x = x, args.y = to->y, args.shift = z, args.running_mean = zeros;
  args.running_variance = ones;
  cr_assert(axn_forward_inference(plan, &args, NULL) == AXN_OK);
  axn_plan_info info = axn_plan_info_init();
  cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
  axn_backward_args back = axn_backward_init();
  back.x = x, back.grad_y = grad_y, back.shift = z, back.running_mean = zeros;
  back.running_variance = ones, back.grad_residual = to->g;
  back.workspace = malloc(info.backward_workspace);
  back.workspace_size = info.backward_workspace;
  cr_assert(axn_backward(plan, &back, NULL) == AXN_OK);
  free(back.workspace);
  axn_plan_destroy(plan);
}

static void expect_same_floats(const float *is, const float *due, const float *z) {
  for (int i = 0; i < POINTS; i++) {
    const int same = isnan(due[i]) ? isnan(is[i]) : memcmp(&is[i], &due[i], sizeof *is) == 0;
    cr_assert(same, "at %a: %a, not %a", (double)z[i], (double)is[i], (double)due[i]);
  }
}

Test(endings, functions_have_the_same_bits) {
  static float z[POINTS], grad_y[POINTS];
  static function_values due, is;
  randoms source = randoms_from(test_seed(915));
  for (int activation = AXN_ACTIVATION_SILU; activation <= AXN_ACTIVATION_GELU_TANH; activation++) {
    for (int i = 0; i < POINTS; i++) {
      uint32_t bits = (uint32_t)random_bits(&source);
      if (i % 4 == 0) bits = (bits & 0x87ffffff) | 0x3c000000; /* not too far from 1 */
      if (i % 3 == 0) bits &= 0xffff0000;
      memcpy(&z[i], &bits, sizeof bits);
      grad_y[i] = (float)random_normal(&source);
    }
    run_function((axn_activation)activation, AXN_ISA_BASELINE, z, grad_y, &due);
    for (int isa = AXN_ISA_BASELINE + 1; axn_isa_name((axn_isa)isa) != NULL; isa++) {
      if (!axn_isa_available((axn_isa)isa)) continue;
      run_function((axn_activation)activation, (axn_isa)isa, z, grad_y, &is);
      expect_same_floats(is.y, due.y, z);
      expect_same_floats(is.g, due.g, z);
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

/* ---- ReLU and leaky ReLU where gradients are read, and in a pass of their own: the same bits ---- */

typedef struct gradients {
  void *x, *scale, *shift;
} gradients;

static gradients gradients_room(const buffers *own) {
  return (gradients){typed_room(own->info.elements, own->dtype),
                     typed_room(own->info.parameters, own->parameters),
                     typed_room(own->info.parameters, own->parameters)};
}

static void gradients_free(gradients *self) {
  free(self->x), free(self->scale), free(self->shift);
}

/* grad_residual, which is g, asks for a pass of its own. */
static void run_backward(const buffers *own, void *grad_residual, const gradients *to) {
  axn_backward_args args = axn_backward_init();
  axn_error error;
  args.x = own->x, args.grad_y = own->grad_y, args.scale = own->scale, args.shift = own->shift;
  args.mean = own->mean, args.rstd = own->rstd, args.grad_residual = grad_residual;
  args.grad_x = to->x, args.grad_scale = to->scale, args.grad_shift = to->shift;
  args.workspace = own->workspace, args.workspace_size = own->info.backward_workspace;
  cr_assert(axn_backward(own->plan, &args, &error) == AXN_OK, "%s", error.message);
}

/* A NaN is like any other. */
static void expect_same(const axn_desc *desc, const char *name, const void *a, const void *b,
                        axn_dtype dtype, int64_t count) {
  const size_t size = axn_dtype_size(dtype);
  for (int64_t i = 0; i < count; i++) {
    const char *one = (const char *)a + (size_t)i * size,
               *other = (const char *)b + (size_t)i * size;
    if (memcmp(one, other, size) == 0) continue;
    const double is = typed_get(a, dtype, i), due = typed_get(b, dtype, i);
    cr_assert(isnan(is) && isnan(due), "%s[%lld] is %.9g, in a pass of its own %.9g: %s", name,
              (long long)i, is, due, desc_text(desc));
  }
}

/* What decides on which side of the corner a value is, at its odd ends; drawn once statistics are known. */
static void spoil(buffers *own, int round, randoms *source) {
  static const double odd[] = {0.0, -0.0, -1.0, -0x1p-120, 0x1p-149, 1e38, -3e38, INFINITY, NAN};
  const int64_t parameters = own->info.parameters, elements = own->info.elements;
  const int tame = 4; /* of the odd ones, those that leave all sums finite */
  for (int64_t p = 0; p < parameters; p++) {
    const int64_t s = random_between(source, 0, 12), t = random_between(source, 0, 12);
    const int64_t odds = round < 2 ? tame : 9;
    if (s < odds) typed_set(own->scale, own->parameters, p, odd[s]);
    if (t < odds) typed_set(own->shift, own->parameters, p, odd[t]);
  }
  /* A value that is the mean has the shift for z. */
  if (isfinite(typed_get(own->mean, own->reals, 0))) {
    const double mean = typed_get(own->mean, own->reals, 0);
    for (int64_t i = 0; i < elements; i += 3) typed_set(own->x, own->dtype, i, mean);
  }
  if (round == 3) {
    const double far = own->dtype == AXN_FLOAT16 ? 6e4 : 3e38;
    typed_set(own->x, own->dtype, random_between(source, 0, elements - 1), INFINITY);
    typed_set(own->x, own->dtype, random_between(source, 0, elements - 1), NAN);
    for (int k = 0; k < 3; k++) {
      typed_set(own->grad_y, own->dtype, random_between(source, 0, elements - 1),
                k < 2 ? far : INFINITY);
    }
    typed_set(own->rstd, own->reals, random_between(source, 0, own->info.statistics - 1), 1e-30);
  }
}

static void check_corner(const axn_desc *given, axn_dtype dtype, int round, randoms *source) {
  axn_desc desc = *given;
  /* A slope that float16 rounds to is a power of two; the pass of its own rounds. */
  desc.activation =
      round % 2 == 0 || dtype == AXN_FLOAT16 ? AXN_ACTIVATION_RELU : AXN_ACTIVATION_LEAKY_RELU;
  desc.negative_slope = ENDED_SLOPE;
  buffers own = buffers_of(&desc, dtype, dtype, dtype == AXN_FLOAT64 ? dtype : AXN_FLOAT32, 0.5);
  buffers_run(&own, 0);
  if (round > 0) spoil(&own, round, source);
  gradients here = gradients_room(&own), apart = gradients_room(&own);
  run_backward(&own, own.grad_residual, &apart);
  run_backward(&own, NULL, &here);
  expect_same(&desc, "grad_x", here.x, apart.x, dtype, own.info.elements);
  expect_same(&desc, "grad_scale", here.scale, apart.scale, own.parameters, own.info.parameters);
  expect_same(&desc, "grad_shift", here.shift, apart.shift, own.parameters, own.info.parameters);
  gradients_free(&here), gradients_free(&apart);
  /* In place of grad_y. */
  const gradients in_place = {own.grad_y, own.grad_scale, own.grad_shift};
  gradients again = gradients_room(&own);
  run_backward(&own, NULL, &again);
  run_backward(&own, NULL, &in_place);
  expect_same(&desc, "grad_x in place", in_place.x, again.x, dtype, own.info.elements);
  gradients_free(&again);
  buffers_free(&own);
}

Test(endings, corners_where_gradients_are_read) {
  static const int64_t shape[5] = {4, 6, 3, 5, 13};
  randoms source = randoms_from(test_seed(914));
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    for (int round = 0; round < 4; round++)
      check_corner(&desc, TYPES[(i + round) % 4], round, &source);
  }
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    check_corner(&desc, i % 2 == 0 ? AXN_FLOAT32 : AXN_BFLOAT16, (int)(i / 2 % 4), &source);
  }
  for (int i = 0; i < 200; i++) {
    desc = random_desc(&source, 20000);
    if (desc.momentum == AXN_MOMENTUM_CUMULATIVE) desc.momentum = 0.5;
    check_corner(&desc, TYPES[i % 4], i / 4 % 4, &source);
  }
}
