/* SPDX-License-Identifier: MIT */
#include "typed.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* Digits and exponents of the two formats: a value is (-1)^sign * 2^exponent * significand. */
typedef struct format {
  int digits;   /* of the significand, with the leading one */
  int smallest; /* exponent of the smallest normal number */
  int largest;  /* exponent of the largest */
} format;

static format format_of(axn_dtype dtype) {
  return dtype == AXN_BFLOAT16 ? (format){8, -126, 127} : (format){11, -14, 15};
}

/* By arithmetic: the multiple of the last place that is nearest, ties to even, as rint() has it. */
double rounded(axn_dtype dtype, double value) {
  const format f = format_of(dtype);
  int exponent;
  if (value == 0.0 || !isfinite(value)) return value;
  frexp(value, &exponent); /* 0.5 <= |fraction| < 1 */
  if (exponent - 1 < f.smallest) exponent = f.smallest + 1;
  const double result = ldexp(rint(ldexp(value, f.digits - exponent)), exponent - f.digits);
  return fabs(result) >= ldexp(1.0, f.largest + 1) ? copysign(INFINITY, value) : result;
}

/* The value of 16 bits, by its definition. */
double value_of(axn_dtype dtype, uint16_t bits) {
  const format f = format_of(dtype);
  const int fraction_bits = f.digits - 1, exponent_bits = 16 - f.digits;
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const double fraction = ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0.0 ? sign * INFINITY : (double)NAN;
  if (exponent == 0) return sign * ldexp(fraction, f.smallest);
  return sign * ldexp(1.0 + fraction, exponent - 1 + f.smallest);
}

/* The bits of a value that the format has. */
uint16_t bits_in(axn_dtype dtype, double value) {
  if (dtype == AXN_BFLOAT16) return (uint16_t)(bits_of((float)value) >> 16);
  const uint16_t sign = signbit(value) ? 0x8000 : 0;
  const double size = fabs(value);
  if (isnan(size)) return sign | 0x7e00;
  if (isinf(size)) return sign | 0x7c00;
  if (size < ldexp(1.0, -14)) return (uint16_t)(sign | (unsigned)ldexp(size, 24));
  int exponent;
  const double fraction = frexp(size, &exponent);
  return (uint16_t)(sign + ((unsigned)(exponent + 13) << 10) + (unsigned)ldexp(fraction, 11));
}

void typed_set(void *memory, axn_dtype dtype, int64_t at, double value) {
  if (dtype == AXN_FLOAT64) {
    ((double *)memory)[at] = value;
  } else if (dtype == AXN_FLOAT32) {
    ((float *)memory)[at] = (float)value;
  } else {
    ((uint16_t *)memory)[at] = bits_in(dtype, value);
  }
}

double typed_get(const void *memory, axn_dtype dtype, int64_t at) {
  return dtype == AXN_FLOAT64   ? ((const double *)memory)[at]
         : dtype == AXN_FLOAT32 ? (double)((const float *)memory)[at]
                                : value_of(dtype, ((const uint16_t *)memory)[at]);
}

void *typed_room(int64_t count, axn_dtype dtype) {
  void *memory = malloc((size_t)(count > 0 ? count : 1) * axn_dtype_size(dtype));
  cr_assert_not_null(memory);
  memset(memory, 0xff, (size_t)count * axn_dtype_size(dtype));
  return memory;
}

/* Values that `narrow` has, in memory of type `dtype`. */
static void *drawn(int64_t count, axn_dtype dtype, axn_dtype narrow, double offset, uint64_t seed) {
  randoms source = randoms_from(seed);
  void *memory = typed_room(count, dtype);
  for (int64_t i = 0; i < count; i++) {
    const double value = offset + random_normal(&source);
    typed_set(memory, dtype, i, narrow == AXN_FLOAT64 ? value : rounded(narrow, value));
  }
  return memory;
}

/* Buffers of type `dtype` that hold values of type `narrow`. */
buffers buffers_of(const axn_desc *given, axn_dtype dtype, axn_dtype narrow, axn_dtype parameters,
                   double offset) {
  axn_desc desc = *given;
  desc.dtype = dtype, desc.parameter_dtype = parameters;
  buffers self = {.dtype = dtype, .parameters = parameters, .info = axn_plan_info_init()};
  axn_error error = {AXN_OK, ""};
  cr_assert(axn_plan_create(&self.plan, &desc, &error) == AXN_OK, "%s", error.message);
  cr_assert(axn_plan_describe(self.plan, &self.info, NULL) == AXN_OK);
  self.reals = dtype == AXN_FLOAT64 ? AXN_FLOAT64 : AXN_FLOAT32;
  const int64_t n = self.info.elements, p = self.info.parameters, s = self.info.statistics;
  const int64_t r = self.info.running_statistics;
  self.activation = desc.activation;
  self.residual = drawn(n, dtype, narrow, 0, 5), self.grad_residual = typed_room(n, dtype);
  self.x = drawn(n, dtype, narrow, offset, 1), self.grad_y = drawn(n, dtype, narrow, 0, 2);
  self.scale = drawn(p, parameters, narrow, 1, 3), self.shift = drawn(p, parameters, narrow, 0, 4);
  self.y = typed_room(n, dtype), self.z = typed_room(n, dtype), self.grad_x = typed_room(n, dtype);
  self.grad_scale = typed_room(p, parameters), self.grad_shift = typed_room(p, parameters);
  self.mean = typed_room(s, self.reals), self.rstd = typed_room(s, self.reals);
  self.running_mean = typed_room(r, self.reals), self.running_variance = typed_room(r, self.reals);
  for (int64_t c = 0; c < r; c++)
    typed_set(self.running_mean, self.reals, c, 0.25 * (double)(c % 5));
  for (int64_t c = 0; c < r; c++)
    typed_set(self.running_variance, self.reals, c, 1.0 + (double)(c % 3));
  self.workspace = malloc(self.info.training_workspace + self.info.inference_workspace +
                          self.info.backward_workspace + 1);
  return self;
}

void buffers_free(buffers *self) {
  void *const all[] = {self->x,          self->grad_y,
                       self->scale,      self->shift,
                       self->y,          self->z,
                       self->grad_x,     self->grad_scale,
                       self->grad_shift, self->mean,
                       self->rstd,       self->running_mean,
                       self->workspace,  self->running_variance,
                       self->residual,   self->grad_residual};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  axn_plan_destroy(self->plan);
}

void buffers_forward(buffers *self, int in_place) {
  const size_t bytes = (size_t)self->info.elements * axn_dtype_size(self->dtype);
  const int running = self->info.running_statistics > 0;
  const void *residual = self->with_residual ? self->residual : NULL;
  axn_error error = {AXN_OK, ""};
  axn_inference_args inference = axn_inference_init();
  inference.x = self->x, inference.y = self->z;
  inference.scale = self->scale, inference.shift = self->shift;
  inference.running_mean = running ? self->running_mean : NULL;
  inference.running_variance = running ? self->running_variance : NULL;
  inference.residual = residual, inference.workspace = self->workspace,
  inference.workspace_size = self->info.inference_workspace;
  cr_assert(axn_forward_inference(self->plan, &inference, &error) == AXN_OK, "%s", error.message);
  axn_training_args training = axn_training_init();
  if (in_place) memcpy(self->y, self->x, bytes);
  training.x = in_place ? self->y : self->x, training.y = self->y;
  training.scale = self->scale, training.shift = self->shift;
  training.mean = self->mean, training.rstd = self->rstd;
  training.running_mean = running ? self->running_mean : NULL;
  training.running_variance = running ? self->running_variance : NULL;
  training.residual = residual, training.workspace = self->workspace,
  training.workspace_size = self->info.training_workspace;
  cr_assert(axn_forward_training(self->plan, &training, &error) == AXN_OK, "%s", error.message);
}

void buffers_backward(buffers *self, int in_place) {
  const size_t bytes = (size_t)self->info.elements * axn_dtype_size(self->dtype);
  const void *residual = self->with_residual ? self->residual : NULL;
  axn_error error = {AXN_OK, ""};
  axn_backward_args backward = axn_backward_init();
  if (in_place) memcpy(self->grad_x, self->grad_y, bytes);
  backward.x = self->x, backward.grad_y = in_place ? self->grad_x : self->grad_y;
  backward.shift = self->shift, backward.residual = residual;
  if (self->activation != AXN_ACTIVATION_NONE && self->with_residual) {
    backward.grad_residual = self->grad_residual;
  }
  backward.scale = self->scale, backward.mean = self->mean, backward.rstd = self->rstd;
  backward.grad_x = self->grad_x, backward.grad_scale = self->grad_scale;
  backward.grad_shift = self->grad_shift, backward.workspace = self->workspace;
  backward.workspace_size = self->info.backward_workspace;
  cr_assert(axn_backward(self->plan, &backward, &error) == AXN_OK, "%s", error.message);
}

void buffers_run(buffers *self, int in_place) {
  buffers_forward(self, in_place);
  buffers_backward(self, in_place);
}

double *doubles_of(const void *memory, axn_dtype dtype, int64_t count) {
  double *values = typed_room(count, AXN_FLOAT64);
  for (int64_t i = 0; i < count; i++) values[i] = typed_get(memory, dtype, i);
  return values;
}
