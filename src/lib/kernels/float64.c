/* SPDX-License-Identifier: MIT */
/*
 * Moments of float64 tensors, in two passes: a double's square is not exact in anything. The first pass
 * finds a mean, the second sums differences from it, whose own mean is what the first was off by. All else
 * of float64 is wide_table.h. Plain C, compiled once: the lanes are there for the compiler to make vectors
 * of, and for shorter sums.
 */
#include <string.h>

#include "kernels.h"

enum { LANES = 8 };

typedef struct lanes {
  double lane[LANES];
} lanes;

static double total(const lanes *sum) {
  const double *l = sum->lane;
  return ((l[0] + l[1]) + (l[2] + l[3])) + ((l[4] + l[5]) + (l[6] + l[7]));
}

/* Adds the differences of a run from `from`, and their squares. */
static void add_run(const double *x, int64_t length, double from, lanes *sum, lanes *square) {
  int64_t i = 0;
  for (; i + LANES <= length; i += LANES) {
    for (int j = 0; j < LANES; j++) {
      const double difference = x[i + j] - from;
      sum->lane[j] += difference;
      square->lane[j] += difference * difference;
    }
  }
  for (int j = 0; i < length; i++, j++) {
    const double difference = x[i] - from;
    sum->lane[j] += difference;
    square->lane[j] += difference * difference;
  }
}

static void add_line(const double *x, const axn_span *span, double from, lanes *sum,
                     lanes *square) {
  memset(sum, 0, sizeof *sum);
  memset(square, 0, sizeof *square);
  for (int64_t r = 0; r < span->rows; r++) {
    add_run(x + r * span->row_stride, span->length, from, sum, square);
  }
}

static void moments_of_rows(const void *tensor, const axn_span *span, axn_moments out) {
  const double count = (double)(span->rows * span->length);
  for (int64_t l = 0; l < span->lines; l++) {
    const double *x = (const double *)tensor + l * span->line_stride;
    lanes sum, square;
    add_line(x, span, 0, &sum, &square);
    const double mean = total(&sum) / count;
    add_line(x, span, mean, &sum, &square);
    const double off = total(&sum) / count, rest = total(&square) - total(&sum) * off;
    out.mean[l] = mean + off;
    out.m2[l] = rest < 0 ? 0 : rest;
  }
}

/* Adds the differences of all columns from those of `from`, and their squares, to the lanes of columns. */
static void add_columns(const double *x, const axn_span *span, const double *from, double *sum,
                        double *square) {
  const int64_t columns = span->lines * span->fold, all = span->lanes * columns;
  memset(sum, 0, (size_t)all * sizeof *sum);
  memset(square, 0, (size_t)all * sizeof *square);
  for (int64_t r = 0, lane = 0; r < span->rows; r++, x += span->row_stride) {
    for (int64_t j = 0; j < columns; j++) {
      const double difference = x[j] - from[j];
      sum[lane + j] += difference;
      square[lane + j] += difference * difference;
    }
    lane = lane + columns < all ? lane + columns : 0;
  }
  for (int64_t j = columns; j < all; j++) {
    sum[j % columns] += sum[j];
    square[j % columns] += square[j];
  }
}

static double folded(const double *values, int64_t fold) {
  double sum = 0;
  for (int64_t i = 0; i < fold; i++) sum += values[i];
  return sum;
}

static void moments_of_columns(const void *tensor, const axn_span *span, axn_moments out) {
  double from[AXN_LINE_ROOM] = {0}, sum[AXN_LINE_ROOM], square[AXN_LINE_ROOM];
  const int64_t fold = span->fold;
  const double count = (double)(span->rows * fold);
  add_columns(tensor, span, from, sum, square);
  for (int64_t l = 0; l < span->lines; l++) {
    out.mean[l] = folded(sum + l * fold, fold) / count;
    for (int64_t i = 0; i < fold; i++) from[l * fold + i] = out.mean[l];
  }
  add_columns(tensor, span, from, sum, square);
  for (int64_t l = 0; l < span->lines; l++) {
    const double differences = folded(sum + l * fold, fold), off = differences / count;
    const double rest = folded(square + l * fold, fold) - differences * off;
    out.mean[l] += off;
    out.m2[l] = rest < 0 ? 0 : rest;
  }
}

axn_moments_kernel *const axn_float64_moments[AXN_KERNEL_FORMS] = {
    moments_of_rows, moments_of_columns, moments_of_rows};
