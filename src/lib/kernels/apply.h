/* SPDX-License-Identifier: MIT */
/* y = (x - mean) * multiplier + offset, and what ends a pass. */
#ifndef AXN_LIB_KERNELS_APPLY_H
#define AXN_LIB_KERNELS_APPLY_H

#include "element.h"
#include "ending.h"
#include "groups.h"
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
  bool clamps;
  const float *scale, *shift;
} apply_factors;

INLINE vector normalized(vector x, const apply_factors *f) {
  return (x - f->mean) * f->multiplier + f->offset;
}

INLINE vector apply_to(vector x, const apply_factors *f, int64_t at) {
  vector y = normalized(x, f);
  if (f->scale != NULL) y *= load(f->scale + at);
  if (f->shift != NULL) y += load(f->shift + at);
  return y;
}

/* Where a run lies. */
typedef struct apply_place {
  const element *x;
  element *y;
  int64_t at; /* of it, in what the ending's pointers point to */
} apply_place;

/* The beginning of a row. */
INLINE apply_place place_at(const axn_apply_block *block, int64_t r, const axn_ending *ending) {
  return (apply_place){input_at(block->x, r * block->span.row_stride),
                       output_at(block->y, r * block->y_strides.row),
                       ending == NULL ? 0 : r * ending->strides.row};
}

/* A vector of a run. */
INLINE vector apply_at(const apply_place *run, int64_t i, const apply_factors *f) {
  return apply_to(load_elements(run->x + i), f, i);
}

/* Elements as floats: where they lie, or converted. */
INLINE const float *floats_of(const element *from, int count, vector *room) {
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32
  (void)count, (void)room;
  return from;
#else
  for (int v = 0; v < count; v++) room[v] = load_elements(from + v * WIDTH);
  return (const float *)room;
#endif
}

/* Where the activation writes floats: to where they belong, or back, for there is more to do. */
INLINE float *floats_to(element *to, bool streams, vector *back) {
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32
  return streams ? (float *)back : to;
#else
  (void)to, (void)streams;
  return (float *)back;
#endif
}

/* Activates vectors that have their residual, and writes them: those that lie side by side from offset `i` on, and
 * the last, at an offset of its own. What is written before it may be where its gradient is. */
static __attribute__((noinline, unused)) void end_and_put(vector *some, int count,
                                                          const apply_place *run, int64_t i,
                                                          int64_t last, const axn_ending *ending,
                                                          bool streams) {
  vector gradients[ENDED], last_gradient, *const last_one = some + count - 1;
  const bool last_streams = streams && last == i + (count - 1) * WIDTH;
  activated all = {.z = some,
                   .count = count,
                   .to = floats_to(run->y + i, streams, some),
                   .last = floats_to(run->y + last, last_streams, last_one)};
  if (ending->gradient != NULL) {
    const element *gradient = input_at(ending->gradient, run->at);
    all.gradient = floats_of(gradient + i, count - 1, gradients);
    last_gradient = load_elements(gradient + last);
    all.last_gradient = (const float *)&last_gradient;
  }
  AXN_SHARED(activate, AXN_VARIANT)(&all, ending);
  if (all.to == (float *)some) put_all(run->y + i, some, count - 1, streams);
  if (all.last == (float *)last_one) put(run->y + last, *last_one, last_streams);
}

/* How many vectors to end at a time, of so many. */
INLINE int count_of_ended(int64_t vectors) {
  return (int)(vectors < ENDED ? vectors : ENDED);
}

/* Some elements, fewer than a vector has, from `i` on, whose factors begin with them. */
INLINE void apply_some(const apply_place *run, int64_t i, int64_t length, const apply_factors *f,
                       const axn_ending *ending) {
  const vector none = {0};
  vector v = normalized(load_some_elements(run->x + i, length, none), f);
  if (f->scale != NULL) v *= load_some(f->scale, length, none);
  if (f->shift != NULL) v += load_some(f->shift, length, none);
  store_some_elements(run->y + i, length, end_some(v, length, run->at + i, ending, f->clamps));
}

/* Where the vectors of a run from `i` on end: with it, or before the last two if these overlap. */
INLINE int64_t end_of_vectors(int64_t i, int64_t length) {
  const int64_t whole = (length - i) / WIDTH * WIDTH;
  return i + whole == length ? length : i + whole - WIDTH;
}

/* The vectors of a run from `i` on, but for the last two if these overlap; returns where it ends. */
INLINE int64_t apply_vectors(const apply_place *run, int64_t i, int64_t length,
                             const apply_factors *f, const axn_ending *ending, bool streams) {
  const int64_t end = end_of_vectors(i, length);
  const bool in_order =
      AXN_VECTOR_BYTES == 64 || ending != NULL || f->scale != NULL || f->shift != NULL;
  for (; i + AT_ONCE * WIDTH <= end; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    load_group(some, run->x + i, in_order);
    for (int v = 0; v < AT_ONCE; v++) some[v] = apply_to(some[v], f, i + v * WIDTH);
    end_simply(some, AT_ONCE, run->at + i, ending, f->clamps);
    put_group(run->y + i, some, in_order, streams);
  }
  ROLLED for (; i < end; i += WIDTH) {
    vector one = apply_at(run, i, f);
    end_simply(&one, 1, run->at + i, ending, f->clamps);
    put(run->y + i, one, streams);
  }
  return i;
}

/* The last vector may overlap the one before, and both are read before either is written, as y may be x. */
INLINE void apply_whole_run(const apply_place *run, int64_t length, const apply_factors *f,
                            const axn_ending *ending, bool streams) {
  int64_t i = streams ? until_aligned(run->y) : 0;
  if (i > 0) apply_some(run, 0, i, f, ending);
  i = apply_vectors(run, i, length, f, ending, streams);
  if (i == length) return;
  vector here = apply_at(run, i, f), last = apply_at(run, length - WIDTH, f);
  end_simply(&here, 1, run->at + i, ending, f->clamps);
  end_simply(&last, 1, run->at + length - WIDTH, ending, f->clamps);
  store_elements(run->y + i, here);
  store_elements(run->y + length - WIDTH, last);
}

/* Vectors as they come to an activation, side by side from offset `i` on, but for the last. Mostly there is so little
 * to them that a branch or two would be much of it; not so where elements are converted. */
INLINE void begin_ended(vector *some, int count, const apply_place *run, int64_t i, int64_t last,
                        const apply_factors *f, const axn_ending *ending) {
  const bool more = f->scale != NULL || f->shift != NULL || ending->residual != NULL;
  if (AXN_ELEMENT == AXN_ELEMENT_FLOAT32 && !more) {
    for (int v = 0; v + 1 < count; v++) {
      some[v] = normalized(load_elements(run->x + i + v * WIDTH), f);
    }
    some[count - 1] = normalized(load_elements(run->x + last), f);
    return;
  }
  for (int v = 0; v < count; v++) {
    const int64_t here = v + 1 < count ? i + v * WIDTH : last;
    some[v] = with_residual(apply_at(run, here, f), run->at + here, ending);
  }
}

/* The same with an ending that is not simple. The last vector and the one before end at the same time. */
INLINE void apply_run_and_activate(const apply_place *run, int64_t length, const apply_factors *f,
                                   const axn_ending *ending, bool streams) {
  int64_t i = streams ? until_aligned(run->y) : 0;
  if (i > 0) apply_some(run, 0, i, f, ending);
  while (i < length) {
    vector some[ENDED];
    const int64_t left = (length - i + WIDTH - 1) / WIDTH;
    const int count = left <= ENDED ? (int)left : ENDED - 1;
    const int64_t next = i + (count - 1) * WIDTH, end = length - WIDTH;
    const int64_t last = next < end ? next : end;
    begin_ended(some, count, run, i, last, f, ending);
    end_and_put(some, count, run, i, last, ending, streams);
    i += count * WIDTH;
  }
}

/* There once, for runs with parameters of all kinds: beside an ending the choice is little. */
static __attribute__((noinline)) void apply_run_and_end(const apply_place *run, int64_t length,
                                                        const apply_factors *f,
                                                        const axn_ending *ending, bool streams) {
  if (is_simple(ending)) {
    apply_whole_run(run, length, f, ending, streams);
  } else {
    apply_run_and_activate(run, length, f, ending, streams);
  }
}

INLINE void apply_run(const apply_place *run, int64_t length, const apply_factors *f,
                      const axn_ending *ending, bool streams) {
  const bool past = streams && length >= WIDTH && worth_streaming(run->y, length);
  if (length < WIDTH) {
    apply_some(run, 0, length, f, ending);
  } else if (ending != NULL) {
    apply_run_and_end(run, length, f, ending, past);
  } else if (past) {
    apply_whole_run(run, length, f, NULL, true);
  } else {
    apply_whole_run(run, length, f, NULL, false);
  }
}

/* `scale` and `shift` are per element, or null. */
INLINE apply_factors factors_of_line(const axn_apply_block *block, int64_t line, const float *scale,
                                     const float *shift) {
  return (apply_factors){block->mean[line],
                         block->multiplier[line],
                         block->offset[line],
                         block->ending.clamps,
                         scale,
                         shift};
}

INLINE void apply_element(const axn_apply_block *block, int64_t r, int64_t l) {
  const int64_t from = r * block->span.row_stride + l * block->span.line_stride;
  const int64_t to = r * block->y_strides.row + l * block->y_strides.line;
  const float x = (float)element_value(*input_at(block->x, from));
  const float y = (x - block->mean[l]) * block->multiplier[l] + block->offset[l];
  *output_at(block->y, to) = nearest_element(block->ending.clamps && y < 0 ? 0 : y);
}

/* Lines of one element each, which views have, in the order of memory. */
static SMALL void apply_elements(const axn_apply_block *given) {
  const axn_apply_block block = *given;
  const axn_span *span = &block.span;
  if (span->line_stride < span->row_stride) {
    for (int64_t r = 0; r < span->rows; r++) {
      for (int64_t l = 0; l < span->lines; l++) apply_element(&block, r, l);
    }
    return;
  }
  for (int64_t l = 0; l < span->lines; l++) {
    for (int64_t r = 0; r < span->rows; r++) apply_element(&block, r, l);
  }
}

INLINE void apply_lines(const axn_apply_block *block, const float *scale, const float *shift,
                        const axn_ending *ending) {
  const axn_span *span = &block->span;
  for (int64_t r = 0; r < span->rows; r++) {
    apply_place run = place_at(block, r, ending);
    for (int64_t l = 0; l < span->lines; l++) {
      const apply_factors factors = factors_of_line(block, l, scale, shift);
      apply_run(&run, span->length, &factors, ending, block->streams);
      run.x += span->line_stride;
      run.y += block->y_strides.line;
      if (ending != NULL) run.at += ending->strides.line;
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
INLINE void apply_lines_in_sequence(const axn_apply_block *block, int64_t r,
                                    const axn_ending *ending, bool streams) {
  const apply_place run = place_at(block, r, ending);
  const int64_t length = block->span.length, total = block->span.lines * length;
  apply_sequence at = {0, length, factors_of_line(block, 0, NULL, NULL)};
  int64_t i = until_aligned(run.y);
  if (i > 0) apply_some(&run, 0, i, &at.factors, ending);
  if (ending != NULL && !is_simple(ending)) {
    for (int count; i + WIDTH <= total; i += count * WIDTH) {
      vector some[ENDED];
      count = count_of_ended((total - i) / WIDTH);
      for (int v = 0; v < count; v++) {
        const int64_t here = i + v * WIDTH;
        some[v] = with_residual(apply_next(block, &at, run.x, here), run.at + here, ending);
      }
      end_and_put(some, count, &run, i, i + (count - 1) * WIDTH, ending, streams);
    }
  }
  for (; i + AT_ONCE * WIDTH <= total; i += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) some[v] = apply_next(block, &at, run.x, i + v * WIDTH);
    end_simply(some, AT_ONCE, run.at + i, ending, block->ending.clamps);
    put_all(run.y + i, some, AT_ONCE, streams);
  }
  for (; i + WIDTH <= total; i += WIDTH) {
    vector one = apply_next(block, &at, run.x, i);
    end_simply(&one, 1, run.at + i, ending, block->ending.clamps);
    put(run.y + i, one, streams);
  }
  for (int64_t some; i < total; i += some) {
    const int64_t line = i / length, here = (line + 1) * length - i;
    const apply_factors rest = factors_of_line(block, line, NULL, NULL);
    some = here < total - i ? here : total - i;
    apply_some(&run, i, some, &rest, ending);
  }
}

/* Whether lines follow each other without a gap, here and, by the way from line to line, in another tensor. */
INLINE bool is_contiguous(const axn_span *span, int64_t other) {
  return span->lines > 1 && span->line_stride == span->length && other == span->length &&
         span->length >= WIDTH;
}

/* Whether such lines are better taken as one run than each by itself: few of them would begin aligned. */
INLINE bool is_sequence(const axn_span *span, int64_t other) {
  return is_contiguous(span, other) && span->length % WIDTH != 0;
}

/* With an ending, short ones too: it is called for many vectors at a time. */
INLINE bool is_ended_sequence(const axn_apply_block *block, const axn_ending *ending) {
  const int64_t length = block->span.length;
  return is_contiguous(&block->span, block->y_strides.line) && ending->strides.line == length &&
         (length % WIDTH != 0 || length <= ENDED * WIDTH / 2);
}

INLINE void apply_all_rows(const axn_apply_block *block, const axn_ending *ending) {
  const bool sequence = ending != NULL ? is_ended_sequence(block, ending)
                                       : is_sequence(&block->span, block->y_strides.line);
  if (!sequence) {
    apply_lines(block, NULL, NULL, ending);
    return;
  }
  for (int64_t r = 0; r < block->span.rows; r++) {
    if (ending != NULL) {
      apply_lines_in_sequence(block, r, ending, block->streams);
    } else if (block->streams) {
      apply_lines_in_sequence(block, r, NULL, true);
    } else {
      apply_lines_in_sequence(block, r, NULL, false);
    }
  }
}

/* Endings have functions of their own: without one, nothing of it is there. */
static void apply_rows_and_end(const axn_apply_block *block) {
  const axn_ending ending = block->ending;
  apply_all_rows(block, &ending);
}

static void apply_rows(const axn_apply_block *block) {
  if (ends(&block->ending)) {
    apply_rows_and_end(block);
  } else if (block->span.length == 1) {
    apply_elements(block);
  } else {
    apply_all_rows(block, NULL);
  }
}

static void apply_weighted_and_end(const axn_apply_block *block) {
  const axn_ending ending = block->ending;
  apply_lines(block, block->scale, block->shift, &ending);
}

static void apply_weighted(const axn_apply_block *block) {
  if (ends(&block->ending)) {
    apply_weighted_and_end(block);
  } else if (block->scale != NULL && block->shift != NULL) {
    apply_lines(block, block->scale, block->shift, NULL);
  } else if (block->scale != NULL) {
    apply_lines(block, block->scale, NULL, NULL);
  } else {
    apply_lines(block, NULL, block->shift, NULL);
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

/* What meets all of a row beside. */
typedef struct row_weights {
  float scale, shift;
} row_weights;

/* Without weights, which is known when this is compiled, there are none. */
INLINE vector transform(vector x, const column_transform *t, const row_weights *weights) {
  const vector y = (x - t->mean) * t->multiplier + t->offset;
  return weights == NULL ? y : y * weights->scale + weights->shift;
}

/* The vector of a row at column `j`. */
INLINE vector transform_columns(const axn_apply_block *block, const apply_place *row, int64_t j,
                                const row_weights *weights) {
  const column_transform t = transform_at(block, j, WIDTH);
  return transform(load_elements(row->x + j), &t, weights);
}

/* Some columns, fewer than a vector has. */
INLINE void apply_some_columns(const axn_apply_block *block, const apply_place *row, int64_t j,
                               int64_t columns, const row_weights *weights,
                               const axn_ending *ending) {
  const column_transform t = transform_at(block, j, columns);
  const vector z = transform(load_some_elements(row->x + j, columns, (vector){0}), &t, weights);
  store_some_elements(row->y + j, columns,
                      end_some(z, columns, row->at + j, ending, block->ending.clamps));
}

/* A row: its factors come from first-level cache each time, which costs less than to walk several rows at
 * once, whose distance is often a power of two. */
INLINE void apply_row(const axn_apply_block *block, const apply_place *row,
                      const row_weights *weights, const axn_ending *ending, bool streams) {
  const int64_t columns = block->span.lines;
  int64_t j = streams ? until_aligned(row->y) : 0;
  if (j > 0) apply_some_columns(block, row, 0, j, weights, ending);
  if (ending != NULL && !is_simple(ending)) {
    for (int count; j + WIDTH <= columns; j += count * WIDTH) {
      vector some[ENDED];
      count = count_of_ended((columns - j) / WIDTH);
      for (int v = 0; v < count; v++) {
        const int64_t here = j + v * WIDTH;
        some[v] =
            with_residual(transform_columns(block, row, here, weights), row->at + here, ending);
      }
      end_and_put(some, count, row, j, j + (count - 1) * WIDTH, ending, streams);
    }
  }
  for (; j + AT_ONCE * WIDTH <= columns; j += AT_ONCE * WIDTH) {
    vector some[AT_ONCE];
    for (int v = 0; v < AT_ONCE; v++) {
      some[v] = transform_columns(block, row, j + v * WIDTH, weights);
    }
    end_simply(some, AT_ONCE, row->at + j, ending, block->ending.clamps);
    put_all(row->y + j, some, AT_ONCE, streams);
  }
  for (; j + WIDTH <= columns; j += WIDTH) {
    vector one = transform_columns(block, row, j, weights);
    end_simply(&one, 1, row->at + j, ending, block->ending.clamps);
    put(row->y + j, one, streams);
  }
  if (j < columns) apply_some_columns(block, row, j, columns - j, weights, ending);
}

INLINE void apply_all_columns(const axn_apply_block *block, const axn_ending *ending,
                              bool weighted) {
  const bool streams = block->streams && worth_streaming(block->y, block->span.lines);
  for (int64_t r = 0; r < block->span.rows; r++) {
    const apply_place row = place_at(block, r, ending);
    const int64_t parameter = r * block->parameter_stride;
    const row_weights some = {weighted && block->scale != NULL ? block->scale[parameter] : 1,
                              weighted && block->shift != NULL ? block->shift[parameter] : 0};
    if (weighted) {
      apply_row(block, &row, &some, ending, streams);
    } else if (streams) {
      apply_row(block, &row, NULL, ending, true);
    } else {
      apply_row(block, &row, NULL, ending, false);
    }
  }
}

static void apply_columns_and_end(const axn_apply_block *given) {
  const axn_apply_block block = *given;
  apply_all_columns(&block, &block.ending, true);
}

static void apply_columns(const axn_apply_block *given) {
  /* A copy that no store can change: its fields stay in registers. */
  const axn_apply_block block = *given;
  if (ends(&block.ending)) {
    apply_columns_and_end(given);
  } else if (block.scale != NULL || block.shift != NULL) {
    apply_all_columns(&block, NULL, true);
  } else {
    apply_all_columns(&block, NULL, false);
  }
}

#endif
