/* SPDX-License-Identifier: MIT */
/* Sums for the backward pass, and the gradients themselves. */
#ifndef AXN_LIB_KERNELS_GRADIENTS_H
#define AXN_LIB_KERNELS_GRADIENTS_H

#include <math.h>

#include "apply.h"
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
  double eights[SUMS][8 * AXN_MOST_ROWS];
  const axn_span *span = &block->span;
  for (int64_t l = 0; l < span->lines; l++) {
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
    for (int s = 0; s < SUMS; s++) memcpy(eights[s] + 8 * l, totals.eights[s], 8 * sizeof(double));
  }
  double *const results[SUMS] = {out.centred, out.gradient, out.product};
  for (int s = 0; s < SUMS; s++) {
    add_eights(eights[s], (int)span->lines);
    memcpy(results[s], eights[s], (size_t)span->lines * sizeof(double));
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
    sum_lines(block, NULL, out);
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

/* ---- gradient of x ---- */

typedef struct run_factors {
  float mean, rstd, from_gradient, from_value, constant;
  const float *scale; /* per element, or null */
} run_factors;

INLINE vector gradient_at(vector x, vector grad_y, vector scale, bool weighted,
                          const run_factors *f) {
  const vector g = (weighted ? grad_y * scale : grad_y) * f->from_gradient;
  return g + ((x - f->mean) * f->rstd * f->from_value + f->constant);
}

INLINE vector gradient_of_vector(const element *x, const element *grad_y, int64_t at,
                                 const run_factors *f) {
  const bool weighted = f->scale != NULL;
  const vector scale = weighted ? load(f->scale + at) : (vector){0};
  return gradient_at(load_elements(x + at), load_elements(grad_y + at), scale, weighted, f);
}

/* A run shorter than a vector. */
INLINE void gradient_of_some(const element *x, const element *grad_y, element *grad_x,
                             int64_t length, const run_factors *f) {
  const vector none = {0};
  const bool weighted = f->scale != NULL;
  const vector scale = weighted ? load_some(f->scale, length, none) : none;
  store_some_elements(grad_x, length,
                      gradient_at(load_some_elements(x, length, none),
                                  load_some_elements(grad_y, length, none), scale, weighted, f));
}

/* The vectors of a run from `i` on, but for the last one or two; returns where these begin. */
INLINE int64_t gradient_of_vectors(const element *x, const element *grad_y, element *grad_x,
                                   int64_t i, int64_t length, const run_factors *f, bool streams) {
  for (; i + (AT_ONCE + 1) * WIDTH <= length; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) some[v] = gradient_of_vector(x, grad_y, i + v * WIDTH, f);
    for (int v = 0; v < AT_ONCE; v++) put(grad_x + i + v * WIDTH, some[v], streams);
  }
  for (; i + 2 * WIDTH <= length; i += WIDTH) {
    put(grad_x + i, gradient_of_vector(x, grad_y, i, f), streams);
  }
  return i;
}

/* The last vector may overlap the one before, and both are read before either is written, as grad_x may be
 * grad_y. */
INLINE void gradient_of_run(const element *x, const element *grad_y, element *grad_x,
                            int64_t length, const run_factors *f, bool streams) {
  if (length < WIDTH) {
    gradient_of_some(x, grad_y, grad_x, length, f);
    return;
  }
  int64_t i = 0;
  if (streams && worth_streaming(grad_x, length)) {
    i = until_aligned(grad_x);
    if (i > 0) gradient_of_some(x, grad_y, grad_x, i, f);
    i = gradient_of_vectors(x, grad_y, grad_x, i, length, f, true);
    if (i + WIDTH == length) {
      stream_elements(grad_x + i, gradient_of_vector(x, grad_y, i, f));
      return;
    }
  } else {
    i = gradient_of_vectors(x, grad_y, grad_x, 0, length, f, false);
  }
  const vector here = gradient_of_vector(x, grad_y, i, f);
  const vector last = gradient_of_vector(x, grad_y, length - WIDTH, f);
  store_elements(grad_x + i, here);
  store_elements(grad_x + length - WIDTH, last);
}

/* `scale` is per element, or null. */
INLINE run_factors gradient_factors_of(const axn_gradient_block *block, int64_t line,
                                       const float *scale) {
  return (run_factors){block->mean[line],       block->rstd[line],     block->from_gradient[line],
                       block->from_value[line], block->constant[line], scale};
}

INLINE void gradient_of_lines(const axn_gradient_block *block, const float *scale) {
  const axn_span *span = &block->span;
  for (int64_t r = 0; r < span->rows; r++) {
    const element *x = input_at(block->x, r * span->row_stride);
    const element *grad_y = input_at(block->grad_y, r * block->grad_y_strides.row);
    element *grad_x = output_at(block->grad_x, r * span->row_stride);
    for (int64_t l = 0; l < span->lines; l++) {
      const run_factors factors = gradient_factors_of(block, l, scale);
      gradient_of_run(x, grad_y, grad_x, span->length, &factors, block->streams);
      x += span->line_stride;
      grad_y += block->grad_y_strides.line;
      grad_x += span->line_stride;
    }
  }
}

/* Where a vector of a sequence of lines lies, see apply_sequence. */
typedef struct gradient_sequence {
  int64_t line, end;
  run_factors factors;
} gradient_sequence;

INLINE vector gradient_of_next(const axn_gradient_block *block, gradient_sequence *at,
                               const element *x, const element *grad_y, int64_t i) {
  const vector low = gradient_of_vector(x, grad_y, i, &at->factors);
  if (i + WIDTH <= at->end) return low;
  const int64_t first = at->end - i;
  at->factors = gradient_factors_of(block, ++at->line, NULL);
  at->end += block->span.length;
  return join(low, gradient_of_vector(x, grad_y, i, &at->factors), first);
}

/* Lines that follow each other without a gap, see apply_lines_in_sequence(). */
INLINE void gradient_in_sequence(const axn_gradient_block *block, int64_t r, bool streams) {
  const int64_t first = r * block->span.row_stride;
  const element *x = input_at(block->x, first);
  const element *grad_y = input_at(block->grad_y, r * block->grad_y_strides.row);
  element *grad_x = output_at(block->grad_x, first);
  const int64_t length = block->span.length, total = block->span.lines * length;
  gradient_sequence at = {0, length, gradient_factors_of(block, 0, NULL)};
  int64_t i = until_aligned(grad_x);
  if (i > 0) gradient_of_some(x, grad_y, grad_x, i, &at.factors);
  for (; i + AT_ONCE * WIDTH <= total; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) {
      some[v] = gradient_of_next(block, &at, x, grad_y, i + v * WIDTH);
    }
    for (int v = 0; v < AT_ONCE; v++) put(grad_x + i + v * WIDTH, some[v], streams);
  }
  for (; i + WIDTH <= total; i += WIDTH) {
    put(grad_x + i, gradient_of_next(block, &at, x, grad_y, i), streams);
  }
  for (int64_t some; i < total; i += some) {
    const int64_t line = i / length, here = (line + 1) * length - i;
    const run_factors rest = gradient_factors_of(block, line, NULL);
    some = here < total - i ? here : total - i;
    gradient_of_some(x + i, grad_y + i, grad_x + i, some, &rest);
  }
}

INLINE void gradient_of_element(const axn_gradient_block *block, int64_t r, int64_t l) {
  const int64_t at = r * block->span.row_stride + l * block->span.line_stride;
  const int64_t from = r * block->grad_y_strides.row + l * block->grad_y_strides.line;
  const float x = (float)element_value(*input_at(block->x, at));
  const float g = (float)element_value(*input_at(block->grad_y, from)) * block->from_gradient[l];
  *output_at(block->grad_x, at) = nearest_element(
      g + ((x - block->mean[l]) * block->rstd[l] * block->from_value[l] + block->constant[l]));
}

/* See apply_elements(). */
static SMALL void gradient_of_elements(const axn_gradient_block *given) {
  const axn_gradient_block block = *given;
  const axn_span *span = &block.span;
  if (span->line_stride < span->row_stride) {
    for (int64_t r = 0; r < span->rows; r++) {
      for (int64_t l = 0; l < span->lines; l++) gradient_of_element(&block, r, l);
    }
    return;
  }
  for (int64_t l = 0; l < span->lines; l++) {
    for (int64_t r = 0; r < span->rows; r++) gradient_of_element(&block, r, l);
  }
}

static void gradient_of_rows(const axn_gradient_block *block) {
  if (block->span.length == 1) {
    gradient_of_elements(block);
    return;
  }
  if (!is_sequence(&block->span, block->grad_y_strides.line)) {
    gradient_of_lines(block, NULL);
    return;
  }
  for (int64_t r = 0; r < block->span.rows; r++) {
    if (block->streams) {
      gradient_in_sequence(block, r, true);
    } else {
      gradient_in_sequence(block, r, false);
    }
  }
}

static void gradient_weighted(const axn_gradient_block *block) {
  if (block->scale != NULL) {
    gradient_of_lines(block, block->scale);
  } else {
    gradient_of_lines(block, NULL);
  }
}

typedef struct column_factors {
  vector mean, rstd, from_gradient, from_value, constant;
} column_factors;

INLINE vector gradient_of_column_vector(vector x, vector grad_y, const column_factors *f) {
  return grad_y * f->from_gradient + ((x - f->mean) * f->rstd * f->from_value + f->constant);
}

INLINE column_factors factors_of_columns(const axn_gradient_block *block, int64_t j,
                                         int64_t columns) {
  const vector none = {0};
  if (columns >= WIDTH) {
    return (column_factors){load(block->mean + j), load(block->rstd + j),
                            load(block->from_gradient + j), load(block->from_value + j),
                            load(block->constant + j)};
  }
  return (column_factors){load_some(block->mean + j, columns, none),
                          load_some(block->rstd + j, columns, none),
                          load_some(block->from_gradient + j, columns, none),
                          load_some(block->from_value + j, columns, none),
                          load_some(block->constant + j, columns, none)};
}

/* Where a row lies. */
typedef struct gradient_row {
  const element *x, *grad_y;
  element *grad_x;
  const float *scale; /* of the row, or null */
} gradient_row;

/* The vector of a row at column `j`, or the first `columns` of it. */
INLINE vector gradient_of_some_columns(const axn_gradient_block *block, const gradient_row *row,
                                       int64_t j, int64_t columns) {
  const vector none = {0};
  const column_factors factors = factors_of_columns(block, j, columns);
  const element *x = row->x + j, *grad_y = row->grad_y + j;
  const float *scale = row->scale;
  const bool whole = columns >= WIDTH;
  const vector value = whole ? load_elements(x) : load_some_elements(x, columns, none);
  vector g = whole ? load_elements(grad_y) : load_some_elements(grad_y, columns, none);
  if (scale != NULL) g *= *scale;
  return gradient_of_column_vector(value, g, &factors);
}

/* A row, see apply_row(). */
INLINE void gradient_of_row(const axn_gradient_block *block, const gradient_row *row,
                            bool streams) {
  const int64_t columns = block->span.lines;
  element *grad_x = row->grad_x;
  int64_t j = streams ? until_aligned(grad_x) : 0;
  if (j > 0) store_some_elements(grad_x, j, gradient_of_some_columns(block, row, 0, j));
  for (; j + AT_ONCE * WIDTH <= columns; j += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) {
      some[v] = gradient_of_some_columns(block, row, j + v * WIDTH, WIDTH);
    }
    for (int v = 0; v < AT_ONCE; v++) put(grad_x + j + v * WIDTH, some[v], streams);
  }
  for (; j + WIDTH <= columns; j += WIDTH) {
    put(grad_x + j, gradient_of_some_columns(block, row, j, WIDTH), streams);
  }
  if (j < columns) {
    store_some_elements(grad_x + j, columns - j,
                        gradient_of_some_columns(block, row, j, columns - j));
  }
}

INLINE void gradient_of_all_columns(const axn_gradient_block *given, bool weighted) {
  /* A copy that no store can change: its fields stay in registers. */
  const axn_gradient_block block = *given;
  const bool streams = block.streams && worth_streaming(block.grad_x, block.span.lines);
  for (int64_t r = 0; r < block.span.rows; r++) {
    const int64_t at = r * block.span.row_stride;
    const gradient_row row = {
        input_at(block.x, at), input_at(block.grad_y, r * block.grad_y_strides.row),
        output_at(block.grad_x, at), weighted ? block.scale + r * block.parameter_stride : NULL};
    if (weighted) {
      gradient_of_row(&block, &row, streams);
    } else if (streams) {
      gradient_of_row(&block, &row, true);
    } else {
      gradient_of_row(&block, &row, false);
    }
  }
}

static void gradient_of_columns(const axn_gradient_block *block) {
  if (block->scale != NULL) {
    gradient_of_all_columns(block, true);
  } else {
    gradient_of_all_columns(block, false);
  }
}

/* ---- gradients of scale and shift ---- */

/* One parameter in float64, where a few terms in float made a sum overflow that need not. */
static SMALL void add_parameter_exactly(const axn_parameter_block *block, int64_t first,
                                        int64_t rows, int64_t at, bool product, bool gradient) {
  double scale = 0, shift = 0;
  for (int64_t r = first; r < first + rows; r++) {
    const double x = element_value(*input_at(block->x, r * block->row_stride + at));
    const double g = element_value(*input_at(block->grad_y, r * block->grad_y_row_stride + at));
    scale += g * ((x - (double)block->mean[r]) * (double)block->rstd[r] - (double)block->centre[r]);
    shift += g;
  }
  if (product) block->grad_scale[at] += scale;
  if (gradient) block->grad_shift[at] += shift;
}

static SMALL void add_parameters_one_by_one(const axn_parameter_block *block, int64_t first,
                                            int64_t rows, int64_t at, int64_t columns,
                                            const float products[WIDTH],
                                            const float gradients[WIDTH]) {
  for (int64_t i = 0; i < columns; i++) {
    const bool product = isfinite(products[i]), gradient = isfinite(gradients[i]);
    if (product) block->grad_scale[at + i] += (double)products[i];
    if (gradient) block->grad_shift[at + i] += (double)gradients[i];
    if (!product || !gradient) {
      add_parameter_exactly(block, first, rows, at + i, !product, !gradient);
    }
  }
}

/* Adds at most TERMS rows to one vector of parameters. */
INLINE void add_parameters(const axn_parameter_block *block, int64_t first, int64_t rows,
                           int64_t at, int64_t columns) {
  const vector none = {0};
  const bool whole = columns == WIDTH;
  vector product = none, gradient = none;
  for (int64_t r = first; r < first + rows; r++) {
    const element *from = input_at(block->x, r * block->row_stride + at);
    const element *gradients_from = input_at(block->grad_y, r * block->grad_y_row_stride + at);
    const vector x = whole ? load_elements(from) : load_some_elements(from, columns, none);
    const vector g =
        whole ? load_elements(gradients_from) : load_some_elements(gradients_from, columns, none);
    product += g * ((x - block->mean[r]) * block->rstd[r] - block->centre[r]);
    gradient += g;
  }
  float products[WIDTH], gradients[WIDTH];
  store(products, product);
  store(gradients, gradient);
  const vector zero = (product + gradient) * 0;
  if (!whole || any((mask_vector)(zero != zero))) {
    add_parameters_one_by_one(block, first, rows, at, columns, products, gradients);
    return;
  }
  for (int i = 0; i < WIDTH; i += HALF) {
    double *scale = block->grad_scale + at + i, *shift = block->grad_shift + at + i;
    store_doubles(scale, load_doubles(scale) + load_wide(products + i));
    store_doubles(shift, load_doubles(shift) + load_wide(gradients + i));
  }
}

static void parameters(const axn_parameter_block *given) {
  const axn_parameter_block block = *given;
  for (int64_t first = 0; first < block.rows; first += TERMS) {
    const int64_t rows = block.rows - first < TERMS ? block.rows - first : TERMS;
    int64_t at = 0;
    for (; at + WIDTH <= block.columns; at += WIDTH) {
      add_parameters(&block, first, rows, at, WIDTH);
    }
    if (at < block.columns) add_parameters(&block, first, rows, at, block.columns - at);
  }
}

/* Adds a run whose elements have a statistic each to the gradients of one scale and one shift. Lane i of 16
 * in every variant, flushed after TERMS terms. */
static void parameters_of_run(const axn_parameter_run *run, double *scale, double *shift) {
  const element *x = input_at(run->x, 0), *grad_y = input_at(run->grad_y, 0);
  const vector none = {0};
  double product[FLOATS] = {0}, gradient[FLOATS] = {0};
  for (int64_t first = 0; first < run->length; first += FLOATS * TERMS) {
    const int64_t left = run->length - first;
    const int64_t end = first + (left < FLOATS * TERMS ? left : FLOATS * TERMS);
    for (int v = 0; v < VECTORS; v++) {
      vector p = none, g = none;
      for (int64_t i = first + v * WIDTH; i < end; i += FLOATS) {
        const int64_t here = end - i;
        const bool whole = here >= WIDTH;
        const vector dy =
            whole ? load_elements(grad_y + i) : load_some_elements(grad_y + i, here, none);
        const vector value = whole ? load_elements(x + i) : load_some_elements(x + i, here, none);
        const vector mean = whole ? load(run->mean + i) : load_some(run->mean + i, here, none);
        const vector rstd = whole ? load(run->rstd + i) : load_some(run->rstd + i, here, none);
        const vector off = whole ? load(run->centre + i) : load_some(run->centre + i, here, none);
        p += dy * ((value - mean) * rstd - off);
        g += dy;
      }
      add_float_sums(product + v * WIDTH, p);
      add_float_sums(gradient + v * WIDTH, g);
    }
  }
  double products = 0, gradients = 0;
  for (int i = 0; i < FLOATS; i++) products += product[i], gradients += gradient[i];
  *scale += products;
  *shift += gradients;
}

#endif
