/* SPDX-License-Identifier: MIT */
/* y = (x - mean) * multiplier + offset. */
#ifndef AXN_LIB_KERNELS_APPLY_H
#define AXN_LIB_KERNELS_APPLY_H

#include "element.h"
#include "kernels.h"

/* A line of the cache that is written by stores of both kinds costs more than streaming saves. Runs that
 * begin and end within a line must be long to make up for it. */
enum { STREAM_RUN = 256, STREAM_ALIGNED_RUN = 64 };

INLINE bool worth_streaming(const element *to, int64_t length) {
  if (length >= STREAM_RUN) return true;
  return length >= STREAM_ALIGNED_RUN && length % WIDTH == 0 && until_aligned(to) == 0;
}

/* What meets the elements of a run: the same for all of it, or, where not null, one per element. */
typedef struct apply_factors {
  float mean, multiplier, offset;
  const float *scale, *shift;
} apply_factors;

INLINE vector apply_to(vector x, const apply_factors *f, int64_t at) {
  vector y = (x - f->mean) * f->multiplier + f->offset;
  if (f->scale != NULL) y *= load(f->scale + at);
  if (f->shift != NULL) y += load(f->shift + at);
  return y;
}

/* A run shorter than a vector. */
INLINE void apply_some(const element *x, element *y, int64_t length, const apply_factors *f) {
  const vector none = {0};
  vector v = (load_some_elements(x, length, none) - f->mean) * f->multiplier + f->offset;
  if (f->scale != NULL) v *= load_some(f->scale, length, none);
  if (f->shift != NULL) v += load_some(f->shift, length, none);
  store_some_elements(y, length, v);
}

/* The vectors of a run from `i` on, but for the last one or two; returns where these begin. */
INLINE int64_t apply_vectors(const element *x, element *y, int64_t i, int64_t length,
                             const apply_factors *f, bool streams) {
  for (; i + (AT_ONCE + 1) * WIDTH <= length; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++)
      some[v] = apply_to(load_elements(x + i + v * WIDTH), f, i + v * WIDTH);
    for (int v = 0; v < AT_ONCE; v++) put(y + i + v * WIDTH, some[v], streams);
  }
  for (; i + 2 * WIDTH <= length; i += WIDTH)
    put(y + i, apply_to(load_elements(x + i), f, i), streams);
  return i;
}

/* The last vector may overlap the one before, and both are read before either is written, as y may be x. */
INLINE void apply_run(const element *x, element *y, int64_t length, const apply_factors *f,
                      bool streams) {
  if (length < WIDTH) {
    apply_some(x, y, length, f);
    return;
  }
  int64_t i = 0;
  if (streams && worth_streaming(y, length)) {
    i = until_aligned(y);
    if (i > 0) apply_some(x, y, i, f);
    i = apply_vectors(x, y, i, length, f, true);
    if (i + WIDTH == length) {
      stream_elements(y + i, apply_to(load_elements(x + i), f, i));
      return;
    }
  } else {
    i = apply_vectors(x, y, 0, length, f, false);
  }
  const vector here = apply_to(load_elements(x + i), f, i);
  const vector last = apply_to(load_elements(x + length - WIDTH), f, length - WIDTH);
  store_elements(y + i, here);
  store_elements(y + length - WIDTH, last);
}

/* `scale` and `shift` are per element, or null. */
INLINE apply_factors factors_of_line(const axn_apply_block *block, int64_t line, const float *scale,
                                     const float *shift) {
  return (apply_factors){block->mean[line], block->multiplier[line], block->offset[line], scale,
                         shift};
}

INLINE void apply_lines(const axn_apply_block *block, const float *scale, const float *shift) {
  const axn_span *span = &block->span;
  for (int64_t r = 0; r < span->rows; r++) {
    for (int64_t l = 0; l < span->lines; l++) {
      const int64_t at = r * span->row_stride + l * span->line_stride;
      const apply_factors factors = factors_of_line(block, l, scale, shift);
      apply_run(input_at(block->x, at), output_at(block->y, at), span->length, &factors,
                block->streams);
    }
  }
}

/* Where a vector of a sequence of lines lies. */
typedef struct apply_sequence {
  int64_t line, end; /* the line that the vector begins in, and where that ends */
  apply_factors factors;
} apply_sequence;

/* The vector at `i`, which follows the one before; it lies in at most two lines. */
INLINE vector apply_next(const axn_apply_block *block, apply_sequence *at, const element *x,
                         int64_t i) {
  const vector in = load_elements(x + i), low = apply_to(in, &at->factors, 0);
  if (i + WIDTH <= at->end) return low;
  const int64_t first = at->end - i;
  at->factors = factors_of_line(block, ++at->line, NULL, NULL);
  at->end += block->span.length;
  return join(low, apply_to(in, &at->factors, 0), first);
}

/* Lines that follow each other without a gap, no shorter than a vector, as one run of aligned vectors. */
INLINE void apply_lines_in_sequence(const axn_apply_block *block, const element *x, element *y,
                                    bool streams) {
  const int64_t length = block->span.length, total = block->span.lines * length;
  apply_sequence at = {0, length, factors_of_line(block, 0, NULL, NULL)};
  int64_t i = until_aligned(y);
  if (i > 0) apply_some(x, y, i, &at.factors);
  for (; i + AT_ONCE * WIDTH <= total; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) some[v] = apply_next(block, &at, x, i + v * WIDTH);
    for (int v = 0; v < AT_ONCE; v++) put(y + i + v * WIDTH, some[v], streams);
  }
  for (; i + WIDTH <= total; i += WIDTH) put(y + i, apply_next(block, &at, x, i), streams);
  for (int64_t some; i < total; i += some) {
    const int64_t line = i / length, here = (line + 1) * length - i;
    const apply_factors rest = factors_of_line(block, line, NULL, NULL);
    some = here < total - i ? here : total - i;
    apply_some(x + i, y + i, some, &rest);
  }
}

/* Whether lines are better taken as one run than each by itself: few of them would begin aligned. */
INLINE bool is_sequence(const axn_span *span) {
  return span->lines > 1 && span->line_stride == span->length && span->length >= WIDTH &&
         span->length % WIDTH != 0;
}

static void apply_rows(const axn_apply_block *block) {
  if (!is_sequence(&block->span)) {
    apply_lines(block, NULL, NULL);
    return;
  }
  for (int64_t r = 0; r < block->span.rows; r++) {
    const int64_t at = r * block->span.row_stride;
    if (block->streams) {
      apply_lines_in_sequence(block, input_at(block->x, at), output_at(block->y, at), true);
    } else {
      apply_lines_in_sequence(block, input_at(block->x, at), output_at(block->y, at), false);
    }
  }
}

static void apply_weighted(const axn_apply_block *block) {
  if (block->scale != NULL && block->shift != NULL) {
    apply_lines(block, block->scale, block->shift);
  } else if (block->scale != NULL) {
    apply_lines(block, block->scale, NULL);
  } else {
    apply_lines(block, NULL, block->shift);
  }
}

typedef struct column_transform {
  vector mean, multiplier, offset;
} column_transform;

INLINE column_transform transform_at(const axn_apply_block *block, int64_t j, int64_t columns) {
  const vector none = {0};
  if (columns >= WIDTH) {
    return (column_transform){load(block->mean + j), load(block->multiplier + j),
                              load(block->offset + j)};
  }
  return (column_transform){load_some(block->mean + j, columns, none),
                            load_some(block->multiplier + j, columns, none),
                            load_some(block->offset + j, columns, none)};
}

INLINE vector transform(vector x, const column_transform *t) {
  return (x - t->mean) * t->multiplier + t->offset;
}

/* The vector of a row at column `j`, or the first `columns` of it. */
INLINE vector transform_columns(const axn_apply_block *block, const element *x, int64_t j,
                                int64_t columns) {
  const column_transform t = transform_at(block, j, columns);
  return transform(columns >= WIDTH ? load_elements(x + j)
                                    : load_some_elements(x + j, columns, (vector){0}),
                   &t);
}

/* A row: its factors come from first-level cache each time, which costs less than to walk several rows at
 * once, whose distance is often a power of two. */
INLINE void apply_row(const axn_apply_block *block, const element *x, element *y, bool streams) {
  const int64_t columns = block->span.lines;
  int64_t j = streams ? until_aligned(y) : 0;
  if (j > 0) store_some_elements(y, j, transform_columns(block, x, 0, j));
  for (; j + AT_ONCE * WIDTH <= columns; j += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) {
      some[v] = transform_columns(block, x, j + v * WIDTH, WIDTH);
    }
    for (int v = 0; v < AT_ONCE; v++) put(y + j + v * WIDTH, some[v], streams);
  }
  for (; j + WIDTH <= columns; j += WIDTH) {
    put(y + j, transform_columns(block, x, j, WIDTH), streams);
  }
  if (j < columns)
    store_some_elements(y + j, columns - j, transform_columns(block, x, j, columns - j));
}

static void apply_columns(const axn_apply_block *given) {
  /* A copy that no store can change: its fields stay in registers. */
  const axn_apply_block block = *given;
  const int64_t stride = block.span.row_stride;
  const element *x = input_at(block.x, 0);
  element *y = output_at(block.y, 0);
  const bool streams = block.streams && worth_streaming(block.y, block.span.lines);
  for (int64_t r = 0; r < block.span.rows; r++) {
    if (streams) {
      apply_row(&block, x + r * stride, y + r * stride, true);
    } else {
      apply_row(&block, x + r * stride, y + r * stride, false);
    }
  }
}

#endif
