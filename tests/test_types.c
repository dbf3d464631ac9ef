/* SPDX-License-Identifier: MIT */
/*
 * Types other than float32. The 16-bit ones are computed with as float32, so that with the same statistics a run on
 * them must give the bits of a float32 run on the same values, rounded once; their statistics are checked against plain
 * arithmetic, and so is rounding itself. float64 is checked against the oracle.
 */
#include "typed.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const axn_dtype SHORT[] = {AXN_BFLOAT16, AXN_FLOAT16};

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
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

/* ---- bfloat16 bit for bit: y = x * scale, for x of all patterns, many in a vector ---- */

/* The library's own, where it is part of this program. */
extern atomic_bool axn_converts_bfloat16 __attribute__((weak));

/* Products that are ties, and next to one, subnormal, infinite, zero. */
static const float FACTORS[] = {1,
                                -1,
                                0x1.8p0f,
                                0x1.4p0f,
                                0x1.02p0f,
                                0x1.01p0f,
                                0x1.0101p0f,
                                0x1.00fffep0f,
                                0x1.0001p0f,
                                0x1.fffep-1f,
                                0x1.fffffep-1f,
                                -0x1.7fffp0f,
                                0x1.800002p0f,
                                0x1.555556p-3f,
                                0x1.9p20f,
                                0x1.8p100f,
                                0x1p127f,
                                -0x1.3p-20f,
                                0x1.23456p-60f,
                                0x1.8p-100f,
                                0x1.4p-124f,
                                0x1.0002p-126f,
                                -0x1.fffffep-127f,
                                0x1p-133f,
                                0x1.8p-134f,
                                0x1p-149f,
                                0};

/* By the definition: to the nearest, ties to even; a NaN quiet, with the leading bits of its payload. */
static uint16_t nearest_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t rest = bits & 0xffff, upper = bits >> 16;
  if (isnan(value)) return (uint16_t)(upper | 0x40);
  return (uint16_t)(upper + (rest > 0x8000 || (rest == 0x8000 && upper % 2 == 1)));
}

typedef struct products {
  int64_t channels, size;
  axn_layout layout;
  float *scale, *zeros;
  uint16_t *x, *y;
} products;

static int64_t product_at(const products *self, int64_t channel, int64_t i) {
  return self->layout == AXN_CHANNELS_LAST ? i * self->channels + channel
                                           : channel * self->size + i;
}

static products products_of(axn_layout layout, int64_t side) {
  enum {
    CHANNELS = 70,
    STEP = 40503
  }; /* more than four vectors; patterns of all kinds side by side */
  products self = {CHANNELS, side * side, layout, NULL, NULL, NULL, NULL};
  const size_t count = (size_t)(CHANNELS * self.size);
  self.scale = calloc(CHANNELS, sizeof(float)), self.zeros = calloc(CHANNELS, sizeof(float));
  self.x = malloc(count * sizeof *self.x), self.y = malloc(count * sizeof *self.y);
  for (int c = 0; c < CHANNELS; c++) {
    self.scale[c] = FACTORS[(size_t)c % (sizeof FACTORS / sizeof *FACTORS)];
    for (int64_t i = 0; i < self.size; i++) {
      self.x[product_at(&self, c, i)] = (uint16_t)((i + c) * STEP);
    }
  }
  return self;
}

static void check_products(const products *self, axn_isa isa, bool converts) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 1, self->channels, self->size, 0, 0);
  desc.dtype = AXN_BFLOAT16, desc.parameter_dtype = AXN_FLOAT32;
  desc.layout = self->layout, desc.isa = isa, desc.epsilon = 1.0;
  identity run = {NULL, self->zeros, self->channels};
  cr_assert(axn_plan_create(&run.plan, &desc, NULL) == AXN_OK);
  if (!converts) atomic_store(&axn_converts_bfloat16, false);
  identity_run(&run, self->x, self->scale, self->y);
  for (int64_t c = 0; c < self->channels; c++) {
    for (int64_t i = 0; i < self->size; i++) {
      const int64_t at = product_at(self, c, i);
      const float x = float_of((uint32_t)self->x[at] << 16), z = x * self->scale[c];
      const uint16_t expected = nearest_bfloat16(z + 0.0f);
      if (self->y[at] == expected || (isnan(z) && !isnan(x)))
        continue; /* of infinity and 0: any NaN */
      cr_assert_fail("isa %d: 0x%04x times %a became 0x%04x, not 0x%04x", (int)isa, self->x[at],
                     (double)self->scale[c], self->y[at], expected);
    }
  }
  axn_plan_destroy(run.plan);
}

static void products_free(products *self) {
  free(self->scale), free(self->zeros);
  free(self->x), free(self->y);
}

/* Rows of whole vectors, rows that follow each other with an end within one, and columns. */
Test(types, bfloat16_products) {
  static const int64_t sides[] = {256, 257};
  for (int s = 0; s < 3; s++) {
    products self = products_of(s == 2 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST, sides[s % 2]);
    for (int isa = AXN_ISA_BASELINE; axn_isa_name((axn_isa)isa) != NULL; isa++) {
      if (!axn_isa_available((axn_isa)isa)) continue;
      check_products(&self, (axn_isa)isa, true);
      /* As on a processor without an instruction for it. */
      if (&axn_converts_bfloat16 != NULL) check_products(&self, (axn_isa)isa, false);
    }
    products_free(&self);
  }
}

/* ---- passes ---- */

/* One array of a run, that of the same run in float32, rounded. */
static void check_array(const axn_desc *desc, const char *name, axn_dtype dtype, const void *found,
                        axn_dtype other, const void *expected, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    double due = typed_get(expected, other, i), is = typed_get(found, dtype, i);
    if (dtype != other) due = rounded(dtype, due);
    cr_assert(is == due || (isnan(is) && isnan(due)), "%s, %s: %s[%lld] is %a, not %a",
              desc_text(desc), axn_dtype_name(dtype), name, (long long)i, is, due);
  }
}

/* What sums of 16-bit elements may add to what float32 gives: mathematics, section 7.10. */
static const double LOST = 0x1p-15;

/* The same where statistics are not the same: within half a unit in the last place, and what these are off by. */
static void check_near(const axn_desc *desc, const char *name, axn_dtype dtype, const void *found,
                       const void *expected, int64_t count) {
  const double half = dtype == AXN_FLOAT32 ? 0 : dtype == AXN_BFLOAT16 ? 0x1p-8 : 0x1p-11;
  for (int64_t i = 0; i < count; i++) {
    const double due = typed_get(expected, AXN_FLOAT32, i), is = typed_get(found, dtype, i);
    const double room = half * fabs(due) + LOST * fmax(fabs(due), 4);
    cr_assert(fabs(is - due) <= room || (isnan(is) && isnan(due)), "%s, %s: %s[%lld] is %a, not %a",
              desc_text(desc), axn_dtype_name(dtype), name, (long long)i, is, due);
  }
}

static void check_forward(const axn_desc *desc, axn_dtype dtype, const buffers *own,
                          const buffers *same) {
  const int64_t n = own->info.elements, s = own->info.statistics;
  const int64_t r = own->info.running_statistics;
  if (r > 0) {
    check_array(desc, "inference", dtype, own->z, AXN_FLOAT32, same->z, n);
  } else {
    check_near(desc, "inference", dtype, own->z, same->z, n);
  }
  check_near(desc, "y", dtype, own->y, same->y, n);
  check_near(desc, "mean", AXN_FLOAT32, own->mean, same->mean, s);
  check_near(desc, "rstd", AXN_FLOAT32, own->rstd, same->rstd, s);
  check_near(desc, "running_mean", AXN_FLOAT32, own->running_mean, same->running_mean, r);
}

static void check_as_float32(const axn_desc *desc, axn_dtype dtype, axn_dtype parameters,
                             double offset, int in_place) {
  buffers own = buffers_of(desc, dtype, dtype, parameters, offset);
  buffers same = buffers_of(desc, AXN_FLOAT32, dtype, AXN_FLOAT32, offset);
  buffers_forward(&own, in_place);
  buffers_forward(&same, 0);
  check_forward(desc, dtype, &own, &same);
  const int64_t n = own.info.elements, p = own.info.parameters, s = own.info.statistics;
  memcpy(same.mean, own.mean, (size_t)s * sizeof(float));
  memcpy(same.rstd, own.rstd, (size_t)s * sizeof(float));
  buffers_backward(&own, in_place);
  buffers_backward(&same, 0);
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

/* ---- statistics of 16-bit elements: means of many deviations, and values whose squares float32 has no room for ---- */

static void check_row_statistics(axn_dtype dtype, const uint16_t *x, int64_t count, float mean,
                                 float rstd) {
  double sum = 0, square = 0;
  for (int64_t i = 0; i < count; i++) sum += value_of(dtype, x[i]);
  const double m = sum / (double)count;
  for (int64_t i = 0; i < count; i++) square += pow(value_of(dtype, x[i]) - m, 2);
  const double deviation = sqrt(square / (double)count);
  cr_assert(fabs((double)mean - m) <= 0x1p-17 * deviation + 0x1p-23 * fabs(m),
            "%s, %lld: mean %a, not %a", axn_dtype_name(dtype), (long long)count, (double)mean, m);
  cr_assert(fabs((double)rstd * deviation - 1) <= LOST, "%s, %lld: rstd %a, not %a",
            axn_dtype_name(dtype), (long long)count, (double)rstd, 1 / deviation);
}

static void check_row(axn_dtype dtype, int64_t count, double offset, double size, randoms *source) {
  axn_desc desc = desc_of(AXN_LAYER_NORM, 1, count, 0, 0, 0);
  desc.dtype = dtype, desc.parameter_dtype = AXN_FLOAT32, desc.epsilon = 1e-60;
  axn_plan *plan = NULL;
  axn_plan_info info = axn_plan_info_init();
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
  uint16_t *x = malloc((size_t)count * sizeof *x), *y = malloc((size_t)count * sizeof *y);
  for (int64_t i = 0; i < count; i++) {
    x[i] = bits_in(dtype, rounded(dtype, (offset + random_normal(source)) * size));
  }
  float mean, rstd;
  axn_training_args args = axn_training_init();
  args.x = x, args.y = y, args.mean = &mean, args.rstd = &rstd;
  args.workspace = malloc(info.training_workspace + 1);
  args.workspace_size = info.training_workspace;
  cr_assert(axn_forward_training(plan, &args, NULL) == AXN_OK);
  check_row_statistics(dtype, x, count, mean, rstd);
  free(args.workspace), free(x), free(y);
  axn_plan_destroy(plan);
}

Test(types, statistics_of_sixteen_bits) {
  static const int64_t counts[] = {31, 49, 128, 300, 768, 5000, 70000};
  static const double offsets[] = {0, -1, 3.5, 4.5, 30, 200};
  randoms source = randoms_from(test_seed(813));
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    for (size_t o = 0; o < sizeof offsets / sizeof *offsets; o++) {
      check_row(AXN_FLOAT16, counts[c], offsets[o], 1, &source);
      for (int power = -80; power <= 80; power += 40) {
        check_row(AXN_BFLOAT16, counts[c], offsets[o], ldexp(1, power), &source);
      }
    }
  }
}

/* ---- float64 ---- */

/* Relative to the largest of the array, or 1. */
static void check_close(const axn_desc *desc, const char *name, const void *found, axn_dtype dtype,
                        const double *expected, int64_t count, double tolerance) {
  double largest = 1.0;
  for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
  for (int64_t i = 0; i < count; i++) {
    const double is = typed_get(found, dtype, i);
    cr_assert(fabs(is - expected[i]) <= tolerance * largest, "%s: %s[%lld] is %.17g, not %.17g",
              desc_text(desc), name, (long long)i, is, expected[i]);
  }
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
  buffers_run(&own, in_place);
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
    int64_t elements = 1;
    for (int k = 0; k < desc.rank; k++) elements *= desc.shape[k];
    if (elements < 1000000) check_float64(&desc, AXN_FLOAT64, 2.0, i % 4 == 0);
  }
}

/* What float32 would lose: an offset of a hundred million deviations. */
Test(types, float64_keeps_its_digits) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GROUP_NORM; norm++) {
    axn_desc desc = desc_of((axn_norm)norm, 5, 6, 37, 3, 0);
    buffers own = buffers_of(&desc, AXN_FLOAT64, AXN_FLOAT64, AXN_FLOAT64, 1e8);
    oracle sizes = oracle_make(&desc);
    oracle_forward forward = oracle_from_x(&sizes, own.x, own.scale, own.shift);
    buffers_run(&own, 0);
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
