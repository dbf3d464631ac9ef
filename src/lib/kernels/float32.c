/* SPDX-License-Identifier: MIT */
/*
 * The kernels for float32, compiled once per instruction set with
 *   AXN_KERNELS        the name of the table that this variant fills
 *   AXN_VECTOR_BYTES   the width of a vector register
 * Vectors are the compilers' own (gcc, clang): the sums need a fixed number of lanes that stay in
 * registers, which a plain loop over an array of lanes does not get from either compiler.
 *
 * Why every variant gives the same bits: element i of a row always goes to lane i mod LANES, lanes
 * are always flushed into float64 after TERMS additions and added up in one fixed tree, and nothing
 * is contracted into a fused multiply-add (-ffp-contract=off).
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

#include "wide.h"

enum {
  WIDTH = AXN_VECTOR_BYTES / 4,
  LANES = 32,
  PARTS = LANES / WIDTH, /* vectors that make up the lanes */
  /* Additions in float before a flush to float64. It bounds the rounding of a sum of equal terms,
   * the worst case, to about TERMS / 8 units in the last place. */
  TERMS = 16
};

typedef float vector __attribute__((vector_size(AXN_VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vector load(const float *from) {
  vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float *to, vector v) {
  memcpy(to, &v, sizeof v);
}

INLINE vector splat(float value) {
  return value - (vector){0};
}

/* The first `count` of a vector, the others `pad`. */
INLINE vector load_some(const float *from, int64_t count, float pad) {
  float values[WIDTH];
  for (int i = 0; i < WIDTH; i++) values[i] = i < count ? from[i] : pad;
  return load(values);
}

INLINE vector load_lane_part(const float *from, int64_t left, float pad) {
  if (left >= WIDTH) return load(from);
  return left > 0 ? load_some(from, left, pad) : splat(pad);
}

INLINE void clear(vector lanes[PARTS]) {
  for (int p = 0; p < PARTS; p++) lanes[p] = (vector){0};
}

/* Adds the lanes to float64 ones, and empties them. */
INLINE void flush(vector lanes[PARTS], double totals[LANES]) {
  float values[LANES];
  for (int p = 0; p < PARTS; p++) store(values + p * WIDTH, lanes[p]);
  for (int i = 0; i < LANES; i++) totals[i] += (double)values[i];
  clear(lanes);
}

static double add_lanes(double totals[LANES]) {
  for (int half = LANES / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) totals[i] += totals[i + half];
  }
  return totals[0];
}

/* ---- moments, row family ---- */

/* A mean good enough to be subtracted: summed in float32. */
static float rough_mean(const axn_moments_block *block) {
  vector sum[PARTS];
  double totals[LANES] = {0};
  clear(sum);
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    int64_t left = block->columns;
    for (; left >= LANES; left -= LANES, x += LANES) {
      for (int p = 0; p < PARTS; p++) sum[p] += load(x + p * WIDTH);
    }
    if (left == 0) continue;
    for (int p = 0; p < PARTS; p++) sum[p] += load_lane_part(x + p * WIDTH, left - p * WIDTH, 0);
  }
  flush(sum, totals);
  return (float)(add_lanes(totals) / (double)(block->rows * block->columns));
}

INLINE void add_moments(vector sum[PARTS], vector square[PARTS], const vector x[PARTS],
                        float shift) {
  for (int p = 0; p < PARTS; p++) {
    const vector difference = x[p] - shift;
    sum[p] += difference;
    square[p] += difference * difference;
  }
}

static void shifted_sums(const axn_moments_block *block, float shift, double *sum_out,
                         double *square_out) {
  vector sum[PARTS], square[PARTS], x[PARTS];
  double sums[LANES] = {0}, squares[LANES] = {0};
  int64_t budget = TERMS;
  clear(sum);
  clear(square);
  for (int64_t r = 0; r < block->rows; r++) {
    const float *from = block->x + r * block->row_stride;
    int64_t left = block->columns;
    while (left > 0) {
      for (; left >= LANES && budget > 0; left -= LANES, from += LANES, budget--) {
        for (int p = 0; p < PARTS; p++) x[p] = load(from + p * WIDTH);
        add_moments(sum, square, x, shift);
      }
      if (budget > 0 && left > 0) {
        /* The pad is the shift itself, so that lanes without a value add nothing. */
        for (int p = 0; p < PARTS; p++) {
          x[p] = load_lane_part(from + p * WIDTH, left - p * WIDTH, shift);
        }
        add_moments(sum, square, x, shift);
        left = 0;
        budget--;
      }
      if (budget > 0) continue;
      flush(sum, sums);
      flush(square, squares);
      budget = TERMS;
    }
  }
  flush(sum, sums);
  flush(square, squares);
  *sum_out = add_lanes(sums);
  *square_out = add_lanes(squares);
}

/* True where the shift is more than a deviation from the mean, so that digits cancel. */
INLINE bool shift_is_far(double sum, double square, double count) {
  const double excess = sum * sum / count;
  return excess > square - excess;
}

/* True where float32 could not hold the squares. */
INLINE bool range_is_lost(double shift, double square, double count, bool keep_tiny) {
  return !isfinite(square) || !isfinite(shift) || (keep_tiny && square < count * 0x1p-100);
}

static void moments_of_row(const axn_moments_block *block, axn_moment_sums sums) {
  const double count = (double)(block->rows * block->columns);
  float shift = rough_mean(block);
  double sum, square;
  shifted_sums(block, shift, &sum, &square);
  if (shift_is_far(sum, square, count)) {
    shift = (float)((double)shift + sum / count);
    shifted_sums(block, shift, &sum, &square);
  }
  if (range_is_lost((double)shift, square, count, block->keep_tiny)) {
    const axn_wide_block wide = {.x = block->x,
                                 .rows = block->rows,
                                 .columns = block->columns,
                                 .row_stride = block->row_stride};
    axn_wide_moments(&wide, sums.shift, sums.sum, sums.square);
    return;
  }
  *sums.shift = (double)shift;
  *sums.sum = sum;
  *sums.square = square;
}

/* ---- moments, column family: one vector of columns at a time ---- */

typedef struct column_sums {
  double sum[WIDTH], square[WIDTH];
} column_sums;

INLINE vector load_columns(const float *from, int64_t columns) {
  return columns == WIDTH ? load(from) : load_some(from, columns, 0);
}

INLINE void widen_add(double totals[WIDTH], vector values) {
  float narrow[WIDTH];
  store(narrow, values);
  for (int i = 0; i < WIDTH; i++) totals[i] += (double)narrow[i];
}

INLINE vector rough_column_means(const axn_moments_block *block, const float *x, int64_t columns) {
  vector sum = {0};
  for (int64_t r = 0; r < block->rows; r++) sum += load_columns(x + r * block->row_stride, columns);
  return sum / (float)block->rows;
}

INLINE void shifted_column_sums(const axn_moments_block *block, const float *x, int64_t columns,
                                vector shift, column_sums *out) {
  *out = (column_sums){{0}, {0}};
  for (int64_t first = 0; first < block->rows; first += TERMS) {
    const int64_t last = first + TERMS < block->rows ? first + TERMS : block->rows;
    vector sum = {0}, square = {0};
    for (int64_t r = first; r < last; r++) {
      const vector difference = load_columns(x + r * block->row_stride, columns) - shift;
      sum += difference;
      square += difference * difference;
    }
    widen_add(out->sum, sum);
    widen_add(out->square, square);
  }
}

/* Moves the shifts that are far from their mean; true where there was one. */
INLINE bool refine_shifts(float shift[WIDTH], const column_sums *sums, int64_t columns,
                          double count) {
  bool any = false;
  for (int64_t i = 0; i < columns; i++) {
    if (!shift_is_far(sums->sum[i], sums->square[i], count)) continue;
    shift[i] = (float)((double)shift[i] + sums->sum[i] / count);
    any = true;
  }
  return any;
}

INLINE void moments_of_vector(const axn_moments_block *block, int64_t at, int64_t columns,
                              axn_moment_sums out) {
  const float *x = block->x + at;
  const double count = (double)block->rows;
  float shift[WIDTH];
  column_sums sums;
  store(shift, rough_column_means(block, x, columns));
  shifted_column_sums(block, x, columns, load(shift), &sums);
  if (refine_shifts(shift, &sums, columns, count)) {
    shifted_column_sums(block, x, columns, load(shift), &sums);
  }
  for (int64_t i = 0; i < columns; i++) {
    out.shift[at + i] = (double)shift[i];
    out.sum[at + i] = sums.sum[i];
    out.square[at + i] = sums.square[i];
    if (!range_is_lost((double)shift[i], sums.square[i], count, block->keep_tiny)) continue;
    const axn_wide_block wide = {
        .x = x + i, .rows = block->rows, .columns = 1, .row_stride = block->row_stride};
    axn_wide_moments(&wide, &out.shift[at + i], &out.sum[at + i], &out.square[at + i]);
  }
}

static void moments_of_columns(const axn_moments_block *block, axn_moment_sums sums) {
  int64_t at = 0;
  for (; at + WIDTH <= block->columns; at += WIDTH) moments_of_vector(block, at, WIDTH, sums);
  if (at < block->columns) moments_of_vector(block, at, block->columns - at, sums);
}

/* ---- apply ---- */

static void apply_rows(const axn_apply_block *block) {
  const float mean = block->mean[0];
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    float *y = block->y + r * block->row_stride;
    const float multiplier = block->multiplier[r], offset = block->offset[r];
    int64_t j = 0;
    for (; j + WIDTH <= block->columns; j += WIDTH) {
      store(y + j, (load(x + j) - mean) * multiplier + offset);
    }
    for (; j < block->columns; j++) y[j] = (x[j] - mean) * multiplier + offset;
  }
}

static void apply_columns(const axn_apply_block *block) {
  const float *mean = block->mean, *multiplier = block->multiplier, *offset = block->offset;
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    float *y = block->y + r * block->row_stride;
    int64_t j = 0;
    for (; j + WIDTH <= block->columns; j += WIDTH) {
      store(y + j, (load(x + j) - load(mean + j)) * load(multiplier + j) + load(offset + j));
    }
    for (; j < block->columns; j++) y[j] = (x[j] - mean[j]) * multiplier[j] + offset[j];
  }
}

INLINE void apply_weights(const axn_apply_block *block, const float *scale, const float *shift) {
  const float mean = block->mean[0], multiplier = block->multiplier[0], offset = block->offset[0];
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    float *y = block->y + r * block->row_stride;
    int64_t j = 0;
    for (; j + WIDTH <= block->columns; j += WIDTH) {
      vector value = (load(x + j) - mean) * multiplier + offset;
      if (scale != NULL) value *= load(scale + j);
      if (shift != NULL) value += load(shift + j);
      store(y + j, value);
    }
    for (; j < block->columns; j++) {
      float value = (x[j] - mean) * multiplier + offset;
      if (scale != NULL) value *= scale[j];
      if (shift != NULL) value += shift[j];
      y[j] = value;
    }
  }
}

static void apply_weighted(const axn_apply_block *block) {
  if (block->scale != NULL && block->shift != NULL) {
    apply_weights(block, block->scale, block->shift);
  } else if (block->scale != NULL) {
    apply_weights(block, block->scale, NULL);
  } else {
    apply_weights(block, NULL, block->shift);
  }
}

/* ---- sums for backward ---- */

typedef struct gradient_lanes {
  vector centred[PARTS], gradient[PARTS], product[PARTS];
} gradient_lanes;

typedef struct gradient_totals {
  double centred[LANES], gradient[LANES], product[LANES];
} gradient_totals;

INLINE void flush_gradients(gradient_lanes *lanes, gradient_totals *totals) {
  flush(lanes->centred, totals->centred);
  flush(lanes->gradient, totals->gradient);
  flush(lanes->product, totals->product);
}

/* One round of the lanes from `at` on; `left` values of the row remain. */
INLINE void add_gradients(gradient_lanes *lanes, const axn_gradient_block *block, const float *x,
                          const float *grad_y, const float *scale, int64_t left) {
  const float mean = block->mean[0], rstd = block->rstd[0];
  for (int p = 0; p < PARTS; p++) {
    const int64_t at = p * WIDTH;
    const vector e = (load_lane_part(x + at, left - at, mean) - mean) * rstd;
    vector g = load_lane_part(grad_y + at, left - at, 0);
    if (scale != NULL) g *= load_lane_part(scale + at, left - at, 0);
    lanes->centred[p] += e;
    lanes->gradient[p] += g;
    lanes->product[p] += g * e;
  }
}

INLINE void sum_gradients(const axn_gradient_block *block, const float *scale,
                          axn_gradient_sums sums) {
  gradient_lanes lanes;
  gradient_totals totals = {{0}, {0}, {0}};
  int terms = 0;
  clear(lanes.centred);
  clear(lanes.gradient);
  clear(lanes.product);
  for (int64_t r = 0; r < block->rows; r++) {
    const int64_t start = r * block->row_stride;
    for (int64_t j = 0; j < block->columns; j += LANES) {
      const int64_t left = block->columns - j;
      const float *weights = scale != NULL ? scale + j : NULL;
      const float *x = block->x + start + j, *grad_y = block->grad_y + start + j;
      if (left >= LANES) {
        add_gradients(&lanes, block, x, grad_y, weights, LANES);
      } else {
        add_gradients(&lanes, block, x, grad_y, weights, left);
      }
      if (++terms < TERMS) continue;
      flush_gradients(&lanes, &totals);
      terms = 0;
    }
  }
  flush_gradients(&lanes, &totals);
  *sums.centred = add_lanes(totals.centred);
  *sums.gradient = add_lanes(totals.gradient);
  *sums.product = add_lanes(totals.product);
}

static void gradient_sums_of_rows(const axn_gradient_block *block, axn_gradient_sums sums) {
  sum_gradients(block, NULL, sums);
}

static void gradient_sums_weighted(const axn_gradient_block *block, axn_gradient_sums sums) {
  sum_gradients(block, block->scale, sums);
}

INLINE void gradient_sums_of_vector(const axn_gradient_block *block, int64_t at, int64_t columns,
                                    axn_gradient_sums out) {
  const vector mean = load_columns(block->mean + at, columns);
  const vector rstd = load_columns(block->rstd + at, columns);
  double centred[WIDTH] = {0}, gradient[WIDTH] = {0}, product[WIDTH] = {0};
  for (int64_t first = 0; first < block->rows; first += TERMS) {
    const int64_t last = first + TERMS < block->rows ? first + TERMS : block->rows;
    vector sum_e = {0}, sum_g = {0}, sum_product = {0};
    for (int64_t r = first; r < last; r++) {
      const int64_t row = r * block->row_stride + at;
      const vector e = (load_columns(block->x + row, columns) - mean) * rstd;
      const vector g = load_columns(block->grad_y + row, columns);
      sum_e += e;
      sum_g += g;
      sum_product += g * e;
    }
    widen_add(centred, sum_e);
    widen_add(gradient, sum_g);
    widen_add(product, sum_product);
  }
  memcpy(out.centred + at, centred, (size_t)columns * sizeof(double));
  memcpy(out.gradient + at, gradient, (size_t)columns * sizeof(double));
  memcpy(out.product + at, product, (size_t)columns * sizeof(double));
}

static void gradient_sums_of_columns(const axn_gradient_block *block, axn_gradient_sums sums) {
  int64_t at = 0;
  for (; at + WIDTH <= block->columns; at += WIDTH) gradient_sums_of_vector(block, at, WIDTH, sums);
  if (at < block->columns) gradient_sums_of_vector(block, at, block->columns - at, sums);
}

/* ---- gradient of x ---- */

INLINE void gradient_with(const axn_gradient_block *block, const float *scale, bool per_row) {
  const float mean = block->mean[0], rstd = block->rstd[0];
  const float from_value = block->from_value[0], constant = block->constant[0];
  for (int64_t r = 0; r < block->rows; r++) {
    const int64_t row = r * block->row_stride;
    const float *x = block->x + row, *grad_y = block->grad_y + row;
    float *grad_x = block->grad_x + row;
    const float from_gradient = block->from_gradient[per_row ? r : 0];
    int64_t j = 0;
    for (; j + WIDTH <= block->columns; j += WIDTH) {
      vector g = load(grad_y + j) * from_gradient;
      if (scale != NULL) g *= load(scale + j);
      store(grad_x + j, g + ((load(x + j) - mean) * rstd * from_value + constant));
    }
    for (; j < block->columns; j++) {
      float g = grad_y[j] * from_gradient;
      if (scale != NULL) g *= scale[j];
      grad_x[j] = g + ((x[j] - mean) * rstd * from_value + constant);
    }
  }
}

static void gradient_of_rows(const axn_gradient_block *block) {
  gradient_with(block, NULL, true);
}

static void gradient_weighted(const axn_gradient_block *block) {
  if (block->scale != NULL) {
    gradient_with(block, block->scale, false);
  } else {
    gradient_with(block, NULL, false);
  }
}

static void gradient_of_columns(const axn_gradient_block *block) {
  const float *mean = block->mean, *rstd = block->rstd, *from_gradient = block->from_gradient;
  const float *from_value = block->from_value, *constant = block->constant;
  for (int64_t r = 0; r < block->rows; r++) {
    const int64_t row = r * block->row_stride;
    const float *x = block->x + row, *grad_y = block->grad_y + row;
    float *grad_x = block->grad_x + row;
    int64_t j = 0;
    for (; j + WIDTH <= block->columns; j += WIDTH) {
      const vector e = (load(x + j) - load(mean + j)) * load(rstd + j);
      store(grad_x + j, load(grad_y + j) * load(from_gradient + j) +
                            (e * load(from_value + j) + load(constant + j)));
    }
    for (; j < block->columns; j++) {
      const float e = (x[j] - mean[j]) * rstd[j];
      grad_x[j] = grad_y[j] * from_gradient[j] + (e * from_value[j] + constant[j]);
    }
  }
}

/* ---- gradients of scale and shift ---- */

INLINE void parameters_of_vector(const axn_parameter_block *block, int64_t at, int64_t columns) {
  double grad_scale[WIDTH] = {0}, grad_shift[WIDTH] = {0};
  for (int64_t first = 0; first < block->rows; first += TERMS) {
    const int64_t last = first + TERMS < block->rows ? first + TERMS : block->rows;
    vector sum_product = {0}, sum_gradient = {0};
    for (int64_t r = first; r < last; r++) {
      const int64_t row = r * block->row_stride + at;
      const vector x = load_columns(block->x + row, columns);
      const vector grad_y = load_columns(block->grad_y + row, columns);
      sum_product += grad_y * ((x - block->mean[r]) * block->rstd[r] - block->centre[r]);
      sum_gradient += grad_y;
    }
    widen_add(grad_scale, sum_product);
    widen_add(grad_shift, sum_gradient);
  }
  for (int64_t i = 0; i < columns; i++) {
    block->grad_scale[at + i] += grad_scale[i];
    block->grad_shift[at + i] += grad_shift[i];
  }
}

static void parameters(const axn_parameter_block *block) {
  int64_t at = 0;
  for (; at + WIDTH <= block->columns; at += WIDTH) parameters_of_vector(block, at, WIDTH);
  if (at < block->columns) parameters_of_vector(block, at, block->columns - at);
}

const axn_kernels AXN_KERNELS = {
    .moments_of_row = moments_of_row,
    .moments_of_columns = moments_of_columns,
    .apply = {[AXN_FORM_ROWS] = apply_rows,
              [AXN_FORM_COLUMNS] = apply_columns,
              [AXN_FORM_WEIGHTED] = apply_weighted},
    .gradient_sums = {[AXN_FORM_ROWS] = gradient_sums_of_rows,
                      [AXN_FORM_COLUMNS] = gradient_sums_of_columns,
                      [AXN_FORM_WEIGHTED] = gradient_sums_weighted},
    .gradient = {[AXN_FORM_ROWS] = gradient_of_rows,
                 [AXN_FORM_COLUMNS] = gradient_of_columns,
                 [AXN_FORM_WEIGHTED] = gradient_weighted},
    .parameters = parameters,
};
