/* SPDX-License-Identifier: MIT */
#include "tensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- arrays of a type ---- */

/* Of the largest magnitude. A 16-bit type rounds once for each step that is not fused. */
static double tolerance_of(axn_dtype dtype) {
  if (dtype == AXN_FLOAT32) return 1e-4;
  return dtype == AXN_BFLOAT16 ? 2e-2 : 2.5e-3;
}

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* To the nearest, ties to even. A NaN stays one. */
static uint16_t to_bfloat16(float value) {
  uint32_t bits = bits_of(value);
  if (isnan(value)) return 0x7fc0;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Of what the tensors hold: NaN and values far below the largest, 65504. */
static uint16_t to_float16(float value) {
  enum { FRACTION = 10, LEAST = -14, BIAS = 15 };
  if (isnan(value)) return 0x7e00;
  uint32_t sign = bits_of(value) >> 31 << 15;
  int exponent = value == 0 ? LEAST : ilogbf(value);
  if (exponent < LEAST) exponent = LEAST;
  /* 2^10 to 2^11 for a normal number: its highest bit adds one to the exponent, as a carry does. */
  uint32_t significand = (uint32_t)lrintf(ldexpf(fabsf(value), FRACTION - exponent));
  return (uint16_t)(sign + ((uint32_t)(exponent + BIAS - 1) << FRACTION) + significand);
}

static float from_float16(uint16_t half) {
  int exponent = half >> 10 & 31, fraction = half & 1023;
  float sign = half >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexpf((float)fraction, -24);
  return sign * ldexpf((float)(fraction + 1024), exponent - 25);
}

static float get(const void *array, axn_dtype dtype, int64_t i) {
  if (dtype == AXN_FLOAT32) return ((const float *)array)[i];
  uint16_t half = ((const uint16_t *)array)[i];
  return dtype == AXN_BFLOAT16 ? float_of((uint32_t)half << 16) : from_float16(half);
}

static void set(void *array, axn_dtype dtype, int64_t i, float value) {
  if (dtype == AXN_FLOAT32)
    ((float *)array)[i] = value;
  else
    ((uint16_t *)array)[i] = dtype == AXN_BFLOAT16 ? to_bfloat16(value) : to_float16(value);
}

/* Of a cache line's alignment, as a framework would allocate it. */
static void *array_make(axn_dtype dtype, int64_t count) {
  enum { LINE = 64 };
  size_t bytes = ((size_t)count * axn_dtype_size(dtype) + LINE - 1) / LINE * LINE;
  void *array = aligned_alloc(LINE, bytes);
  if (array == NULL) fail("memory", "there is not enough");
  return array;
}

static void clear(void *array, axn_dtype dtype, int64_t count) {
  for (int64_t i = 0; i < count; i++) set(array, dtype, i, NAN);
}

static float uniform(uint64_t *state) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (float)(*state >> 40) * 0x1p-24f;
}

/* Sums of four uniform values, close to normal ones. */
static void *random_make(axn_dtype dtype, int64_t count, float center, float width, uint64_t seed) {
  void *array = array_make(dtype, count);
  uint64_t state = seed;
  for (int64_t i = 0; i < count; i++) {
    float sum = uniform(&state) + uniform(&state) + uniform(&state) + uniform(&state);
    set(array, dtype, i, center + width * (sum - 2));
  }
  return array;
}

/* ---- of a layer ---- */

static axn_plan_info info_of(const axn_desc *desc) {
  axn_plan *plan;
  axn_error error;
  if (axn_plan_create(&plan, desc, &error) != AXN_OK) fail("axisnorm", error.message);
  axn_plan_info info = axn_plan_info_init();
  if (axn_plan_describe(plan, &info, &error) != AXN_OK) fail("axisnorm", error.message);
  axn_plan_destroy(plan);
  return info;
}

struct inputs inputs_make(const struct layer *layer) {
  axn_plan_info info = info_of(&layer->desc);
  axn_dtype dtype = layer->desc.dtype;
  int64_t channels = layer->desc.shape[1];
  struct inputs inputs = {
      .dtype = dtype,
      .elements = info.elements,
      .parameters = info.parameters,
      .statistics = info.statistics,
      .channels = channels,
      .x = random_make(dtype, info.elements, 0.5f, 2, 1),
      .grad_y = random_make(dtype, info.elements, 0, 2, 2),
      .residual = layer->with_residual ? random_make(dtype, info.elements, 0, 2, 7) : NULL,
      .scale = random_make(AXN_FLOAT32, info.parameters, 1, 0.5f, 3),
      .shift = random_make(AXN_FLOAT32, info.parameters, 0, 0.5f, 4),
      .running_mean = random_make(AXN_FLOAT32, channels, 0.5f, 0.25f, 5),
      .running_variance = random_make(AXN_FLOAT32, channels, 1.5f, 0.25f, 6),
  };
  return inputs;
}

void inputs_free(struct inputs *inputs) {
  free(inputs->x), free(inputs->grad_y), free(inputs->residual);
  free(inputs->scale), free(inputs->shift);
  free(inputs->running_mean), free(inputs->running_variance);
}

void inputs_avoid_corner(struct inputs *inputs, const void *argument) {
  axn_dtype dtype = inputs->dtype;
  for (int64_t i = 0; i < inputs->elements; i++)
    if (fabs((double)get(argument, dtype, i)) < 2 * tolerance_of(dtype))
      set(inputs->grad_y, dtype, i, 0);
}

struct outputs outputs_make(const struct inputs *inputs) {
  struct outputs outputs = {
      .y = array_make(inputs->dtype, inputs->elements),
      .argument = array_make(inputs->dtype, inputs->elements),
      .grad_x = array_make(inputs->dtype, inputs->elements),
      .grad_residual = array_make(inputs->dtype, inputs->elements),
      .mean = array_make(AXN_FLOAT32, inputs->statistics),
      .deviation = array_make(AXN_FLOAT32, inputs->statistics),
      .grad_scale = array_make(AXN_FLOAT32, inputs->parameters),
      .grad_shift = array_make(AXN_FLOAT32, inputs->parameters),
  };
  return outputs;
}

void outputs_clear(const struct inputs *inputs, const struct outputs *outputs) {
  void *const data[] = {outputs->y, outputs->argument, outputs->grad_x, outputs->grad_residual};
  for (int i = 0; i < 4; i++) clear(data[i], inputs->dtype, inputs->elements);
  clear(outputs->mean, AXN_FLOAT32, inputs->statistics);
  clear(outputs->deviation, AXN_FLOAT32, inputs->statistics);
  clear(outputs->grad_scale, AXN_FLOAT32, inputs->parameters);
  clear(outputs->grad_shift, AXN_FLOAT32, inputs->parameters);
}

void outputs_free(struct outputs *outputs) {
  free(outputs->y), free(outputs->argument), free(outputs->grad_x), free(outputs->grad_residual);
  free(outputs->mean), free(outputs->deviation);
  free(outputs->grad_scale), free(outputs->grad_shift);
}

/* ---- comparing ---- */

struct pair {
  const char *name;
  axn_dtype dtype;
  const void *ours, *theirs;
  int64_t count;
};

static void compare(const struct pair *pair, double tolerance, const char *what) {
  double largest = 0, difference = 0;
  int unwritten = 0;
  for (int64_t i = 0; i < pair->count; i++) {
    double ours = get(pair->ours, pair->dtype, i), theirs = get(pair->theirs, pair->dtype, i);
    largest = fmax(largest, fabs(ours));
    difference = fmax(difference, fabs(ours - theirs));
    unwritten |= isnan(ours) || isnan(theirs);
  }
  if (!unwritten && difference <= tolerance * largest) return;
  char why[128];
  snprintf(why, sizeof why, "%s differs by %g, its largest magnitude is %g%s", pair->name,
           difference, largest, unwritten ? ", and there are NaNs" : "");
  fail(what, why);
}

void outputs_compare(const struct inputs *inputs, const struct layer *layer, enum pass pass,
                     const struct outputs *ours, const struct outputs *theirs, const char *what) {
  const axn_dtype dtype = inputs->dtype;
  const int64_t elements = inputs->elements, parameters = inputs->parameters;
  const struct pair pairs[] = {
      {"y", dtype, ours->y, theirs->y, elements},
      {"grad_x", dtype, ours->grad_x, theirs->grad_x, elements},
      {"grad_scale", AXN_FLOAT32, ours->grad_scale, theirs->grad_scale, parameters},
      {"grad_shift", AXN_FLOAT32, ours->grad_shift, theirs->grad_shift, parameters},
      {"grad_residual", dtype, ours->grad_residual, theirs->grad_residual, elements}};
  /* Without an activation it is grad_y, and nobody writes it. */
  int has_last = layer->with_residual && layer->desc.activation != AXN_ACTIVATION_NONE;
  int first = pass == BACKWARD ? 1 : 0, last = pass != BACKWARD ? 0 : has_last ? 4 : 3;
  for (int i = first; i <= last; i++) compare(&pairs[i], tolerance_of(dtype), what);
}
