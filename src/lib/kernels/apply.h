/* SPDX-License-Identifier: MIT */
/* y = (x - mean) * multiplier + offset. */
#ifndef AXN_LIB_KERNELS_APPLY_H
#define AXN_LIB_KERNELS_APPLY_H

#include "kernels.h"
#include "vector.h"

/* A line of the cache that is written by stores of both kinds costs more than streaming saves. Runs that
 * begin and end within a line must be long to make up for it. */
enum { STREAM_RUN = 256, STREAM_ALIGNED_RUN = 64 };

INLINE bool worth_streaming(const float *to, int64_t length) {
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
INLINE void apply_some(const float *x, float *y, int64_t length, const apply_factors *f) {
  const vector none = {0};
  vector v = (load_some(x, length, none) - f->mean) * f->multiplier + f->offset;
  if (f->scale != NULL) v *= load_some(f->scale, length, none);
  if (f->shift != NULL) v += load_some(f->shift, length, none);
  store_some(y, length, v);
}

/* The last vector may overlap the one before; it is read before anything is written, as y may be x. */
INLINE void apply_run(const float *x, float *y, int64_t length, const apply_factors *f,
                      bool streams) {
  if (length < WIDTH) {
    apply_some(x, y, length, f);
    return;
  }
  const vector last = apply_to(load(x + length - WIDTH), f, length - WIDTH);
  int64_t i = 0;
  if (streams && worth_streaming(y, length)) {
    i = until_aligned(y);
    if (i > 0) store(y, apply_to(load(x), f, 0));
    for (; i + WIDTH <= length; i += WIDTH) {
      stream(y + i, apply_to(load(x + i), f, i));
    }
  }
  for (; i + WIDTH <= length; i += WIDTH) store(y + i, apply_to(load(x + i), f, i));
  if (i < length) store(y + length - WIDTH, last);
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
      apply_run(block->x + at, block->y + at, span->length, &factors, block->streams);
    }
  }
}

INLINE void put(float *to, vector v, bool streams) {
  if (streams) {
    stream(to, v);
  } else {
    store(to, v);
  }
}

/* Lines that follow each other without a gap, as one run of aligned vectors; a vector lies in at most two
 * lines, which are no shorter. */
INLINE void apply_sequence(const axn_apply_block *block, const float *x, float *y, bool streams) {
  const int64_t length = block->span.length, total = block->span.lines * length;
  apply_factors factors = factors_of_line(block, 0, NULL, NULL);
  int64_t i = until_aligned(y), end = length;
  if (i > 0) apply_some(x, y, i, &factors);
  for (int64_t line = 0; i + WIDTH <= total; line++, end += length) {
    for (; i + WIDTH <= end; i += WIDTH) put(y + i, apply_to(load(x + i), &factors, 0), streams);
    if (line + 1 == block->span.lines) break;
    const apply_factors next = factors_of_line(block, line + 1, NULL, NULL);
    if (i < end && i + WIDTH <= total) {
      const vector both = load(x + i);
      put(y + i, join(apply_to(both, &factors, 0), apply_to(both, &next, 0), end - i), streams);
      i += WIDTH;
    }
    factors = next;
  }
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
      apply_sequence(block, block->x + at, block->y + at, true);
    } else {
      apply_sequence(block, block->x + at, block->y + at, false);
    }
  }
}

enum { WEIGHTED_AT_ONCE = 4 }; /* lines that share the loads of their parameters */

/* Several lines of whole vectors. */
INLINE void weigh_lines(const axn_apply_block *block, int64_t first, const float *scale,
                        const float *shift) {
  const int64_t length = block->span.length, stride = block->span.line_stride;
  const float *x = block->x + first * stride;
  float *y = block->y + first * stride;
  apply_factors factors[WEIGHTED_AT_ONCE];
  for (int l = 0; l < WEIGHTED_AT_ONCE; l++) {
    factors[l] = factors_of_line(block, first + l, scale, shift);
  }
  for (int64_t i = 0; i < length; i += WIDTH) {
    for (int l = 0; l < WEIGHTED_AT_ONCE; l++) {
      store(y + l * stride + i, apply_to(load(x + l * stride + i), &factors[l], i));
    }
  }
}

INLINE void apply_with_weights(const axn_apply_block *block, const float *scale,
                               const float *shift) {
  axn_apply_block rest = *block;
  int64_t done = 0;
  if (block->span.rows == 1 && block->span.length % WIDTH == 0 && !block->streams) {
    for (; done + WEIGHTED_AT_ONCE <= block->span.lines; done += WEIGHTED_AT_ONCE) {
      weigh_lines(block, done, scale, shift);
    }
  }
  rest.span.lines -= done;
  rest.x += done * rest.span.line_stride;
  rest.y += done * rest.span.line_stride;
  rest.mean += done;
  rest.multiplier += done;
  rest.offset += done;
  apply_lines(&rest, scale, shift);
}

static void apply_weighted(const axn_apply_block *block) {
  if (block->scale != NULL && block->shift != NULL) {
    apply_with_weights(block, block->scale, block->shift);
  } else if (block->scale != NULL) {
    apply_with_weights(block, block->scale, NULL);
  } else {
    apply_with_weights(block, NULL, block->shift);
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

enum { APPLY_ROWS_AT_ONCE = 4 };

/* Some rows of a vector of columns, or of its first `columns`. */
INLINE void apply_columns_at(const axn_apply_block *block, const float *x, float *y, int rows,
                             int64_t j, int64_t columns) {
  const column_transform t = transform_at(block, j, columns);
  const int64_t stride = block->span.row_stride;
  const vector none = {0};
  for (int r = 0; r < rows; r++) {
    const int64_t at = r * stride + j;
    if (columns >= WIDTH) {
      store(y + at, transform(load(x + at), &t));
    } else {
      store_some(y + at, columns, transform(load_some(x + at, columns, none), &t));
    }
  }
}

INLINE void apply_columns_of_rows(const axn_apply_block *block, const float *x, float *y,
                                  int rows) {
  const int64_t columns = block->span.lines;
  int64_t j = 0;
  for (; j + WIDTH <= columns; j += WIDTH) apply_columns_at(block, x, y, rows, j, WIDTH);
  if (j < columns) apply_columns_at(block, x, y, rows, j, columns - j);
}

/* A row whose whole vectors go past the caches. */
INLINE void stream_columns(const axn_apply_block *block, const float *x, float *y) {
  const int64_t columns = block->span.lines;
  int64_t j = until_aligned(y);
  if (j > 0) apply_columns_at(block, x, y, 1, 0, WIDTH);
  for (; j + WIDTH <= columns; j += WIDTH) {
    const column_transform t = transform_at(block, j, WIDTH);
    stream(y + j, transform(load(x + j), &t));
  }
  if (j < columns) apply_columns_at(block, x, y, 1, j, columns - j);
}

static void apply_columns(const axn_apply_block *given) {
  /* A copy that no store can change: its fields stay in registers. */
  const axn_apply_block block = *given;
  const int64_t rows = block.span.rows, stride = block.span.row_stride;
  const bool streams = block.streams && worth_streaming(block.y, block.span.lines);
  int64_t r = 0;
  for (; streams && r < rows; r++)
    stream_columns(&block, block.x + r * stride, block.y + r * stride);
  for (; r + APPLY_ROWS_AT_ONCE <= rows; r += APPLY_ROWS_AT_ONCE) {
    apply_columns_of_rows(&block, block.x + r * stride, block.y + r * stride, APPLY_ROWS_AT_ONCE);
  }
  for (; r < rows; r++) {
    apply_columns_of_rows(&block, block.x + r * stride, block.y + r * stride, 1);
  }
}

#endif
