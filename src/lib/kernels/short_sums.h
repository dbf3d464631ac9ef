/* SPDX-License-Identifier: MIT */
/*
 * Sums of lines of 16-bit elements, for their moments. An element has so few digits that its square is exact in
 * float32, and sums of a few of them lose little: they are made there, a few terms at a time, and these sums are added
 * up in float64. What may be lost is a part of the squares, docs/mathematics.md says how much; where the variance is
 * much less than these, or where float32 has no room, the line is looked at again.
 */
#ifndef AXN_LIB_KERNELS_SHORT_SUMS_H
#define AXN_LIB_KERNELS_SHORT_SUMS_H

#include "element.h"
#include "kernels.h"
#include "lanes.h"

enum {
  FLOAT_LANES = 32, /* sums of one line side by side, in every variant: 16 pairs */
  FLOAT_TERMS = 16, /* additions to one of them before it goes to float64 */
  PAIR_VECTORS = FLOAT_LANES / 2 / WIDTH,
  /* of which so many at a time stay in registers */
  PAIRS_AT_ONCE = AXN_VECTOR_BYTES == 16 ? PAIR_VECTORS / 2 : PAIR_VECTORS
};

/* Element i of a row goes to lane i modulo FLOAT_LANES. Pairs of them, which are added first, are those that are
 * loaded together: neighbours, or elements that are 16 apart. */
typedef struct float_lanes {
  vector sum[PAIR_VECTORS][2], square[PAIR_VECTORS][2];
} float_lanes;

#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16
INLINE void widen_pair(bit_vector bits, vector pair[2]) {
  pair[0] = (vector)(bits << 16);
  pair[1] = (vector)(bits & 0xffff0000);
}
#endif

INLINE void load_pair(const element *from, int p, vector pair[2]) {
#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16
  bit_vector bits;
  memcpy(&bits, from + 2 * WIDTH * p, sizeof bits);
  widen_pair(bits, pair);
#else
  pair[0] = load_elements(from + WIDTH * p);
  pair[1] = load_elements(from + FLOAT_LANES / 2 + WIDTH * p);
#endif
}

#if AXN_VECTOR_BYTES == 64
/* The first `count` elements, the others 0. */
INLINE void load_some_pairs(const element *from, int64_t count, vector pair[2]) {
#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16
  widen_pair((bit_vector)_mm512_maskz_loadu_epi16((__mmask32)((1u << count) - 1), from), pair);
#else
  const int64_t beyond = count < WIDTH ? 0 : count - WIDTH;
  pair[0] = vector_of(some_elements(from, count - beyond));
  pair[1] = vector_of(some_elements(from + WIDTH, beyond));
#endif
}
#endif

/* As many operations for the units that add as for those that multiply. */
INLINE void add_pair(const vector pair[2], int p, float_lanes *lanes) {
  lanes->sum[p][0] += pair[0];
  lanes->sum[p][1] = add_floats_by_multiplier(lanes->sum[p][1], pair[1]);
  for (int i = 0; i < 2; i++) lanes->square[p][i] += pair[i] * pair[i];
}

/* Adds FLOAT_LANES elements, those of some vectors of pairs. */
INLINE void add_pairs(const element *x, int first, float_lanes *lanes) {
  for (int p = first; p < first + PAIRS_AT_ONCE; p++) {
    vector pair[2];
    load_pair(x, p, pair);
    add_pair(pair, p, lanes);
  }
}

/* Adds fewer. */
INLINE void add_some_pairs(const element *x, int64_t count, float_lanes *lanes) {
#if AXN_VECTOR_BYTES == 64
  vector pair[2];
  load_some_pairs(x, count, pair);
  add_pair(pair, 0, lanes);
#else
  element rest[FLOAT_LANES] = {0};
  memcpy(rest, x, (size_t)count * sizeof *x);
  for (int p = 0; p < PAIR_VECTORS; p += PAIRS_AT_ONCE) add_pairs(rest, p, lanes);
#endif
}

/* Adds a run of at most FLOAT_LANES * FLOAT_TERMS elements. */
INLINE void add_float_run(const element *x, int64_t length, float_lanes *lanes) {
  const int64_t left = length % FLOAT_LANES, whole = length - left;
  for (int p = 0; p < PAIR_VECTORS; p += PAIRS_AT_ONCE) {
    ROLLED for (int64_t i = 0; i < whole; i += FLOAT_LANES) add_pairs(x + i, p, lanes);
  }
  if (left > 0) add_some_pairs(x + whole, left, lanes);
}

/* Adds lanes to four sums in float64: pairs, then those that are eight apart, then four. */
INLINE void add_fours_of(vector lanes[PAIR_VECTORS][2], double four[4]) {
  vector pairs[PAIR_VECTORS];
  float floats[4];
  for (int p = 0; p < PAIR_VECTORS; p++) pairs[p] = lanes[p][0] + lanes[p][1];
  store_fours(floats, pairs);
  for (int i = 0; i < 4; i += SUMMED) {
    store_sums(four + i, load_sums(four + i) + load_summed(floats + i));
  }
}

enum { FLOAT_PIECE = FLOAT_LANES * FLOAT_TERMS };

/* How many rows go to the same lanes: a power of two, that divides ROWS_BY_LINE. */
INLINE int64_t rows_of_lanes(int64_t length) {
  int64_t rows = ROWS_BY_LINE;
  while (rows > 1 && rows * ((length + FLOAT_LANES - 1) / FLOAT_LANES) > FLOAT_TERMS) rows /= 2;
  return rows;
}

/* Adds some rows of a line, of which the first begins lanes. */
INLINE void add_rows(const element *x, int64_t rows, const axn_span *span, double sum[4],
                     double square[4]) {
  const int64_t length = span->length, at_once = rows_of_lanes(length);
  float_lanes lanes = {0};
  for (int64_t r = 1; r <= rows; r++, x += span->row_stride) {
    for (int64_t at = 0; at < length; at += FLOAT_PIECE) {
      add_float_run(x + at, length - at < FLOAT_PIECE ? length - at : FLOAT_PIECE, &lanes);
      if (r < rows && (r & (at_once - 1)) != 0) continue;
      add_fours_of(lanes.sum, sum);
      add_fours_of(lanes.square, square);
      lanes = (float_lanes){0};
    }
  }
}

/* The sums of a line, in four lanes each; there once. */
static __attribute__((noinline)) void sum_line(const element *x, const axn_span *span,
                                               double sum[4], double square[4]) {
  memset(sum, 0, 4 * sizeof *sum);
  memset(square, 0, 4 * sizeof *square);
  add_rows(x, span->rows, span, sum, square);
}

/* The sums of some lines, one after the other. */
INLINE void sum_lines_in_turn(const element *x, const axn_span *span, int64_t lines, double *sum,
                              double *square) {
  for (int64_t l = 0; l < lines; l++) {
    sum_line(x + l * span->line_stride, span, sum + 4 * l, square + 4 * l);
  }
}

/* The same for some lines, see moments.h. */
INLINE void sum_lines_by_rows(const element *x, const axn_span *span, int64_t lines, double *sum,
                              double *square) {
  memset(sum, 0, (size_t)(4 * lines) * sizeof *sum);
  memset(square, 0, (size_t)(4 * lines) * sizeof *square);
  for (int64_t first = 0; first < span->rows; first += ROWS_BY_LINE) {
    const int64_t left = span->rows - first, rows = left < ROWS_BY_LINE ? left : ROWS_BY_LINE;
    for (int64_t l = 0; l < lines; l++) {
      add_rows(x + first * span->row_stride + l * span->line_stride, rows, span, sum + 4 * l,
               square + 4 * l);
    }
  }
}

/* How many times a variance the squares may be, and how large they must be, per value, for none of them to have lost
 * digits that count. */
static const double FLOAT_LOSS_MOST = 16, FLOAT_SQUARE_LEAST = 0x1p-120;

#endif
