/* SPDX-License-Identifier: MIT */
/* The gradient of x. */
#ifndef AXN_LIB_KERNELS_GRADIENTS_H
#define AXN_LIB_KERNELS_GRADIENTS_H

#include "apply.h"
#include "gradient_sums.h"
#include "groups.h"
#include "kernels.h"
#include "vector.h"

/* Of each element of a vector. */
typedef struct column_factors {
  vector mean, rstd, from_gradient, from_value, constant;
} column_factors;

INLINE vector gradient_of_column_vector(vector x, vector grad_y, const column_factors *f) {
  return grad_y * f->from_gradient + ((x - f->mean) * f->rstd * f->from_value + f->constant);
}

typedef struct run_factors {
  column_factors of_line;
  const line_corner *corner; /* or null */
} run_factors;

INLINE vector gradient_of_loaded(vector x, vector grad_y, const run_factors *f) {
  return gradient_of_column_vector(x, past_corner_of_line(x, grad_y, f->corner), &f->of_line);
}

INLINE vector gradient_of_vector(const element *x, const element *grad_y, int64_t at,
                                 const run_factors *f) {
  return gradient_of_loaded(load_elements(x + at), load_elements(grad_y + at), f);
}

/* AT_ONCE vectors. */
INLINE void put_gradients(const element *x, const element *grad_y, element *grad_x, int64_t at,
                          const run_factors *f, bool streams) {
  vector values[AT_ONCE], some[AT_ONCE];
  load_group(values, x + at, false);
  load_group(some, grad_y + at, false);
  for (int v = 0; v < AT_ONCE; v++) some[v] = gradient_of_loaded(values[v], some[v], f);
  put_group(grad_x + at, some, false, streams);
}

/* A run shorter than a vector. */
INLINE void gradient_of_some(const element *x, const element *grad_y, element *grad_x,
                             int64_t length, const run_factors *f) {
  const vector none = {0};
  const vector value = load_some_elements(x, length, none);
  const vector g = load_some_elements(grad_y, length, none);
  store_some_elements(grad_x, length, gradient_of_loaded(value, g, f));
}

/* The vectors of a run from `i` on, but for the last two if these overlap; returns where it ends. */
INLINE int64_t gradient_of_vectors(const element *x, const element *grad_y, element *grad_x,
                                   int64_t i, int64_t length, const run_factors *f, bool streams) {
  const int64_t end = end_of_vectors(i, length);
  for (; i + AT_ONCE * WIDTH <= end; i += AT_ONCE * WIDTH) {
    put_gradients(x, grad_y, grad_x, i, f, streams);
  }
  ROLLED for (; i < end; i += WIDTH) {
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
  } else {
    i = gradient_of_vectors(x, grad_y, grad_x, 0, length, f, false);
  }
  if (i == length) return;
  const vector here = gradient_of_vector(x, grad_y, i, f);
  const vector last = gradient_of_vector(x, grad_y, length - WIDTH, f);
  store_elements(grad_x + i, here);
  store_elements(grad_x + length - WIDTH, last);
}

/* A line's for all elements. */
INLINE column_factors gradient_factors_of_line(const axn_gradient_block *block, int64_t line) {
  return (column_factors){every(block->mean[line]), every(block->rstd[line]),
                          every(block->from_gradient[line]), every(block->from_value[line]),
                          every(block->constant[line])};
}

INLINE run_factors gradient_factors_of(const axn_gradient_block *block, int64_t line) {
  return (run_factors){gradient_factors_of_line(block, line), NULL};
}

/* A run of a line whose grad_y has yet to go through a corner; there once, for both kinds of stores. */
static __attribute__((noinline)) void gradient_of_run_past_corner(const axn_gradient_block *block,
                                                                  int64_t line, const element *x,
                                                                  const element *grad_y,
                                                                  element *grad_x) {
  const line_corner c = corner_of_line(block, line);
  const int64_t length = block->span.length;
  run_factors f = gradient_factors_of(block, line);
  f.corner = &c;
  const bool streams = block->streams && length >= WIDTH && worth_streaming(grad_x, length);
  int64_t i = length < WIDTH ? length : streams ? until_aligned(grad_x) : 0;
  if (i > 0) gradient_of_some(x, grad_y, grad_x, i, &f);
  for (; i + AT_ONCE * WIDTH <= length; i += AT_ONCE * WIDTH) {
    put_gradients(x, grad_y, grad_x, i, &f, streams);
  }
  /* The last vector may overlap the one before. */
  ROLLED for (; i < length; i += WIDTH) {
    const int64_t at = i + WIDTH <= length ? i : length - WIDTH;
    put(grad_x + at, gradient_of_vector(x, grad_y, at, &f), streams && at == i);
  }
}

/* `past_corner`: grad_y has yet to go through one. */
INLINE void gradient_of_lines(const axn_gradient_block *block, bool past_corner) {
  const axn_span *span = &block->span;
  for (int64_t r = 0; r < span->rows; r++) {
    const element *x = input_at(block->x, r * span->row_stride);
    const element *grad_y = input_at(block->grad_y, r * block->grad_y_strides.row);
    element *grad_x = output_at(block->grad_x, r * span->row_stride);
    for (int64_t l = 0; l < span->lines; l++) {
      if (past_corner) {
        gradient_of_run_past_corner(block, l, x, grad_y, grad_x);
      } else {
        const run_factors factors = gradient_factors_of(block, l);
        gradient_of_run(x, grad_y, grad_x, span->length, &factors, block->streams);
      }
      x += span->line_stride;
      grad_y += block->grad_y_strides.line;
      grad_x += span->line_stride;
    }
  }
}

/* Where a vector of a sequence of lines lies, see apply_sequence. */
typedef struct gradient_sequence {
  int64_t line, end;
  column_factors factors;
} gradient_sequence;

INLINE vector gradient_of_next(const axn_gradient_block *block, gradient_sequence *at,
                               const element *x, const element *grad_y, int64_t i) {
  const vector value = load_elements(x + i), given = load_elements(grad_y + i);
  const vector low = gradient_of_column_vector(value, given, &at->factors);
  if (i + WIDTH <= at->end) return low;
  const int64_t first = at->end - i;
  at->factors = gradient_factors_of_line(block, ++at->line);
  at->end += block->span.length;
  return join(low, gradient_of_column_vector(value, given, &at->factors), first);
}

/* Lines that follow each other without a gap, see apply_lines_in_sequence(). */
INLINE void gradient_in_sequence(const axn_gradient_block *block, int64_t r) {
  const int64_t first = r * block->span.row_stride;
  const element *x = input_at(block->x, first);
  const element *grad_y = input_at(block->grad_y, r * block->grad_y_strides.row);
  element *grad_x = output_at(block->grad_x, first);
  const int64_t length = block->span.length, total = block->span.lines * length;
  const bool streams = block->streams;
  gradient_sequence at = {0, length, gradient_factors_of_line(block, 0)};
  int64_t i = until_aligned(grad_x);
  if (i > 0) {
    const run_factors start = gradient_factors_of(block, 0);
    gradient_of_some(x, grad_y, grad_x, i, &start);
  }
  for (; i + AT_ONCE * WIDTH <= total; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) {
      some[v] = gradient_of_next(block, &at, x, grad_y, i + v * WIDTH);
    }
    put_all(grad_x + i, some, AT_ONCE, streams);
  }
  for (; i + WIDTH <= total; i += WIDTH) {
    put(grad_x + i, gradient_of_next(block, &at, x, grad_y, i), streams);
  }
  for (int64_t some; i < total; i += some) {
    const int64_t line = i / length, here = (line + 1) * length - i;
    const run_factors rest = gradient_factors_of(block, line);
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
  if (block->corner != NULL) {
    gradient_of_lines(block, true);
  } else if (block->span.length == 1) {
    gradient_of_elements(block);
  } else if (!is_sequence(&block->span, block->grad_y_strides.line)) {
    gradient_of_lines(block, false);
  } else {
    for (int64_t r = 0; r < block->span.rows; r++) gradient_in_sequence(block, r);
  }
}

/* ---- with a scale per element, and the sums of the parameters ---- */

/* A vector of a row. The last two operands are sums of the parameters, if they are due. */
INLINE vector gradient_and_sums(const axn_gradient_block *block, int64_t row, vector x,
                                vector grad_y, vector scale, vector *product, vector *gradient) {
  const vector e = (x - block->mean[row]) * block->rstd[row];
  if (block->products != NULL) {
    *product += grad_y * (e - block->centre[row]);
    *gradient += grad_y;
  }
  return grad_y * scale * block->from_gradient[row] +
         (e * block->from_value[row] + block->constant[row]);
}

INLINE void note_overflow(const axn_gradient_block *block, vector sum) {
  const vector zero = sum * 0;
  if (any((mask_vector)(zero != zero))) *block->overflowed = true;
}

/* At most a vector of each row. */
static __attribute__((noinline)) void weigh_some(const axn_gradient_block *block, int64_t i,
                                                 int64_t count) {
  const vector none = {0}, scale = load_some(block->scale + i, count, none);
  const bool adds = block->products != NULL && !block->starts;
  vector product = adds ? load_some(block->products + i, count, none) : none;
  vector gradient = adds ? load_some(block->gradients + i, count, none) : none;
  const element *x = input_at(block->x, i), *grad_y = input_at(block->grad_y, i);
  element *grad_x = output_at(block->grad_x, i);
  for (int64_t r = 0; r < block->span.lines; r++) {
    const vector value = load_some_elements(x, count, none);
    const vector g = load_some_elements(grad_y, count, none);
    store_some_elements(grad_x, count,
                        gradient_and_sums(block, r, value, g, scale, &product, &gradient));
    x += block->span.line_stride, grad_x += block->span.line_stride;
    grad_y += block->grad_y_strides.line;
  }
  if (block->products == NULL) return;
  store_some(block->products + i, count, product);
  store_some(block->gradients + i, count, gradient);
  if (block->overflowed != NULL) note_overflow(block, product + gradient);
}

/* So many vectors of each row, AT_ONCE at most, whose sums stay in registers. */
INLINE void weigh_vectors(const axn_gradient_block *block, int64_t i, int count, bool streams) {
  enum { LINE = 64 / sizeof(element) };
  const vector none = {0};
  const bool adds = block->products != NULL && !block->starts;
  vector products[AT_ONCE], gradients[AT_ONCE], scale[AT_ONCE];
  for (int v = 0; v < count; v++) {
    scale[v] = load(block->scale + i + v * WIDTH);
    products[v] = adds ? load(block->products + i + v * WIDTH) : none;
    gradients[v] = adds ? load(block->gradients + i + v * WIDTH) : none;
  }
  const element *x = input_at(block->x, i), *grad_y = input_at(block->grad_y, i);
  element *grad_x = output_at(block->grad_x, i);
  for (int64_t r = 0; r < block->span.lines; r++) {
    vector some[AT_ONCE];
    for (int at = 0; at < count * WIDTH; at += LINE) fetch(x + at, block->ahead);
    for (int v = 0; v < count; v++) {
      some[v] = gradient_and_sums(block, r, load_elements(x + v * WIDTH),
                                  load_elements(grad_y + v * WIDTH), scale[v], &products[v],
                                  &gradients[v]);
    }
    put_all(grad_x, some, count, streams);
    x += block->span.line_stride, grad_x += block->span.line_stride;
    grad_y += block->grad_y_strides.line;
  }
  if (block->products == NULL) return;
  for (int v = 0; v < count; v++) {
    store(block->products + i + v * WIDTH, products[v]);
    store(block->gradients + i + v * WIDTH, gradients[v]);
  }
  if (block->overflowed == NULL) return;
  vector sum = none;
  for (int v = 0; v < count; v++) sum += products[v] + gradients[v];
  note_overflow(block, sum);
}

/* Rows whose elements have a scale each: once for what gradient_of_lines() would give and, if they are due, for the
 * sums that parameters() gives, with the same operations in the same order. What is loaded together is stored
 * afterwards, as grad_x may be grad_y. */
static void gradient_of_weighted_lines(const axn_gradient_block *given) {
  /* A copy that no store can change: its fields stay in registers. */
  const axn_gradient_block block = *given;
  const int64_t length = block.span.length;
  const bool aligned =
      block.span.lines == 1 || block.span.line_stride * (int64_t)sizeof(element) % 64 == 0;
  const bool streams = block.streams && worth_streaming(block.grad_x, length) && aligned;
  int64_t i = streams ? until_aligned(block.grad_x) : 0;
  if (i > 0) weigh_some(given, 0, i);
  for (; i + AT_ONCE * WIDTH <= length; i += AT_ONCE * WIDTH) {
    weigh_vectors(&block, i, AT_ONCE, streams);
  }
  for (; i + 2 * WIDTH <= length; i += 2 * WIDTH) weigh_vectors(&block, i, 2, streams);
  for (; i < length; i += WIDTH) weigh_some(given, i, length - i < WIDTH ? length - i : WIDTH);
}

static void gradient_weighted(const axn_gradient_block *block) {
  if (block->scale != NULL) {
    gradient_of_weighted_lines(block);
  } else {
    gradient_of_rows(block);
  }
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
  bool past_corner;   /* grad_y has yet to go through one, */
  corner corner;      /* this one */
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
  if (row->past_corner) {
    g = past_corner_of_columns(block, j, columns, value - factors.mean, g, &row->corner);
  }
  if (scale != NULL) g *= *scale;
  return gradient_of_column_vector(value, g, &factors);
}

/* Fewer columns than a vector has; there once. The row is a copy, so that the caller's stays in registers. */
static __attribute__((noinline)) void
put_some_columns(const axn_gradient_block *block, gradient_row row, int64_t j, int64_t columns) {
  store_some_elements(row.grad_x + j, columns, gradient_of_some_columns(block, &row, j, columns));
}

/* A row, see apply_row(). */
INLINE void gradient_of_row(const axn_gradient_block *given, const axn_gradient_block *block,
                            const gradient_row *row, bool streams) {
  const int64_t columns = block->span.lines;
  element *grad_x = row->grad_x;
  int64_t j = streams ? until_aligned(grad_x) : 0;
  if (j > 0) put_some_columns(given, *row, 0, j);
  for (; j + AT_ONCE * WIDTH <= columns; j += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) {
      some[v] = gradient_of_some_columns(block, row, j + v * WIDTH, WIDTH);
    }
    put_all(grad_x + j, some, AT_ONCE, streams);
  }
  for (; j + WIDTH <= columns; j += WIDTH) {
    put(grad_x + j, gradient_of_some_columns(block, row, j, WIDTH), streams);
  }
  if (j < columns) put_some_columns(given, *row, j, columns - j);
}

/* `plain`: with neither a scale nor a corner. */
INLINE void gradient_of_all_columns(const axn_gradient_block *given, bool plain) {
  /* A copy that no store can change: its fields stay in registers. */
  const axn_gradient_block block = *given;
  const bool streams = block.streams && worth_streaming(block.grad_x, block.span.lines);
  const bool past_corner = !plain && block.corner != NULL;
  for (int64_t r = 0; r < block.span.rows; r++) {
    const int64_t at = r * block.span.row_stride;
    const gradient_row row = {input_at(block.x, at),
                              input_at(block.grad_y, r * block.grad_y_strides.row),
                              output_at(block.grad_x, at),
                              plain ? NULL
                                    : axn_parameters_at(block.scale, r * block.parameter_stride),
                              past_corner,
                              past_corner ? corner_of(block.corner) : (corner){0}};
    if (!plain) {
      gradient_of_row(given, &block, &row, streams);
    } else if (streams) {
      gradient_of_row(given, &block, &row, true);
    } else {
      gradient_of_row(given, &block, &row, false);
    }
  }
}

static void gradient_of_columns(const axn_gradient_block *block) {
  if (block->scale != NULL || block->corner != NULL) {
    gradient_of_all_columns(block, false);
  } else {
    gradient_of_all_columns(block, true);
  }
}

#endif
