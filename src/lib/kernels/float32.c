/* SPDX-License-Identifier: MIT */
/*
 * The kernels for float32, compiled once per instruction set with
 *   AXN_KERNELS        the name of the table that this variant fills
 *   AXN_VECTOR_BYTES   the width of a vector register
 * Vectors are the compilers' own (gcc, clang): the sums need a fixed number of lanes that stay in
 * registers, which a plain loop over an array of lanes does not get from either compiler.
 *
 * Why every variant gives the same bits: the number of lanes is fixed, whatever the width of a vector
 * (LANES, WIDE_LANES), and element i of a row always goes to lane i modulo that number; float32 lanes
 * are always flushed into float64 after TERMS additions; lanes are added up in one fixed tree; and
 * nothing is contracted into a fused multiply-add (-ffp-contract=off).
 */
#include "kernels.h"

#include "turn.h"
#include "vector.h"

enum {
  STREAM_RUN = 256, /* shorter runs leave too many lines half written for streaming to pay */
  TERMS = 16 /* additions in float before a flush to float64, where sums are in float at all */
};

/* ---- moments ----
 *
 * Float64 throughout, in one pass about the first value. It holds the differences of floats exactly or
 * nearly so, and their squares without overflow; the first value is part of the data and so no further
 * from the mean than a block's few thousand values leave digits for. With float32 sums the statistics
 * of a few values would cost more units in the last place than all else together. */

enum {
  WIDE_LANES = 16,
  WIDE_PARTS = WIDE_LANES / HALF,
  GROUP = AXN_VECTOR_BYTES == 16 ? 8 : 16, /* columns whose sums stay in registers */
  GROUP_PARTS = GROUP / HALF
};

/* Mean and M2 from sums about a shift. */
INLINE void finish_moments(double shift, double sum, double square, double count, double *mean,
                           double *m2) {
  const double offset = sum / count, rest = square - sum * offset;
  *mean = shift + offset;
  /* shift - shift is 0, or NaN for a first value that is not finite and that no sum has met. */
  *m2 = (rest < 0 ? 0 : rest) + (shift - shift);
}

INLINE void add_moments(wide_vector sum[WIDE_PARTS], wide_vector square[WIDE_PARTS], const float *x,
                        double shift) {
  for (int p = 0; p < WIDE_PARTS; p++) {
    const wide_vector difference = load_wide(x + p * HALF) - shift;
    sum[p] += difference;
    square[p] += difference * difference;
  }
}

static double add_wide_lanes(const wide_vector lanes[WIDE_PARTS]) {
  double values[WIDE_LANES];
  memcpy(values, lanes, sizeof values);
  for (int half = WIDE_LANES / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) values[i] += values[i + half];
  }
  return values[0];
}

static void moments_of_row(const axn_moments_block *block, axn_moments moments) {
  const float first = block->x[0];
  wide_vector sum[WIDE_PARTS], square[WIDE_PARTS];
  for (int p = 0; p < WIDE_PARTS; p++) sum[p] = square[p] = (wide_vector){0};
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    int64_t left = block->columns;
    for (; left >= WIDE_LANES; left -= WIDE_LANES, x += WIDE_LANES) {
      add_moments(sum, square, x, (double)first);
    }
    if (left == 0) continue;
    /* The pad is the shift itself, so that lanes without a value add nothing. */
    float rest[WIDE_LANES];
    for (int i = 0; i < WIDE_LANES; i++) rest[i] = i < left ? x[i] : first;
    add_moments(sum, square, rest, (double)first);
  }
  finish_moments((double)first, add_wide_lanes(sum), add_wide_lanes(square),
                 (double)(block->rows * block->columns), moments.mean, moments.m2);
}

/* GROUP contiguous columns; writes the first `columns` results. */
INLINE void moments_of_group(const float *x, int64_t rows, int64_t row_stride, int64_t columns,
                             axn_moments out) {
  wide_vector shift[GROUP_PARTS], sum[GROUP_PARTS], square[GROUP_PARTS];
  for (int p = 0; p < GROUP_PARTS; p++) {
    shift[p] = load_wide(x + p * HALF);
    sum[p] = square[p] = (wide_vector){0};
  }
  for (int64_t r = 1; r < rows; r++) {
    for (int p = 0; p < GROUP_PARTS; p++) {
      const wide_vector difference = load_wide(x + r * row_stride + p * HALF) - shift[p];
      sum[p] += difference;
      square[p] += difference * difference;
    }
  }
  double results[3][GROUP], mean[GROUP], m2[GROUP];
  memcpy(results[0], shift, sizeof shift);
  memcpy(results[1], sum, sizeof sum);
  memcpy(results[2], square, sizeof square);
  for (int j = 0; j < GROUP; j++) {
    finish_moments(results[0][j], results[1][j], results[2][j], (double)rows, &mean[j], &m2[j]);
  }
  memcpy(out.mean, mean, (size_t)columns * sizeof *mean);
  memcpy(out.m2, m2, (size_t)columns * sizeof *m2);
}

static void moments_of_columns(const axn_moments_block *block, axn_moments moments) {
  float tile[AXN_TILE_ROWS * AXN_TILE_COLUMNS];
  for (int64_t j = 0; j < block->columns; j += GROUP) {
    const int64_t left = block->columns - j, columns = left < GROUP ? left : GROUP;
    const axn_moments out = {moments.mean + j, moments.m2 + j};
    const float *x = block->x + j * block->column_stride;
    if (block->column_stride == 1 && columns == GROUP) {
      moments_of_group(x, block->rows, block->row_stride, GROUP, out);
      continue;
    }
    gather(x, block->rows, columns, block->row_stride, block->column_stride, tile);
    moments_of_group(tile, block->rows, AXN_TILE_COLUMNS, columns, out);
  }
}

/* ---- apply ---- */

/* One run of memory with the same factors. */
INLINE void apply_run(const float *x, float *y, int64_t count, float mean, float multiplier,
                      float offset, bool streams) {
  int64_t i = 0;
  if (streams) {
    for (; i < count && (uintptr_t)(y + i) % sizeof(vector) != 0; i++) {
      y[i] = (x[i] - mean) * multiplier + offset;
    }
    for (; i + WIDTH <= count; i += WIDTH) {
      stream(y + i, (load(x + i) - mean) * multiplier + offset);
    }
  }
  for (; i + WIDTH <= count; i += WIDTH) {
    store(y + i, (load(x + i) - mean) * multiplier + offset);
  }
  for (; i < count; i++) y[i] = (x[i] - mean) * multiplier + offset;
}

static void apply_rows(const axn_apply_block *block) {
  for (int64_t r = 0; r < block->rows; r++) {
    const int64_t at = r * block->row_stride;
    apply_run(block->x + at, block->y + at, block->columns, block->mean[0], block->multiplier[r],
              block->offset[r], block->streams && block->columns >= STREAM_RUN);
  }
}

/* Every column a run of its own. */
static void apply_long_columns(const axn_apply_block *block) {
  for (int64_t j = 0; j < block->columns; j++) {
    const int64_t at = j * block->column_stride;
    apply_run(block->x + at, block->y + at, block->rows, block->mean[j], block->multiplier[j],
              block->offset[j], false);
  }
}

static void apply_columns(const axn_apply_block *block) {
  if (block->column_stride != 1) {
    apply_long_columns(block);
    return;
  }
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

INLINE vector weigh_vector(vector value, const float *scale, const float *shift) {
  if (scale != NULL) value *= load(scale);
  if (shift != NULL) value += load(shift);
  return value;
}

INLINE float weigh_value(float value, const float *scale, const float *shift) {
  if (scale != NULL) value *= *scale;
  if (shift != NULL) value += *shift;
  return value;
}

INLINE void apply_weights(const axn_apply_block *block, const float *scale, const float *shift) {
  const float mean = block->mean[0], multiplier = block->multiplier[0], offset = block->offset[0];
  const int64_t count = block->columns;
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    float *y = block->y + r * block->row_stride;
    int64_t j = 0;
    if (block->streams && count >= STREAM_RUN) {
      for (; j < count && (uintptr_t)(y + j) % sizeof(vector) != 0; j++) {
        y[j] = weigh_value((x[j] - mean) * multiplier + offset, axn_parameters_at(scale, j),
                           axn_parameters_at(shift, j));
      }
      for (; j + WIDTH <= count; j += WIDTH) {
        stream(y + j, weigh_vector((load(x + j) - mean) * multiplier + offset,
                                   axn_parameters_at(scale, j), axn_parameters_at(shift, j)));
      }
    }
    for (; j + WIDTH <= count; j += WIDTH) {
      store(y + j, weigh_vector((load(x + j) - mean) * multiplier + offset,
                                axn_parameters_at(scale, j), axn_parameters_at(shift, j)));
    }
    for (; j < count; j++) {
      y[j] = weigh_value((x[j] - mean) * multiplier + offset, axn_parameters_at(scale, j),
                         axn_parameters_at(shift, j));
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

INLINE vector load_columns(const float *from, int64_t columns) {
  return columns == WIDTH ? load(from) : load_some(from, columns, 0);
}

/* One round of the lanes; `scale` may be null. */
INLINE void add_round(vector centred[PARTS], vector gradient[PARTS], vector product[PARTS],
                      const float *x, const float *grad_y, const float *scale, float mean,
                      float rstd) {
  for (int p = 0; p < PARTS; p++) {
    const vector e = (load(x + p * WIDTH) - mean) * rstd;
    vector g = load(grad_y + p * WIDTH);
    if (scale != NULL) g *= load(scale + p * WIDTH);
    centred[p] += e;
    gradient[p] += g;
    product[p] += g * e;
  }
}

/* The first `count` of a round, the others `pad`. */
INLINE void pad_round(float round[LANES], const float *from, int64_t count, float pad) {
  for (int i = 0; i < LANES; i++) round[i] = i < count ? from[i] : pad;
}

INLINE void sum_gradients(const axn_gradient_block *block, const float *scale,
                          axn_gradient_sums sums) {
  const float mean = block->mean[0], rstd = block->rstd[0];
  double centres[LANES] = {0}, gradients[LANES] = {0}, products[LANES] = {0};
  vector centred[PARTS], gradient[PARTS], product[PARTS];
  int64_t budget = TERMS;
  clear(centred);
  clear(gradient);
  clear(product);
  for (int64_t r = 0; r < block->rows; r++) {
    const float *x = block->x + r * block->row_stride;
    const float *grad_y = block->grad_y + r * block->row_stride, *weights = scale;
    int64_t left = block->columns;
    while (left > 0) {
      for (; left >= LANES && budget > 0; left -= LANES, budget--) {
        add_round(centred, gradient, product, x, grad_y, weights, mean, rstd);
        x += LANES;
        grad_y += LANES;
        weights = axn_parameters_at(weights, LANES);
      }
      if (left > 0 && budget > 0) {
        /* The pad is the mean, and 0, so that lanes without a value add nothing. */
        float rest_x[LANES], rest_grad_y[LANES], rest_scale[LANES];
        pad_round(rest_x, x, left, mean);
        pad_round(rest_grad_y, grad_y, left, 0);
        if (scale != NULL) pad_round(rest_scale, weights, left, 0);
        add_round(centred, gradient, product, rest_x, rest_grad_y,
                  scale != NULL ? rest_scale : NULL, mean, rstd);
        left = 0;
        budget--;
      }
      if (budget > 0) continue;
      flush(centred, centres);
      flush(gradient, gradients);
      flush(product, products);
      budget = TERMS;
    }
  }
  flush(centred, centres);
  flush(gradient, gradients);
  flush(product, products);
  *sums.centred = add_lanes(centres);
  *sums.gradient = add_lanes(gradients);
  *sums.product = add_lanes(products);
}

static void gradient_sums_of_rows(const axn_gradient_block *block, axn_gradient_sums sums) {
  sum_gradients(block, NULL, sums);
}

static void gradient_sums_weighted(const axn_gradient_block *block, axn_gradient_sums sums) {
  sum_gradients(block, block->scale, sums);
}

/* One vector of contiguous columns. */
INLINE void gradient_sums_of_vector(const axn_gradient_block *block, axn_gradient_sums out) {
  const vector mean = load(block->mean), rstd = load(block->rstd);
  double centred[WIDTH] = {0}, gradient[WIDTH] = {0}, product[WIDTH] = {0};
  for (int64_t first = 0; first < block->rows; first += TERMS) {
    const int64_t last = first + TERMS < block->rows ? first + TERMS : block->rows;
    vector sum_e = {0}, sum_g = {0}, sum_product = {0};
    for (int64_t r = first; r < last; r++) {
      const vector e = (load(block->x + r * block->row_stride) - mean) * rstd;
      const vector g = load(block->grad_y + r * block->row_stride);
      sum_e += e;
      sum_g += g;
      sum_product += g * e;
    }
    widen_add(centred, sum_e);
    widen_add(gradient, sum_g);
    widen_add(product, sum_product);
  }
  memcpy(out.centred, centred, sizeof centred);
  memcpy(out.gradient, gradient, sizeof gradient);
  memcpy(out.product, product, sizeof product);
}

/* A tile of columns, of which the first `columns` count. */
static void gradient_sums_of_tile(const axn_gradient_block *block, axn_gradient_sums sums) {
  float x[AXN_TILE_ROWS * AXN_TILE_COLUMNS], grad_y[AXN_TILE_ROWS * AXN_TILE_COLUMNS];
  float mean[AXN_TILE_COLUMNS] = {0}, rstd[AXN_TILE_COLUMNS] = {0};
  double results[3][AXN_TILE_COLUMNS];
  const size_t columns = (size_t)block->columns;
  gather(block->x, block->rows, block->columns, block->row_stride, block->column_stride, x);
  gather(block->grad_y, block->rows, block->columns, block->row_stride, block->column_stride,
         grad_y);
  memcpy(mean, block->mean, columns * sizeof *mean);
  memcpy(rstd, block->rstd, columns * sizeof *rstd);
  for (int j = 0; j < AXN_TILE_COLUMNS; j += WIDTH) {
    const axn_gradient_block part = {.x = x + j,
                                     .grad_y = grad_y + j,
                                     .rows = block->rows,
                                     .row_stride = AXN_TILE_COLUMNS,
                                     .mean = mean + j,
                                     .rstd = rstd + j};
    gradient_sums_of_vector(&part,
                            (axn_gradient_sums){results[0] + j, results[1] + j, results[2] + j});
  }
  memcpy(sums.centred, results[0], columns * sizeof(double));
  memcpy(sums.gradient, results[1], columns * sizeof(double));
  memcpy(sums.product, results[2], columns * sizeof(double));
}

/* The block's columns from j on. */
INLINE axn_gradient_block columns_from(const axn_gradient_block *block, int64_t j,
                                       int64_t columns) {
  axn_gradient_block part = *block;
  part.x += j * block->column_stride;
  part.grad_y += j * block->column_stride;
  part.mean += j;
  part.rstd += j;
  part.columns = columns;
  return part;
}

static void gradient_sums_of_columns(const axn_gradient_block *block, axn_gradient_sums sums) {
  int64_t j = 0;
  while (j < block->columns) {
    const axn_gradient_sums out = {sums.centred + j, sums.gradient + j, sums.product + j};
    const int64_t left = block->columns - j;
    if (block->column_stride == 1 && left >= WIDTH) {
      const axn_gradient_block part = columns_from(block, j, WIDTH);
      gradient_sums_of_vector(&part, out);
      j += WIDTH;
    } else {
      const axn_gradient_block part =
          columns_from(block, j, left < AXN_TILE_COLUMNS ? left : AXN_TILE_COLUMNS);
      gradient_sums_of_tile(&part, out);
      j += part.columns;
    }
  }
}

/* ---- gradient of x ---- */

typedef struct run_factors {
  float mean, rstd, from_gradient, from_value, constant;
} run_factors;

INLINE run_factors factors_at(const axn_gradient_block *block, int64_t statistic, int64_t line) {
  return (run_factors){block->mean[statistic], block->rstd[statistic], block->from_gradient[line],
                       block->from_value[statistic], block->constant[statistic]};
}

INLINE vector gradient_of_vector(const float *x, const float *grad_y, const float *scale,
                                 const run_factors *f) {
  vector g = load(grad_y) * f->from_gradient;
  if (scale != NULL) g *= load(scale);
  return g + ((load(x) - f->mean) * f->rstd * f->from_value + f->constant);
}

INLINE float gradient_of_value(const float *x, const float *grad_y, const float *scale,
                               const run_factors *f) {
  float g = *grad_y * f->from_gradient;
  if (scale != NULL) g *= *scale;
  return g + ((*x - f->mean) * f->rstd * f->from_value + f->constant);
}

/* One run of memory with the same factors; `scale` may be null. */
INLINE void gradient_of_run(const float *x, const float *grad_y, const float *scale, float *grad_x,
                            int64_t count, run_factors f, bool streams) {
  int64_t i = 0;
  if (streams) {
    for (; i < count && (uintptr_t)(grad_x + i) % sizeof(vector) != 0; i++) {
      grad_x[i] = gradient_of_value(x + i, grad_y + i, axn_parameters_at(scale, i), &f);
    }
    for (; i + WIDTH <= count; i += WIDTH) {
      stream(grad_x + i, gradient_of_vector(x + i, grad_y + i, axn_parameters_at(scale, i), &f));
    }
  }
  for (; i + WIDTH <= count; i += WIDTH) {
    store(grad_x + i, gradient_of_vector(x + i, grad_y + i, axn_parameters_at(scale, i), &f));
  }
  for (; i < count; i++) {
    grad_x[i] = gradient_of_value(x + i, grad_y + i, axn_parameters_at(scale, i), &f);
  }
}

static void gradient_of_rows(const axn_gradient_block *block) {
  const bool streams = block->streams && block->columns >= STREAM_RUN;
  for (int64_t r = 0; r < block->rows; r++) {
    const int64_t at = r * block->row_stride;
    gradient_of_run(block->x + at, block->grad_y + at, NULL, block->grad_x + at, block->columns,
                    factors_at(block, 0, r), streams);
  }
}

static void gradient_weighted(const axn_gradient_block *block) {
  const bool streams = block->streams && block->columns >= STREAM_RUN;
  const run_factors factors = factors_at(block, 0, 0);
  for (int64_t r = 0; r < block->rows; r++) {
    const int64_t at = r * block->row_stride;
    const float *x = block->x + at, *grad_y = block->grad_y + at;
    if (block->scale != NULL) {
      gradient_of_run(x, grad_y, block->scale, block->grad_x + at, block->columns, factors,
                      streams);
    } else {
      gradient_of_run(x, grad_y, NULL, block->grad_x + at, block->columns, factors, streams);
    }
  }
}

/* Every column a run of its own. */
static void gradient_of_long_columns(const axn_gradient_block *block) {
  for (int64_t j = 0; j < block->columns; j++) {
    const int64_t at = j * block->column_stride;
    gradient_of_run(block->x + at, block->grad_y + at, NULL, block->grad_x + at, block->rows,
                    factors_at(block, j, j), false);
  }
}

static void gradient_of_columns(const axn_gradient_block *block) {
  if (block->column_stride != 1) {
    gradient_of_long_columns(block);
    return;
  }
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
    .finish_streams = finish_streams,
};
