/* SPDX-License-Identifier: MIT */
/*
 * Moments: mean, and the sum of squares about it.
 *
 * The plain sums of x and of x * x in float64: a float's square is exact there, and what is lost by
 * not subtracting the mean first is known, a factor of q / m2. Where that is more than LOSS_MOST, the
 * line is looked at again, about the mean that was found. docs/mathematics.md has the bounds.
 *
 * Lines of 16-bit elements are summed in float32 a few terms at a time, in which the square of an element is exact, and
 * then in float64: what that loses is little beside their own rounding, if it is lost of a variance that is not much
 * less than the squares.
 */
#ifndef AXN_LIB_KERNELS_MOMENTS_H
#define AXN_LIB_KERNELS_MOMENTS_H

#include <float.h>
#include <math.h>

#include "kernels.h"
#include "element.h"
#include "lanes.h"

enum {
  LANES = 32, /* sums of one line side by side, in every variant */
  /* of which so many at a time stay in registers; the others take their turn */
  CHUNK = AXN_VECTOR_BYTES == 64   ? 32
          : AXN_VECTOR_BYTES == 32 ? 16
                                   : 8,
  PARTS = CHUNK / SUMMED,
  EIGHT = 8 / SUMMED, /* vectors of eight sums */
  TURNS = LANES / CHUNK
};

static const double LOSS_MOST = 4096;

/* Element i of a row goes to lane i modulo LANES; these are the sums of some neighbouring lanes. */
typedef struct lane_sums {
  sum_vector sum[PARTS], square[PARTS];
} lane_sums;

INLINE void add_value(lane_sums *lanes, int part, sum_vector value) {
  lanes->sum[part] =
      part % 2 == 0 ? lanes->sum[part] + value : add_by_multiplier(lanes->sum[part], value);
  lanes->square[part] = add_square(lanes->square[part], value);
}

/* Lines of so few values have little between one and the next, and where elements are floats eight lanes. */
enum { SHORT_VALUES = 128 };

INLINE bool are_short_lines(const axn_span *span) {
  return span->rows * span->length <= SHORT_VALUES;
}

/* Of lines whose rows lie far apart, and of their rows, so many in turn. */
enum { LINES_BY_ROWS = 16, ROWS_BY_LINE = 8 };

#if AXN_ELEMENT != AXN_ELEMENT_FLOAT32
#include "short_sums.h"
#else

INLINE void add_floats(const float *x, int64_t first, int64_t length, lane_sums *lanes) {
  int64_t i = first;
  for (; i + CHUNK <= length; i += LANES) {
    for (int p = 0; p < PARTS; p++) add_value(lanes, p, load_summed(x + i + p * SUMMED));
  }
  for (int p = 0; p < PARTS; p++) {
    const int64_t left = length - i - p * SUMMED;
    if (left <= 0) break;
    if (left >= SUMMED) {
      add_value(lanes, p, load_summed(x + i + p * SUMMED));
    } else {
      add_value(lanes, p, load_summed_some(x + i + p * SUMMED, left));
    }
  }
}

/* Lanes that are eight apart. */
INLINE sum_vector add_apart(const sum_vector lanes[PARTS], int at) {
  if (CHUNK == 8) return lanes[at];
  const sum_vector low = lanes[at] + lanes[EIGHT % PARTS + at];
  return CHUNK == 16 ? low : low + (lanes[2 * EIGHT % PARTS + at] + lanes[3 * EIGHT % PARTS + at]);
}

/* Of eight lanes, those that are four apart. */
INLINE void store_four(double four[4], const sum_vector eight[EIGHT]) {
  for (int v = 0; v < EIGHT / 2; v++) {
    store_sums(four + v * SUMMED, eight[v] + eight[EIGHT / 2 + v]);
  }
}

/* Lanes that are eight apart, of all turns. */
INLINE sum_vector add_turns(const sum_vector turns[TURNS]) {
  if (TURNS == 1) return turns[0];
  const sum_vector low = turns[0] + turns[1 % TURNS];
  return TURNS == 2 ? low : low + (turns[TURNS - 2] + turns[TURNS - 1]);
}

/* The lanes of a line, all of them, as four: of 0 to 7, 8 to 15 and so on, (0 + 1) + (2 + 3), then of these eight those
 * that are four apart. */
INLINE void narrow_lanes(const lane_sums lanes[TURNS], double sum[4], double square[4]) {
  sum_vector sums[EIGHT], squares[EIGHT];
  for (int v = 0; v < EIGHT; v++) {
    sum_vector s[TURNS], q[TURNS];
    for (int t = 0; t < TURNS; t++) {
      s[t] = add_apart(lanes[t].sum, v);
      q[t] = add_apart(lanes[t].square, v);
    }
    sums[v] = add_turns(s);
    squares[v] = add_turns(q);
  }
  store_four(sum, sums);
  store_four(square, squares);
}

INLINE void clear_sums(lane_sums *lanes) {
  for (int p = 0; p < PARTS; p++) lanes->sum[p] = lanes->square[p] = (sum_vector){0};
}

/* Adds a row, to all lanes. */
INLINE void add_row(const element *x, int64_t length, lane_sums lanes[TURNS]) {
  for (int t = 0; t < TURNS; t++) add_floats(x, t * CHUNK, length, &lanes[t]);
}

INLINE void add_rows(const element *x, int64_t rows, const axn_span *span, lane_sums lanes[TURNS]) {
  lane_sums here[TURNS];
  memcpy(here, lanes, sizeof here);
  for (int64_t r = 0; r < rows; r++) add_row(x + r * span->row_stride, span->length, here);
  memcpy(lanes, here, sizeof here);
}

/* The sums of a line, in four lanes each. */
INLINE void sum_line(const element *x, const axn_span *span, double sum[4], double square[4]) {
  lane_sums lanes[TURNS];
  for (int t = 0; t < TURNS; t++) clear_sums(&lanes[t]);
  for (int64_t r = 0; r < span->rows; r++) add_row(x + r * span->row_stride, span->length, lanes);
  narrow_lanes(lanes, sum, square);
}

/* Adds a row to eight lanes. */
INLINE void add_short_row(const float *x, int64_t length, lane_sums *lanes) {
  const int64_t left = length % 8, whole = length - left;
  ROLLED for (int64_t i = 0; i < whole; i += 8) {
    for (int v = 0; v < EIGHT; v++) add_value(lanes, v, load_summed(x + i + v * SUMMED));
  }
  for (int v = 0; v < EIGHT; v++) {
    const int64_t here = left - v * SUMMED;
    if (here <= 0) break;
    const float *from = x + whole + v * SUMMED;
    add_value(lanes, v, here < SUMMED ? load_summed_some(from, here) : load_summed(from));
  }
}

/* There once. */
static __attribute__((noinline)) void sum_short_lines_in_turn(const element *x,
                                                              const axn_span *span, int64_t lines,
                                                              double *sum, double *square) {
  const int64_t rows = span->rows, length = span->length;
  const int64_t row_stride = span->row_stride, line_stride = span->line_stride;
  for (int64_t l = 0; l < lines; l++, x += line_stride) {
    lane_sums lanes;
    for (int v = 0; v < EIGHT; v++) lanes.sum[v] = lanes.square[v] = (sum_vector){0};
    for (int64_t r = 0; r < rows; r++) add_short_row(x + r * row_stride, length, &lanes);
    store_four(sum + 4 * l, lanes.sum);
    store_four(square + 4 * l, lanes.square);
  }
}

/* The sums of some lines, one after the other, in four lanes each. */
INLINE void sum_lines_in_turn(const element *x, const axn_span *span, int64_t lines, double *sum,
                              double *square) {
  if (are_short_lines(span)) {
    sum_short_lines_in_turn(x, span, lines, sum, square);
    return;
  }
  for (int64_t l = 0; l < lines; l++) {
    sum_line(x + l * span->line_stride, span, sum + 4 * l, square + 4 * l);
  }
}

/* The same for some lines, nearly in the order of memory where their rows lie far apart: a few rows of each
 * line in turn, so that its sums stay in registers for more than one. */
INLINE void sum_lines_by_rows(const element *x, const axn_span *span, int64_t lines, double *sum,
                              double *square) {
  lane_sums lanes[LINES_BY_ROWS][TURNS];
  for (int64_t l = 0; l < lines; l++) {
    for (int t = 0; t < TURNS; t++) clear_sums(&lanes[l][t]);
  }
  for (int64_t first = 0; first < span->rows; first += ROWS_BY_LINE) {
    const int64_t left = span->rows - first, rows = left < ROWS_BY_LINE ? left : ROWS_BY_LINE;
    for (int64_t l = 0; l < lines; l++) {
      add_rows(x + first * span->row_stride + l * span->line_stride, rows, span, lanes[l]);
    }
  }
  for (int64_t l = 0; l < lines; l++) narrow_lanes(lanes[l], sum + 4 * l, square + 4 * l);
}

#endif

/* What sums may lose: `most` squares for a variance, and the least squares of a line that they have room for. */
typedef struct loss {
  double most, least;
} loss;

INLINE loss loss_of_columns(void) {
  return (loss){LOSS_MOST, -INFINITY};
}

INLINE loss loss_of_rows(double count) {
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32
  (void)count;
  return loss_of_columns();
#else
  return (loss){FLOAT_LOSS_MOST, FLOAT_SQUARE_LEAST * count};
#endif
}

/* Mean and M2 from plain sums. Returns whether a line must be looked at again. All arrays have room
 * for whole vectors. */
static bool finish_moments(const double *sum, const double *square, int64_t lines, double count,
                           loss may, axn_moments out) {
  mask_vector lost = {0};
  for (int64_t l = 0; l < lines; l += HALF) {
    const wide_vector total = load_doubles(sum + l), mean = total / count;
    const wide_vector squares = load_doubles(square + l), rest = squares - total * mean;
    store_doubles(out.mean + l, mean);
    store_doubles(out.m2 + l, where(~(rest < 0), rest));
    lost |= rest * may.most < squares;
    if (may.least >= 0) lost |= ~(squares >= may.least) | (squares - squares != 0);
  }
  return any(lost);
}

INLINE bool is_lost(double square, double m2, loss may) {
  if (m2 * may.most < square) return true;
  return may.least >= 0 && !(square >= may.least && square <= DBL_MAX);
}

/* Sums about a shift, added to eight lanes. Differences are not exact as floats are: their squares are
 * rounded before they are added, on every instruction set. */
static void add_shifted_run(const element *x, int64_t length, double shift, double sum[8],
                            double square[8]) {
  wide_vector sums[8 / HALF], squares[8 / HALF];
  memcpy(sums, sum, sizeof sums);
  memcpy(squares, square, sizeof squares);
  int64_t i = 0;
  ROLLED for (; i + 8 <= length; i += 8) {
    for (int v = 0; v < 8 / HALF; v++) {
      const wide_vector difference = load_wide_elements(x + i + v * HALF) - shift;
      sums[v] += difference;
      squares[v] += difference * difference;
    }
  }
  memcpy(sum, sums, sizeof sums);
  memcpy(square, squares, sizeof squares);
  for (int j = 0; i < length; i++, j++) {
    const double difference = element_value(x[i]) - shift;
    sum[j] += difference;
    square[j] += difference * difference;
  }
}

/* Replaces the moments of a line by those from sums about its mean. */
static void set_shifted(double sum, double square, double count, double *mean, double *m2) {
  const double offset = sum / count, rest = square - sum * offset;
  *mean += offset;
  *m2 = rest < 0 ? 0 : rest;
}

static SMALL void look_at_line_again(const element *x, const axn_span *span, double count,
                                     double *mean, double *m2) {
  double sums[8] = {0}, squares[8] = {0};
  if (!isfinite(*mean)) *mean = 0; /* the sums had no room for it */
  for (int64_t r = 0; r < span->rows; r++) {
    add_shifted_run(x + r * span->row_stride, span->length, *mean, sums, squares);
  }
  add_eights(sums, 1, sums);
  add_eights(squares, 1, squares);
  set_shifted(sums[0], squares[0], count, mean, m2);
}

/* Moments from the sums of lines, of which those that lost too much are looked at again. */
INLINE void finish_rows(const element *x, const axn_span *span, const double *sum,
                        const double *square, axn_moments out) {
  const double count = (double)(span->rows * span->length);
  const loss may = loss_of_rows(count);
  if (!finish_moments(sum, square, span->lines, count, may, out)) return;
  for (int64_t l = 0; l < span->lines; l++) {
    if (!is_lost(square[l], square[l] - sum[l] * out.mean[l], may)) continue;
    look_at_line_again(x + l * span->line_stride, span, count, out.mean + l, out.m2 + l);
  }
}

static void moments_of_rows(const void *tensor, const axn_span *span, axn_moments out) {
  const element *x = input_at(tensor, 0);
  double sum[4 * AXN_MOST_ROWS], square[4 * AXN_MOST_ROWS];
  if (span->rows == 1 || are_short_lines(span)) {
    sum_lines_in_turn(x, span, span->lines, sum, square);
  } else {
    for (int64_t l = 0, some; l < span->lines; l += some) {
      some = span->lines - l < LINES_BY_ROWS ? span->lines - l : LINES_BY_ROWS;
      sum_lines_by_rows(x + l * span->line_stride, span, some, sum + 4 * l, square + 4 * l);
    }
  }
  add_fours(sum, span->lines, sum);
  add_fours(square, span->lines, square);
  finish_rows(x, span, sum, square, out);
}

/* No more rows than a set of first-level cache has ways, which is where rows of 2^n floats all lie; but memory is
 * farther away. */
enum { ROWS_AT_ONCE = 8, ROWS_AHEAD = 24, VECTORS_OF_SUMS = WIDTH / SUMMED };

/* Adds `rows` rows to the sums of WIDTH columns. */
INLINE void add_vector_of_columns(const float *x, int64_t rows, int64_t row_stride, bool fetches,
                                  double *sum, double *square) {
  lane_sums columns;
  for (int p = 0; p < VECTORS_OF_SUMS; p++) {
    columns.sum[p] = load_sums(sum + p * SUMMED);
    columns.square[p] = load_sums(square + p * SUMMED);
  }
  for (int64_t r = 0; r < rows; r++, x += row_stride) {
    if (fetches) fetch(x, ROWS_AHEAD * row_stride * (int64_t)sizeof *x);
    for (int p = 0; p < VECTORS_OF_SUMS; p++) {
      add_value(&columns, p, load_summed(x + p * SUMMED));
    }
  }
  for (int p = 0; p < VECTORS_OF_SUMS; p++) {
    store_sums(sum + p * SUMMED, columns.sum[p]);
    store_sums(square + p * SUMMED, columns.square[p]);
  }
}

/* The same of elements, the first `left` columns if these are fewer. */
INLINE void add_vector_of_elements(const element *x, int64_t rows, int64_t row_stride, int64_t left,
                                   double *sum, double *square) {
  float room[ROWS_AT_ONCE * WIDTH];
  for (int64_t r = 0; r < rows; r++, x += row_stride) {
    fetch(x, ROWS_AHEAD * row_stride * (int64_t)sizeof *x);
    store(room + r * WIDTH,
          left >= WIDTH ? load_elements(x) : load_some_elements(x, left, (vector){0}));
  }
  add_vector_of_columns(room, rows, WIDTH, false, sum, square);
}

/* At most ROWS_AT_ONCE rows. */
INLINE void add_some_rows(const element *x, int64_t rows, int64_t row_stride, int64_t columns,
                          double *sum, double *square) {
  int64_t j = 0;
  for (; j + WIDTH <= columns; j += WIDTH) {
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32
    add_vector_of_columns(x + j, rows, row_stride, true, sum + j, square + j);
#else
    add_vector_of_elements(x + j, rows, row_stride, WIDTH, sum + j, square + j);
#endif
  }
  if (j < columns) {
    add_vector_of_elements(x + j, rows, row_stride, columns - j, sum + j, square + j);
  }
}

/* Any number of rows; there once. */
static __attribute__((noinline)) void add_columns(const element *x, int64_t rows,
                                                  int64_t row_stride, int64_t columns, double *sum,
                                                  double *square) {
  for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
    const int64_t some = rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE;
    add_some_rows(x + r * row_stride, some, row_stride, columns, sum, square);
  }
}

/* Adds the rows to the lanes of columns: all lanes at once, where their rows are one run of memory, else one after the
 * other. */
static __attribute__((noinline)) void add_to_lanes(const element *x, const axn_span *span,
                                                   int64_t columns, double *sum, double *square) {
  const int64_t lanes = span->lanes, stride = lanes * span->row_stride;
  const int64_t rows = span->rows / lanes, rest = span->rows % lanes;
  if (span->joined) {
    add_columns(x, rows, stride, lanes * columns, sum, square);
    if (rest > 0) add_columns(x + rows * stride, 1, stride, rest * columns, sum, square);
    return;
  }
  for (int64_t k = 0; k < lanes && k < span->rows; k++) {
    add_columns(x + k * span->row_stride, rows + (k < rest), stride, columns, sum + k * columns,
                square + k * columns);
  }
}

/* Looks at all columns again, about the means of their lines; keeps what lost too much before.
 * A function apart, so that its arrays take room only where it is due. */
static SMALL void look_again(const element *x, const axn_span *span, const double *sum,
                             const double *square, double count, axn_moments out) {
  double shift[AXN_LINE_ROOM], sums[AXN_LINE_ROOM] = {0}, squares[AXN_LINE_ROOM] = {0};
  const int64_t columns = span->lines * span->fold;
  for (int64_t j = 0; j < columns; j++) shift[j] = out.mean[j / span->fold];
  for (int64_t r = 0; r < span->rows; r++) {
    const element *row = x + r * span->row_stride;
    int64_t j = 0;
    for (; j + HALF <= columns; j += HALF) {
      const wide_vector difference = load_wide_elements(row + j) - load_doubles(shift + j);
      store_doubles(sums + j, load_doubles(sums + j) + difference);
      store_doubles(squares + j, load_doubles(squares + j) + difference * difference);
    }
    for (; j < columns; j++) {
      const double difference = element_value(row[j]) - shift[j];
      sums[j] += difference;
      squares[j] += difference * difference;
    }
  }
  add_folds(sums, span->lines, span->fold);
  add_folds(squares, span->lines, span->fold);
  for (int64_t l = 0; l < span->lines; l++) {
    if (!is_lost(square[l], square[l] - sum[l] * out.mean[l], loss_of_columns())) continue;
    set_shifted(sums[l], squares[l], count, out.mean + l, out.m2 + l);
  }
}

static void moments_of_columns(const void *tensor, const axn_span *span, axn_moments out) {
  AXN_LINES_OF_CACHE double sum[AXN_LINE_ROOM];
  AXN_LINES_OF_CACHE double square[AXN_LINE_ROOM];
  const element *x = input_at(tensor, 0);
  const int64_t columns = span->lines * span->fold;
  const size_t room = (size_t)(span->lanes * columns + WIDTH) * sizeof(double);
  const double count = (double)(span->rows * span->fold);
  memset(sum, 0, room);
  memset(square, 0, room);
  if (span->lanes > 1) {
    add_to_lanes(x, span, columns, sum, square);
    add_column_lanes(sum, columns, span->lanes);
    add_column_lanes(square, columns, span->lanes);
  } else {
    add_columns(x, span->rows, span->row_stride, columns, sum, square);
  }
  add_folds(sum, span->lines, span->fold);
  add_folds(square, span->lines, span->fold);
  if (finish_moments(sum, square, span->lines, count, loss_of_columns(), out)) {
    look_again(x, span, sum, square, count, out);
  }
}

#endif
