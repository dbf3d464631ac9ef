/* SPDX-License-Identifier: MIT */
/* Sums for the backward pass. */
#ifndef AXN_LIB_KERNELS_GRADIENT_SUMS_H
#define AXN_LIB_KERNELS_GRADIENT_SUMS_H

#include "element.h"
#include "kernels.h"
#include "vector.h"

enum {
  SUMS = 3,    /* of e, g and g * e */
  FLOATS = 16, /* sums of one line side by side, in every variant */
  VECTORS = FLOATS / WIDTH,
  EIGHTS = 8 / HALF,
  TERMS = 16 /* additions in float before a flush to float64 */
};

/* ---- sums: lines that are runs of memory ---- */

typedef struct gradient_lanes {
  vector lanes[SUMS][VECTORS];
} gradient_lanes;

typedef struct gradient_totals {
  wide_vector eights[SUMS][EIGHTS];
} gradient_totals;

INLINE void add_terms(gradient_lanes *sums, int v, vector x, vector g, float mean, float rstd) {
  const vector e = (x - mean) * rstd;
  sums->lanes[0][v] += e;
  sums->lanes[1][v] += g;
  sums->lanes[2][v] += g * e;
}

INLINE void clear_lanes(gradient_lanes *sums) {
  for (int s = 0; s < SUMS; s++) {
    for (int v = 0; v < VECTORS; v++) sums->lanes[s][v] = (vector){0};
  }
}

/* Adds the 16 lanes, those that are eight apart together, to eight float64 ones, and empties them. */
INLINE void flush_lanes(gradient_lanes *sums, gradient_totals *totals) {
  for (int s = 0; s < SUMS; s++) {
    const vector *lanes = sums->lanes[s];
    wide_vector *eights = totals->eights[s];
#if AXN_VECTOR_BYTES == 64
    const __m512 v = (__m512)lanes[0];
    const __m256 sum = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    eights[0] += (wide_vector)_mm512_cvtps_pd(sum);
#else
    for (int v = 0; v < VECTORS / 2; v++) {
      float eight[WIDTH];
      store(eight, lanes[v] + lanes[VECTORS / 2 + v]);
      eights[2 * v] += load_wide(eight);
      eights[2 * v + 1] += load_wide(eight + HALF);
    }
#endif
  }
  clear_lanes(sums);
}

/* The last elements of a run, fewer than there are lanes. The pad is the mean, and 0, so that lanes
 * without a value add nothing. */
INLINE void add_rest(gradient_lanes *sums, const element *x, const element *grad_y,
                     const float *scale, int64_t left, float mean, float rstd) {
  const vector none = {0};
  for (int v = 0; v < VECTORS && left > v * WIDTH; v++) {
    const int64_t here = left - v * WIDTH < WIDTH ? left - v * WIDTH : WIDTH;
    const vector some = load_some_elements(x + v * WIDTH, here, none + mean);
    vector g = load_some_elements(grad_y + v * WIDTH, here, none);
    if (scale != NULL) g *= load_some(scale + v * WIDTH, here, none);
    add_terms(sums, v, some, g, mean, rstd);
  }
}

/* Adds a run to eight lanes of each sum. */
INLINE void add_gradients(const element *x, const element *grad_y, const float *scale,
                          int64_t length, float mean, float rstd, gradient_totals *totals) {
  gradient_lanes sums;
  clear_lanes(&sums);
  for (int64_t first = 0; first < length; first += FLOATS * TERMS) {
    const int64_t end = length - first < FLOATS * TERMS ? length : first + FLOATS * TERMS;
    int64_t i = first;
    for (; i + FLOATS <= end; i += FLOATS) {
      for (int v = 0; v < VECTORS; v++) {
        vector g = load_elements(grad_y + i + v * WIDTH);
        if (scale != NULL) g *= load(scale + i + v * WIDTH);
        add_terms(&sums, v, load_elements(x + i + v * WIDTH), g, mean, rstd);
      }
    }
    if (i < end) {
      add_rest(&sums, x + i, grad_y + i, axn_parameters_at(scale, i), end - i, mean, rstd);
    }
    flush_lanes(&sums, totals);
  }
}

INLINE void sum_lines(const axn_gradient_block *block, const float *scale, axn_gradient_sums out) {
  double eights[SUMS * 8 * AXN_MOST_ROWS];
  const axn_span *span = &block->span;
  const int64_t lines = span->lines;
  for (int64_t l = 0; l < lines; l++) {
    gradient_totals totals;
    for (int i = 0; i < SUMS * EIGHTS; i++)
      totals.eights[i / EIGHTS][i % EIGHTS] = (wide_vector){0};
    const element *x = input_at(block->x, l * span->line_stride);
    const element *grad_y = input_at(block->grad_y, l * block->grad_y_strides.line);
    for (int64_t r = 0; r < span->rows; r++) {
      add_gradients(x, grad_y, scale, span->length, block->mean[l], block->rstd[l], &totals);
      x += span->row_stride;
      grad_y += block->grad_y_strides.row;
    }
    for (int s = 0; s < SUMS; s++) {
      memcpy(eights + 8 * (s * lines + l), totals.eights[s], 8 * sizeof(double));
    }
  }
  double *const results[SUMS] = {out.centred, out.gradient, out.product};
  add_eights(eights, (int)(SUMS * lines));
  for (int s = 0; s < SUMS; s++) {
    memcpy(results[s], eights + s * lines, (size_t)lines * sizeof(double));
  }
}

/* Lines of one element each, which views have: one after the other, as there are no lanes to fill. */
static SMALL void sum_elements(const axn_gradient_block *given, axn_gradient_sums out) {
  const axn_gradient_block block = *given;
  for (int64_t l = 0; l < block.span.lines; l++) {
    const float mean = block.mean[l], rstd = block.rstd[l];
    const element *x = input_at(block.x, l * block.span.line_stride);
    const element *grad_y = input_at(block.grad_y, l * block.grad_y_strides.line);
    double centred = 0, gradient = 0, product = 0;
    for (int64_t r = 0; r < block.span.rows; r++) {
      const float e = ((float)element_value(*x) - mean) * rstd, g = (float)element_value(*grad_y);
      centred += (double)e;
      gradient += (double)g;
      product += (double)(g * e);
      x += block.span.row_stride;
      grad_y += block.grad_y_strides.row;
    }
    out.centred[l] = centred;
    out.gradient[l] = gradient;
    out.product[l] = product;
  }
}

static void gradient_sums_of_rows(const axn_gradient_block *block, axn_gradient_sums out) {
  if (block->span.length == 1) {
    sum_elements(block, out);
  } else {
    sum_lines(block, NULL, out);
  }
}

static void gradient_sums_weighted(const axn_gradient_block *block, axn_gradient_sums out) {
  if (block->scale != NULL) {
    sum_lines(block, block->scale, out);
  } else {
    gradient_sums_of_rows(block, out);
  }
}

/* ---- sums: columns ---- */

INLINE void add_float_sums(double *totals, vector sums) {
  float floats[WIDTH];
  store(floats, sums);
  store_doubles(totals, load_doubles(totals) + load_wide(floats));
  store_doubles(totals + HALF, load_doubles(totals + HALF) + load_wide(floats + HALF));
}

/* Adds at most TERMS rows to the sums of a vector of columns, or of its first `columns`. `scale`: of the first
 * row, where rows have one, else null. */
INLINE void add_column_terms(const axn_gradient_block *block, const element *x,
                             const element *grad_y, const float *scale, int64_t rows, int64_t j,
                             int64_t columns, double totals[SUMS][AXN_LINE_ROOM]) {
  const vector none = {0};
  const bool whole = columns >= WIDTH;
  const int64_t stride = block->span.row_stride, grad_y_stride = block->grad_y_strides.row;
  const vector mean = whole ? load(block->mean + j) : load_some(block->mean + j, columns, none);
  const vector rstd = whole ? load(block->rstd + j) : load_some(block->rstd + j, columns, none);
  vector centred = none, gradient = none, product = none;
  x += j, grad_y += j;
  for (int64_t r = 0; r < rows; r++, x += stride, grad_y += grad_y_stride) {
    fetch(x, TERMS * stride * (int64_t)sizeof *x);
    fetch(grad_y, TERMS * grad_y_stride * (int64_t)sizeof *grad_y);
    const vector value = whole ? load_elements(x) : load_some_elements(x, columns, none);
    vector g = whole ? load_elements(grad_y) : load_some_elements(grad_y, columns, none);
    if (scale != NULL) g *= scale[r * block->parameter_stride];
    const vector e = (value - mean) * rstd;
    centred += e;
    gradient += g;
    product += g * e;
  }
  add_float_sums(totals[0] + j, centred);
  add_float_sums(totals[1] + j, gradient);
  add_float_sums(totals[2] + j, product);
}

INLINE void sum_columns(const axn_gradient_block *given, bool weighted, axn_gradient_sums out) {
  const axn_gradient_block block = *given;
  AXN_LINES_OF_CACHE double totals[SUMS][AXN_LINE_ROOM];
  const axn_span *span = &block.span;
  const int64_t columns = span->lines * span->fold;
  for (int s = 0; s < SUMS; s++) {
    memset(totals[s], 0, (size_t)(columns + WIDTH) * sizeof(double));
  }
  for (int64_t first = 0; first < span->rows; first += TERMS) {
    const int64_t rows = span->rows - first < TERMS ? span->rows - first : TERMS;
    const element *x = input_at(block.x, first * span->row_stride);
    const element *grad_y = input_at(block.grad_y, first * block.grad_y_strides.row);
    const float *scale = weighted ? block.scale + first * block.parameter_stride : NULL;
    int64_t j = 0;
    for (; j + WIDTH <= columns; j += WIDTH) {
      add_column_terms(&block, x, grad_y, scale, rows, j, WIDTH, totals);
    }
    if (j < columns) add_column_terms(&block, x, grad_y, scale, rows, j, columns - j, totals);
  }
  double *const results[SUMS] = {out.centred, out.gradient, out.product};
  for (int s = 0; s < SUMS; s++) {
    add_folds(totals[s], span->lines, span->fold);
    memcpy(results[s], totals[s], (size_t)span->lines * sizeof(double));
  }
}

static void gradient_sums_of_columns(const axn_gradient_block *block, axn_gradient_sums out) {
  if (block->scale != NULL) {
    sum_columns(block, true, out);
  } else {
    sum_columns(block, false, out);
  }
}

#endif
