/* SPDX-License-Identifier: MIT */
/* A folded layer against the layer and axn_forward_inference(), with a plain convolution in float64. */
#include "rig.h"

#include <axisnorm/fold.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2 };

/* A convolution over images; of 1 x 1 on 1 x 1 it is a linear layer. */
typedef struct conv {
  int64_t out, in, groups, kernel, stride, pad;
  int64_t size; /* of the input, square */
  int transposed;
  axn_padding padding; /* what `pad` shows */
} conv;

static int64_t out_size(const conv *layer) {
  if (layer->transposed) {
    return (layer->size - 1) * layer->stride - 2 * layer->pad + layer->kernel;
  }
  return (layer->size + 2 * layer->pad - layer->kernel) / layer->stride + 1;
}

static int64_t weights_of(const conv *layer) {
  return layer->out * layer->in / layer->groups * layer->kernel * layer->kernel;
}

/* x at a position that may be beyond the border. */
static double value_at(const conv *layer, const double *plane, int64_t row, int64_t column) {
  const int64_t size = layer->size;
  if (layer->padding == AXN_PADDING_INPUT) { /* replicated */
    row = row < 0 ? 0 : row >= size ? size - 1 : row;
    column = column < 0 ? 0 : column >= size ? size - 1 : column;
  }
  if (row < 0 || row >= size || column < 0 || column >= size) return 0;
  return plane[row * size + column];
}

static double convolve_at(const conv *layer, const double *sample, const float *weight, int64_t o,
                          int64_t row, int64_t column) {
  const int64_t per_group = layer->in / layer->groups, k = layer->kernel;
  const int64_t first = o / (layer->out / layer->groups) * per_group;
  double sum = 0;
  for (int64_t i = 0; i < per_group; i++) {
    const double *plane = sample + (first + i) * layer->size * layer->size;
    for (int64_t a = 0; a < k; a++) {
      for (int64_t b = 0; b < k; b++) {
        sum += (double)weight[((o * per_group + i) * k + a) * k + b] *
               value_at(layer, plane, row * layer->stride + a - layer->pad,
                        column * layer->stride + b - layer->pad);
      }
    }
  }
  return sum;
}

/* The same for a transposed convolution: which inputs reach this output, and by which weight. */
static double transpose_at(const conv *layer, const double *sample, const float *weight, int64_t o,
                           int64_t row, int64_t column) {
  const int64_t ins = layer->in / layer->groups, outs = layer->out / layer->groups;
  const int64_t k = layer->kernel, s = layer->size;
  double sum = 0;
  for (int64_t i = o / outs * ins; i < (o / outs + 1) * ins; i++) {
    for (int64_t r = 0; r < s; r++) {
      for (int64_t c = 0; c < s; c++) {
        const int64_t a = row + layer->pad - r * layer->stride;
        const int64_t b = column + layer->pad - c * layer->stride;
        if (a < 0 || a >= k || b < 0 || b >= k) continue;
        sum +=
            (double)weight[((i * outs + o % outs) * k + a) * k + b] * sample[(i * s + r) * s + c];
      }
    }
  }
  return sum;
}

/* [BATCH, out, size, size] from [BATCH, in, size, size]. */
static double *run_layer(const conv *layer, const double *x, const float *weight,
                         const float *bias) {
  const int64_t size = out_size(layer), plane = size * size;
  double *y = malloc((size_t)(BATCH * layer->out * plane) * sizeof(double));
  cr_assert(y);
  for (int64_t at = 0; at < BATCH * layer->out * plane; at++) {
    const int64_t o = at / plane % layer->out, n = at / plane / layer->out;
    const double *sample = x + n * layer->in * layer->size * layer->size;
    const int64_t row = at % plane / size, column = at % size;
    y[at] = (bias ? (double)bias[o] : 0) +
            (layer->transposed ? transpose_at(layer, sample, weight, o, row, column)
                               : convolve_at(layer, sample, weight, o, row, column));
  }
  return y;
}

/* Inference batch normalization by the library, of values rounded to float. */
typedef struct norm {
  float *mean, *variance, *scale, *shift;
  double epsilon;
} norm;

static double *normalize(const norm *by, const double *x, int64_t channels, int64_t size) {
  const int64_t count = BATCH * channels * size * size;
  axn_desc desc = desc_of(AXN_BATCH_NORM, BATCH, channels, size, size, 0);
  desc.epsilon = by->epsilon;
  axn_plan *plan;
  float *values = new_floats(count);
  for (int64_t i = 0; i < count; i++) values[i] = (float)x[i];
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  axn_inference_args args = axn_inference_init();
  args.x = args.y = values;
  args.scale = by->scale, args.shift = by->shift;
  args.running_mean = by->mean, args.running_variance = by->variance;
  cr_assert(axn_forward_inference(plan, &args, NULL) == AXN_OK);
  double *y = oracle_widen(values, count);
  axn_plan_destroy(plan);
  free(values);
  return y;
}

static float *drawn(int64_t count, data_spec data, randoms *source) {
  float *values = new_floats(count);
  fill_data(values, count, data, source);
  return values;
}

static norm draw_norm(int64_t channels, unsigned has, randoms *source) {
  const data_spec scales = {DATA_NORMAL, 1.0, 0.5}, means = {DATA_NORMAL, 0.0, 2.0};
  norm by = {drawn(channels, means, source), new_floats(channels), NULL, NULL, 1e-3};
  for (int64_t c = 0; c < channels; c++) {
    by.variance[c] = (float)(0.25 + 2.0 * random_uniform(source));
  }
  if (has & RIG_SCALE) by.scale = drawn(channels, scales, source);
  if (has & RIG_SHIFT) by.shift = drawn(channels, means, source);
  return by;
}

static void norm_free(norm *by) {
  free(by->mean);
  free(by->variance);
  free(by->scale);
  free(by->shift);
}

static axn_fold_args fold_args(const conv *layer, const norm *by, const float *weight,
                               const float *bias) {
  axn_fold_args args = axn_fold_init();
  args.out_channels = layer->out;
  args.in_channels = layer->in;
  args.groups = layer->groups;
  args.kernel_elements = layer->kernel * layer->kernel;
  args.transposed = layer->transposed;
  args.padding = layer->padding;
  args.weight = weight, args.bias = bias;
  args.running_mean = by->mean, args.running_variance = by->variance;
  args.scale = by->scale, args.shift = by->shift;
  args.epsilon = by->epsilon;
  return args;
}

/* Each folded weight and bias is one rounding off, so a result is off by half an ulp of its terms; the
 * values between the two layers were rounded too. In all a few 2^-24 of the size of the terms, of
 * which there are some dozens, mostly of size 1 to 10. */
static void check_outputs(const double *got, const double *want, int64_t count, const char *what) {
  double size = 1;
  for (int64_t i = 0; i < count; i++) size = fmax(size, fabs(want[i]));
  for (int64_t i = 0; i < count; i++) {
    cr_assert(fabs(got[i] - want[i]) <= 1e-6 * size, "%s: [%d] is %.9g, expected %.9g", what,
              (int)i, got[i], want[i]);
  }
}

/* ---- both directions ---- */

/* The layer with its norm, before or after, against the folded layer. */
static void check_fold(const conv *layer, int before, int has_bias, unsigned has, int in_place,
                       randoms *source) {
  const int64_t size = out_size(layer), weights = weights_of(layer);
  const int64_t pixels = BATCH * layer->in * layer->size * layer->size;
  float *image = drawn(pixels, DATA_STANDARD, source);
  float *weight = drawn(weights, DATA_STANDARD, source);
  float *bias = has_bias ? drawn(layer->out, DATA_STANDARD, source) : NULL;
  double *x = oracle_widen(image, pixels);
  norm by = draw_norm(before ? layer->in : layer->out, has, source);
  double *between =
      before ? normalize(&by, x, layer->in, layer->size) : run_layer(layer, x, weight, bias);
  double *want =
      before ? run_layer(layer, between, weight, bias) : normalize(&by, between, layer->out, size);
  axn_fold_args args = fold_args(layer, &by, weight, bias);
  float *new_weight = in_place ? weight : new_floats(weights);
  float *new_bias = in_place && bias ? bias : new_floats(layer->out);
  args.folded_weight = new_weight, args.folded_bias = new_bias;
  axn_error error = {AXN_OK, ""};
  axn_status status =
      before ? axn_fold_before_layer(&args, &error) : axn_fold_after_layer(&args, &error);
  cr_assert(status == AXN_OK, "%s", error.message);
  double *got = run_layer(layer, x, new_weight, new_bias);
  check_outputs(got, want, BATCH * layer->out * size * size, before ? "before" : "after");
  if (new_weight != weight) free(new_weight);
  if (new_bias != bias) free(new_bias);
  free(image), free(weight), free(bias), free(x), free(between), free(want), free(got);
  norm_free(&by);
}

static void check_options(const conv *layer, int before, randoms *source) {
  for (int i = 0; i < 16; i++) {
    const unsigned has = (i & 1 ? RIG_SCALE : 0) | (i & 2 ? RIG_SHIFT : 0);
    check_fold(layer, before, i & 4, has, i & 8, source);
  }
}

Test(fold, norm_after_a_layer) {
  static const conv layers[] = {
      {5, 7, 1, 1, 1, 0, 1, 0, AXN_PADDING_NONE},  /* linear */
      {6, 4, 1, 3, 1, 1, 6, 0, AXN_PADDING_ZEROS}, /* padded with zeros */
      {6, 4, 2, 3, 2, 1, 7, 0, AXN_PADDING_ZEROS}, /* grouped, with a stride */
      {8, 8, 8, 3, 1, 0, 5, 0, AXN_PADDING_NONE},  /* depthwise */
      {12, 4, 4, 3, 1, 0, 5, 0, AXN_PADDING_NONE}, /* depthwise, three outputs each */
      {4, 6, 1, 3, 2, 1, 4, 1, AXN_PADDING_NONE},  /* transposed */
      {4, 6, 2, 2, 2, 0, 3, 1, AXN_PADDING_NONE},  /* transposed, grouped */
      {9, 3, 1, 5, 1, 2, 6, 0, (axn_padding)0},    /* padding need not be said here */
  };
  randoms source = randoms_from(test_seed(921));
  for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) check_options(&layers[i], 0, &source);
}

Test(fold, norm_before_a_layer) {
  static const conv layers[] = {
      {5, 7, 1, 1, 1, 0, 1, 0, AXN_PADDING_NONE},  /* linear */
      {5, 7, 1, 1, 1, 0, 4, 0, AXN_PADDING_NONE},  /* 1 x 1 */
      {6, 4, 1, 3, 1, 0, 6, 0, AXN_PADDING_NONE},  /* unpadded */
      {6, 4, 2, 3, 2, 0, 7, 0, AXN_PADDING_NONE},  /* grouped, with a stride */
      {8, 8, 8, 3, 1, 0, 5, 0, AXN_PADDING_NONE},  /* depthwise */
      {6, 4, 2, 3, 1, 1, 5, 0, AXN_PADDING_INPUT}, /* padded with the input itself */
  };
  randoms source = randoms_from(test_seed(922));
  for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) check_options(&layers[i], 1, &source);
}

/* The folded numbers themselves: float64, rounded once. */
Test(fold, rounds_once) {
  const float weight[2] = {3.0f, -7.0f}, bias[1] = {0.3f}, mean[1] = {1e6f}, variance[1] = {0.1f};
  const float scale[1] = {0.7f}, shift[1] = {1e-3f};
  float new_weight[2], new_bias[1];
  axn_fold_args args = axn_fold_init();
  args.out_channels = 1, args.in_channels = 2;
  args.weight = weight, args.bias = bias;
  args.running_mean = mean, args.running_variance = variance;
  args.scale = scale, args.shift = shift;
  args.folded_weight = new_weight, args.folded_bias = new_bias;
  cr_assert(axn_fold_after_layer(&args, NULL) == AXN_OK);
  const long double factor = 0.7f / sqrtl((long double)0.1f + 1e-5L);
  cr_assert(fabsl(new_weight[0] - 3 * factor) <= 0.51L * 0x1p-21L);
  cr_assert(fabsl(new_weight[1] + 7 * factor) <= 0.51L * 0x1p-20L);
  cr_assert(fabsl(new_bias[0] - ((0.3f - 1e6L) * factor + 1e-3f)) <= 0.51L * 0x1p-2L);
}

/* ---- what is refused ---- */

typedef axn_status fold(const axn_fold_args *args, axn_error *error);

static void refuses(fold *which, const axn_fold_args *args, axn_status status, const char *field,
                    int line) {
  axn_error error = {AXN_OK, ""};
  float kept[2][4];
  if (args->folded_weight) memcpy(kept[0], args->folded_weight, sizeof kept[0]);
  if (args->folded_bias) memcpy(kept[1], args->folded_bias, sizeof kept[1]);
  axn_status got = which(args, &error);
  cr_assert(got == status, "line %d: status %d, not %d: %s", line, (int)got, (int)status,
            error.message);
  cr_assert(strstr(error.message, field), "line %d: no '%s' in '%s'", line, field, error.message);
  cr_assert(which(args, NULL) == status);
  cr_assert(!args->folded_weight || !memcmp(kept[0], args->folded_weight, sizeof kept[0]));
  cr_assert(!args->folded_bias || !memcmp(kept[1], args->folded_bias, sizeof kept[1]));
}

#define REFUSED(which, change, status, field)                                                      \
  do {                                                                                             \
    axn_fold_args args = valid;                                                                    \
    change;                                                                                        \
    refuses(which, &args, status, field, __LINE__);                                                \
  } while (0)

Test(fold, refuses_bad_arguments) {
  float weight[8] = {0}, bias[8] = {0}, mean[8] = {0}, variance[8] = {0}, outputs[2][8] = {{0}};
  axn_fold_args valid = axn_fold_init();
  valid.out_channels = 4, valid.in_channels = 2, valid.padding = AXN_PADDING_NONE;
  valid.weight = weight, valid.bias = bias, valid.running_mean = mean;
  valid.running_variance = variance;
  valid.folded_weight = outputs[0], valid.folded_bias = outputs[1];
  fold *const ways[] = {axn_fold_after_layer, axn_fold_before_layer};
  for (int i = 0; i < 2; i++) {
    fold *way = ways[i];
    axn_error error;
    cr_assert(way(&valid, &error) == AXN_OK && error.status == AXN_OK);
    cr_assert(way(NULL, &error) == AXN_ERROR_NULL && strstr(error.message, "args"));
    REFUSED(way, args.struct_size = 8, AXN_ERROR_STRUCT_SIZE, "args");
    REFUSED(way, args.out_channels = 0, AXN_ERROR_SHAPE, "out_channels");
    REFUSED(way, args.in_channels = -1, AXN_ERROR_SHAPE, "in_channels");
    REFUSED(way, args.kernel_elements = 0, AXN_ERROR_SHAPE, "kernel_elements");
    REFUSED(way, args.kernel_elements = INT64_MAX, AXN_ERROR_OVERFLOW, "kernel_elements");
    REFUSED(way, args.groups = 0, AXN_ERROR_GROUPS, "groups");
    REFUSED(way, args.groups = 4, AXN_ERROR_GROUPS, "groups");
    REFUSED(way, args.epsilon = 0, AXN_ERROR_EPSILON, "epsilon");
    REFUSED(way, args.epsilon = NAN, AXN_ERROR_EPSILON, "epsilon");
    REFUSED(way, args.weight = NULL, AXN_ERROR_NULL, "weight");
    REFUSED(way, args.running_mean = NULL, AXN_ERROR_NULL, "running_mean");
    REFUSED(way, args.running_variance = NULL, AXN_ERROR_NULL, "running_variance");
    REFUSED(way, args.folded_weight = NULL, AXN_ERROR_NULL, "folded_weight");
    REFUSED(way, args.folded_bias = NULL, AXN_ERROR_NULL, "folded_bias");
    REFUSED(way, args.folded_weight = mean, AXN_ERROR_OVERLAP, "folded_weight");
    REFUSED(way, args.folded_bias = weight, AXN_ERROR_OVERLAP, "folded_bias");
    REFUSED(way, args.folded_bias = bias + 1, AXN_ERROR_OVERLAP, "folded_bias");
    variance[1] = -1e-3f;
    REFUSED(way, (void)args, AXN_ERROR_STATISTICS, "running_variance[1]");
    variance[1] = NAN;
    REFUSED(way, (void)args, AXN_ERROR_STATISTICS, "running_variance[1]");
    variance[1] = 0;
  }
}

Test(fold, refuses_what_is_not_exact) {
  float weight[8] = {0}, mean[8] = {0}, variance[8] = {0}, outputs[2][8] = {{0}};
  axn_fold_args valid = axn_fold_init();
  valid.out_channels = 4, valid.in_channels = 2, valid.padding = AXN_PADDING_NONE;
  valid.weight = weight, valid.running_mean = mean, valid.running_variance = variance;
  valid.folded_weight = outputs[0], valid.folded_bias = outputs[1];
  fold *const way = axn_fold_before_layer;
  REFUSED(way, args.padding = AXN_PADDING_ZEROS, AXN_ERROR_OPTION, "padding: with zeros");
  REFUSED(way, args.padding = (axn_padding)0, AXN_ERROR_OPTION, "padding: 0 is unknown");
  REFUSED(way, args.padding = (axn_padding)4, AXN_ERROR_OPTION, "padding");
  REFUSED(way, args.transposed = 1, AXN_ERROR_OPTION, "transposed");
}
