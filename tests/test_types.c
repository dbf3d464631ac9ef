/* SPDX-License-Identifier: MIT */
/*
 * Types other than float32. The 16-bit ones are computed with as float32, so that a run on them must give
 * the bits of a float32 run on the same values, rounded once; rounding itself is checked against plain
 * arithmetic here. float64 is checked against the oracle.
 */
#include "cases.h"
#include "oracle.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const axn_dtype SHORT[] = {AXN_BFLOAT16, AXN_FLOAT16};

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
static double rounded(axn_dtype dtype, double value) {
  const format f = format_of(dtype);
  int exponent;
  if (value == 0.0 || !isfinite(value)) return value;
  frexp(value, &exponent); /* 0.5 <= |fraction| < 1 */
  if (exponent - 1 < f.smallest) exponent = f.smallest + 1;
  const double result = ldexp(rint(ldexp(value, f.digits - exponent)), exponent - f.digits);
  return fabs(result) >= ldexp(1.0, f.largest + 1) ? copysign(INFINITY, value) : result;
}

/* The value of 16 bits, by its definition. */
static double value_of(axn_dtype dtype, uint16_t bits) {
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
static uint16_t bits_in(axn_dtype dtype, double value) {
  if (dtype == AXN_BFLOAT16) return (uint16_t)(bits_of((float)value) >> 16);
  const uint16_t sign = signbit(value) ? 0x8000 : 0;
  const double size = fabs(value);
  if (isinf(size)) return sign | 0x7c00;
  if (size < ldexp(1.0, -14)) return (uint16_t)(sign | (unsigned)ldexp(size, 24));
  int exponent;
  const double fraction = frexp(size, &exponent);
  return (uint16_t)(sign + ((unsigned)(exponent + 13) << 10) + (unsigned)ldexp(fraction, 11));
}

/* ---- conversion: y = x * scale, with statistics that change nothing ---- */

typedef struct identity {
  axn_plan *plan;
  float *zeros;
  int64_t channels;
} identity;

static identity identity_of(axn_dtype dtype, axn_isa isa, int64_t channels) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 1, channels, 0, 0, 0);
  desc.dtype = dtype, desc.parameter_dtype = AXN_FLOAT32;
  desc.isa = isa, desc.epsilon = 1.0;
  identity self = {NULL, calloc((size_t)channels, sizeof(float)), channels};
  cr_assert(axn_plan_create(&self.plan, &desc, NULL) == AXN_OK);
  return self;
}

static void identity_run(const identity *self, const uint16_t *x, const float *scale, uint16_t *y) {
  axn_inference_args args = axn_inference_init();
  args.x = x, args.y = y, args.scale = scale;
  args.running_mean = args.running_variance = self->zeros;
  cr_assert(axn_forward_inference(self->plan, &args, NULL) == AXN_OK);
}

static void identity_free(identity *self) {
  axn_plan_destroy(self->plan);
  free(self->zeros);
}

static void check_all_patterns(axn_dtype dtype, axn_isa isa) {
  enum { PATTERNS = 1 << 16 };
  static uint16_t x[PATTERNS], y[PATTERNS];
  for (int i = 0; i < PATTERNS; i++) x[i] = (uint16_t)i;
  identity self = identity_of(dtype, isa, PATTERNS);
  identity_run(&self, x, NULL, y);
  for (int i = 0; i < PATTERNS; i++) {
    const double value = value_of(dtype, x[i]);
    if (isnan(value)) {
      cr_assert(isnan(value_of(dtype, y[i])), "%s: 0x%04x is a NaN, y 0x%04x is none",
                axn_dtype_name(dtype), x[i], y[i]);
    } else {
      /* The subtraction of a mean of 0 and the addition of a shift of 0 leave +0 of -0. */
      cr_assert(y[i] == x[i] || (x[i] == 0x8000 && y[i] == 0), "%s, isa %d: 0x%04x became 0x%04x",
                axn_dtype_name(dtype), (int)isa, x[i], y[i]);
    }
  }
  identity_free(&self);
}

/* Floats of every exponent whose significand lies on, next to and between where rounding changes. */
static int64_t floats_to_round(float *values) {
  static const uint32_t significands[] = {
      0x0,      0x1,      0xfff,    0x1000,   0x1001,   0x2fff,   0x3000,   0x3001,
      0x7fff,   0x8000,   0x8001,   0x17fff,  0x18000,  0x18001,  0x1fff,   0x2000,
      0x7fdfff, 0x7fe000, 0x7fefff, 0x7ff000, 0x7f7fff, 0x7f8000, 0x7fffff, 0x2aaaaa};
  int64_t count = 0;
  for (uint32_t exponent = 0; exponent < 256; exponent++) {
    for (size_t s = 0; s < sizeof significands / sizeof *significands; s++) {
      const float value = float_of(exponent << 23 | significands[s]);
      values[count++] = value;
      values[count++] = -value;
    }
  }
  return count;
}

static void check_rounding(axn_dtype dtype, axn_isa isa) {
  static float values[1 << 14];
  static uint16_t x[1 << 14], y[1 << 14];
  const int64_t count = floats_to_round(values);
  for (int64_t i = 0; i < count; i++) x[i] = bits_in(dtype, 1.0);
  identity self = identity_of(dtype, isa, count);
  identity_run(&self, x, values, y);
  for (int64_t i = 0; i < count; i++) {
    const double expected = rounded(dtype, (double)values[i]), found = value_of(dtype, y[i]);
    cr_assert(isnan(values[i]) ? isnan(found) : found == expected,
              "%s, isa %d: %a became %a, not %a", axn_dtype_name(dtype), (int)isa,
              (double)values[i], found, expected);
  }
  identity_free(&self);
}

Test(types, conversion) {
  for (int isa = AXN_ISA_BASELINE; axn_isa_name((axn_isa)isa) != NULL; isa++) {
    if (!axn_isa_available((axn_isa)isa)) continue;
    for (int t = 0; t < 2; t++) {
      check_all_patterns(SHORT[t], (axn_isa)isa);
      check_rounding(SHORT[t], (axn_isa)isa);
    }
  }
}

/* ---- passes ---- */

/* What runs take and give, in memory of some type. */
typedef struct buffers {
  axn_plan *plan;
  axn_plan_info info;
  axn_dtype dtype, parameters, reals;
  void *x, *grad_y, *scale, *shift, *y, *z, *grad_x, *grad_scale, *grad_shift;
  void *mean, *rstd, *running_mean, *running_variance, *workspace;
} buffers;

static void set(void *memory, axn_dtype dtype, int64_t at, double value) {
  if (dtype == AXN_FLOAT64) {
    ((double *)memory)[at] = value;
  } else if (dtype == AXN_FLOAT32) {
    ((float *)memory)[at] = (float)value;
  } else {
    ((uint16_t *)memory)[at] = bits_in(dtype, value);
  }
}

static double get(const void *memory, axn_dtype dtype, int64_t at) {
  return dtype == AXN_FLOAT64   ? ((const double *)memory)[at]
         : dtype == AXN_FLOAT32 ? (double)((const float *)memory)[at]
                                : value_of(dtype, ((const uint16_t *)memory)[at]);
}

static void *room(int64_t count, axn_dtype dtype) {
  void *memory = malloc((size_t)(count > 0 ? count : 1) * axn_dtype_size(dtype));
  cr_assert_not_null(memory);
  memset(memory, 0xff, (size_t)count * axn_dtype_size(dtype));
  return memory;
}

/* Values that `narrow` has, in memory of type `dtype`. */
static void *drawn(int64_t count, axn_dtype dtype, axn_dtype narrow, double offset, uint64_t seed) {
  randoms source = randoms_from(seed);
  void *memory = room(count, dtype);
  for (int64_t i = 0; i < count; i++) {
    const double value = offset + random_normal(&source);
    set(memory, dtype, i, narrow == AXN_FLOAT64 ? value : rounded(narrow, value));
  }
  return memory;
}

/* Buffers of type `dtype` that hold values of type `narrow`. */
static buffers buffers_of(const axn_desc *given, axn_dtype dtype, axn_dtype narrow,
                          axn_dtype parameters, double offset) {
  axn_desc desc = *given;
  desc.dtype = dtype, desc.parameter_dtype = parameters;
  buffers self = {.dtype = dtype, .parameters = parameters, .info = axn_plan_info_init()};
  axn_error error = {AXN_OK, ""};
  cr_assert(axn_plan_create(&self.plan, &desc, &error) == AXN_OK, "%s", error.message);
  cr_assert(axn_plan_describe(self.plan, &self.info, NULL) == AXN_OK);
  self.reals = dtype == AXN_FLOAT64 ? AXN_FLOAT64 : AXN_FLOAT32;
  const int64_t n = self.info.elements, p = self.info.parameters, s = self.info.statistics;
  const int64_t r = self.info.running_statistics;
  self.x = drawn(n, dtype, narrow, offset, 1), self.grad_y = drawn(n, dtype, narrow, 0, 2);
  self.scale = drawn(p, parameters, narrow, 1, 3), self.shift = drawn(p, parameters, narrow, 0, 4);
  self.y = room(n, dtype), self.z = room(n, dtype), self.grad_x = room(n, dtype);
  self.grad_scale = room(p, parameters), self.grad_shift = room(p, parameters);
  self.mean = room(s, self.reals), self.rstd = room(s, self.reals);
  self.running_mean = room(r, self.reals), self.running_variance = room(r, self.reals);
  for (int64_t c = 0; c < r; c++) set(self.running_mean, self.reals, c, 0.25 * (double)(c % 5));
  for (int64_t c = 0; c < r; c++) set(self.running_variance, self.reals, c, 1.0 + (double)(c % 3));
  self.workspace = malloc(self.info.training_workspace + self.info.inference_workspace +
                          self.info.backward_workspace + 1);
  return self;
}

static void buffers_free(buffers *self) {
  void *const all[] = {
      self->x,    self->grad_y,       self->scale,      self->shift,           self->y,
      self->z,    self->grad_x,       self->grad_scale, self->grad_shift,      self->mean,
      self->rstd, self->running_mean, self->workspace,  self->running_variance};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  axn_plan_destroy(self->plan);
}

/* Inference into z, training into y, backward; in place on request. */
static void run(buffers *self, int in_place) {
  const size_t bytes = (size_t)self->info.elements * axn_dtype_size(self->dtype);
  const int running = self->info.running_statistics > 0;
  axn_error error = {AXN_OK, ""};
  axn_inference_args inference = axn_inference_init();
  inference.x = self->x, inference.y = self->z;
  inference.scale = self->scale, inference.shift = self->shift;
  inference.running_mean = running ? self->running_mean : NULL;
  inference.running_variance = running ? self->running_variance : NULL;
  inference.workspace = self->workspace, inference.workspace_size = self->info.inference_workspace;
  cr_assert(axn_forward_inference(self->plan, &inference, &error) == AXN_OK, "%s", error.message);
  axn_training_args training = axn_training_init();
  if (in_place) memcpy(self->y, self->x, bytes);
  training.x = in_place ? self->y : self->x, training.y = self->y;
  training.scale = self->scale, training.shift = self->shift;
  training.mean = self->mean, training.rstd = self->rstd;
  training.running_mean = running ? self->running_mean : NULL;
  training.running_variance = running ? self->running_variance : NULL;
  training.workspace = self->workspace, training.workspace_size = self->info.training_workspace;
  cr_assert(axn_forward_training(self->plan, &training, &error) == AXN_OK, "%s", error.message);
  axn_backward_args backward = axn_backward_init();
  if (in_place) memcpy(self->grad_x, self->grad_y, bytes);
  backward.x = self->x, backward.grad_y = in_place ? self->grad_x : self->grad_y;
  backward.scale = self->scale, backward.mean = self->mean, backward.rstd = self->rstd;
  backward.grad_x = self->grad_x, backward.grad_scale = self->grad_scale;
  backward.grad_shift = self->grad_shift, backward.workspace = self->workspace;
  backward.workspace_size = self->info.backward_workspace;
  cr_assert(axn_backward(self->plan, &backward, &error) == AXN_OK, "%s", error.message);
}

/* One array of a run, that of the same run in float32, rounded. */
static void check_array(const axn_desc *desc, const char *name, axn_dtype dtype, const void *found,
                        axn_dtype other, const void *expected, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    double due = get(expected, other, i), is = get(found, dtype, i);
    if (dtype != other) due = rounded(dtype, due);
    cr_assert(is == due || (isnan(is) && isnan(due)), "%s, %s: %s[%lld] is %a, not %a",
              desc_text(desc), axn_dtype_name(dtype), name, (long long)i, is, due);
  }
}

static void check_as_float32(const axn_desc *desc, axn_dtype dtype, axn_dtype parameters,
                             double offset, int in_place) {
  buffers own = buffers_of(desc, dtype, dtype, parameters, offset);
  buffers same = buffers_of(desc, AXN_FLOAT32, dtype, AXN_FLOAT32, offset);
  run(&own, in_place);
  run(&same, 0);
  const int64_t n = own.info.elements, p = own.info.parameters, s = own.info.statistics;
  const int64_t r = own.info.running_statistics;
  check_array(desc, "inference", dtype, own.z, AXN_FLOAT32, same.z, n);
  check_array(desc, "y", dtype, own.y, AXN_FLOAT32, same.y, n);
  check_array(desc, "mean", AXN_FLOAT32, own.mean, AXN_FLOAT32, same.mean, s);
  check_array(desc, "rstd", AXN_FLOAT32, own.rstd, AXN_FLOAT32, same.rstd, s);
  check_array(desc, "running_mean", AXN_FLOAT32, own.running_mean, AXN_FLOAT32, same.running_mean,
              r);
  check_array(desc, "grad_x", dtype, own.grad_x, AXN_FLOAT32, same.grad_x, n);
  check_array(desc, "grad_scale", parameters, own.grad_scale, AXN_FLOAT32, same.grad_scale, p);
  check_array(desc, "grad_shift", parameters, own.grad_shift, AXN_FLOAT32, same.grad_shift, p);
  buffers_free(&own);
  buffers_free(&same);
}

Test(types, sixteen_bits_as_float32_on_every_norm) {
  static const int64_t shape[5] = {4, 6, 3, 5, 7};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    check_as_float32(&desc, SHORT[i % 2], i % 3 ? SHORT[i % 2] : AXN_FLOAT32, 0.5, i % 5 == 0);
  }
}

Test(types, sixteen_bits_as_float32_on_every_way) {
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    check_as_float32(&desc, SHORT[i / 2 % 2], AXN_FLOAT32, i % 3 ? 0.0 : 64.0, i % 4 == 0);
  }
}

Test(types, sixteen_bits_on_random_shapes) {
  randoms source = randoms_from(test_seed(812));
  for (int i = 0; i < 400; i++) {
    axn_desc desc = random_desc(&source, 6000);
    if (desc.momentum == AXN_MOMENTUM_CUMULATIVE) desc.momentum = 0.5;
    check_as_float32(&desc, SHORT[i % 2], i % 3 ? SHORT[i % 2] : AXN_FLOAT32, i % 7, i % 4 == 0);
  }
}

/* ---- float64 ---- */

/* Relative to the largest of the array, or 1. */
static void check_close(const axn_desc *desc, const char *name, const void *found, axn_dtype dtype,
                        const double *expected, int64_t count, double tolerance) {
  double largest = 1.0;
  for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
  for (int64_t i = 0; i < count; i++) {
    const double is = get(found, dtype, i);
    cr_assert(fabs(is - expected[i]) <= tolerance * largest, "%s: %s[%lld] is %.17g, not %.17g",
              desc_text(desc), name, (long long)i, is, expected[i]);
  }
}

static double *doubles_of(const void *memory, axn_dtype dtype, int64_t count) {
  double *values = room(count, AXN_FLOAT64);
  for (int64_t i = 0; i < count; i++) values[i] = get(memory, dtype, i);
  return values;
}

static void check_float64(const axn_desc *desc, axn_dtype parameters, double offset, int in_place) {
  static const double TOLERANCE = 1e-12;
  buffers own = buffers_of(desc, AXN_FLOAT64, AXN_FLOAT64, parameters, offset);
  oracle sizes = oracle_make(desc);
  double *scale = doubles_of(own.scale, parameters, own.info.parameters);
  double *shift = doubles_of(own.shift, parameters, own.info.parameters);
  oracle_forward inference =
      own.info.running_statistics > 0
          ? oracle_from_running(&sizes, own.x, scale, shift, own.running_mean, own.running_variance)
          : oracle_from_x(&sizes, own.x, scale, shift);
  oracle_forward forward = oracle_from_x(&sizes, own.x, scale, shift);
  oracle_backward backward = oracle_gradients(&sizes, own.x, own.grad_y, scale);
  const double narrow = parameters == AXN_FLOAT32 ? 1e-6 : TOLERANCE;
  const int64_t n = own.info.elements, p = own.info.parameters;
  run(&own, in_place);
  check_close(desc, "inference", own.z, AXN_FLOAT64, inference.y, n, TOLERANCE);
  check_close(desc, "y", own.y, AXN_FLOAT64, forward.y, n, TOLERANCE);
  check_close(desc, "mean", own.mean, AXN_FLOAT64, forward.mean, own.info.statistics, TOLERANCE);
  check_close(desc, "rstd", own.rstd, AXN_FLOAT64, forward.rstd, own.info.statistics, TOLERANCE);
  check_close(desc, "grad_x", own.grad_x, AXN_FLOAT64, backward.grad_x, n, TOLERANCE);
  check_close(desc, "grad_scale", own.grad_scale, parameters, backward.grad_scale, p, narrow);
  check_close(desc, "grad_shift", own.grad_shift, parameters, backward.grad_shift, p, narrow);
  oracle_forward_free(&inference);
  oracle_forward_free(&forward);
  oracle_backward_free(&backward);
  oracle_free(&sizes);
  free(scale);
  free(shift);
  buffers_free(&own);
}

Test(types, float64_on_every_norm) {
  static const int64_t shape[5] = {4, 6, 3, 5, 7};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    check_float64(&desc, i % 3 ? AXN_FLOAT64 : AXN_FLOAT32, i % 2 ? 0.0 : 3.0, i % 5 == 0);
  }
}

Test(types, float64_on_every_way) {
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    if (oracle_make(&desc).elements < 1000000) check_float64(&desc, AXN_FLOAT64, 2.0, i % 4 == 0);
  }
}

/* What float32 would lose: an offset of a hundred million deviations. */
Test(types, float64_keeps_its_digits) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GROUP_NORM; norm++) {
    axn_desc desc = desc_of((axn_norm)norm, 5, 6, 37, 3, 0);
    buffers own = buffers_of(&desc, AXN_FLOAT64, AXN_FLOAT64, AXN_FLOAT64, 1e8);
    oracle sizes = oracle_make(&desc);
    oracle_forward forward = oracle_from_x(&sizes, own.x, own.scale, own.shift);
    run(&own, 0);
    check_close(&desc, "y", own.y, AXN_FLOAT64, forward.y, own.info.elements, 1e-7);
    oracle_forward_free(&forward);
    oracle_free(&sizes);
    buffers_free(&own);
  }
}

/* ---- arguments ---- */

Test(types, parameter_types) {
  for (int dtype = AXN_FLOAT32; dtype <= AXN_FLOAT16; dtype++) {
    for (int parameters = 0; parameters <= AXN_FLOAT16 + 1; parameters++) {
      axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 6, 5, 7, 0);
      axn_plan *plan = NULL;
      axn_error error;
      desc.dtype = (axn_dtype)dtype, desc.parameter_dtype = (axn_dtype)parameters;
      const int right = parameters == 0 || parameters == dtype || parameters == AXN_FLOAT32;
      const axn_status status = axn_plan_create(&plan, &desc, &error);
      cr_assert(status == (right ? AXN_OK : AXN_ERROR_OPTION));
      cr_assert(right || strstr(error.message, "parameter_dtype"));
      axn_plan_destroy(plan);
    }
  }
}

Test(types, names) {
  static const char *const names[] = {NULL, "f32", "f64", "bf16", "f16", NULL};
  static const size_t sizes[] = {0, 4, 8, 2, 2, 0};
  for (int dtype = 0; dtype <= 5; dtype++) {
    const char *name = axn_dtype_name((axn_dtype)dtype);
    cr_assert(names[dtype] == NULL ? name == NULL : strcmp(name, names[dtype]) == 0);
    cr_assert(axn_dtype_size((axn_dtype)dtype) == sizes[dtype]);
  }
  cr_assert_null(axn_dtype_name((axn_dtype)-1));
}
