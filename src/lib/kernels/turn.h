/* SPDX-License-Identifier: MIT */
/* Short rows: a block whose rows are contiguous, turned in first-level cache so that its columns
 * are. */
#ifndef AXN_LIB_TURN_H
#define AXN_LIB_TURN_H

#include "tile.h"
#include "vector.h"

#if AXN_VECTOR_BYTES == 64
#define LOW_HALVES(a, b)                                                                           \
  __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH_HALVES(a, b)                                                                          \
  __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif AXN_VECTOR_BYTES == 32
#define LOW_HALVES(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_HALVES(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define LOW_HALVES(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH_HALVES(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* Transposes WIDTH vectors: interleaves the first half of them with the second, log2(WIDTH) times. */
INLINE void transpose(vector v[WIDTH]) {
  for (int round = 1; round < WIDTH; round *= 2) {
    vector next[WIDTH];
    for (int i = 0; i < WIDTH / 2; i++) {
      next[2 * i] = LOW_HALVES(v[i], v[i + WIDTH / 2]);
      next[2 * i + 1] = HIGH_HALVES(v[i], v[i + WIDTH / 2]);
    }
    for (int i = 0; i < WIDTH; i++) v[i] = next[i];
  }
}

/* One vector of columns, each `rows` long, to `tile`. Columns beyond the last repeat it. */
static void turn(const float *x, int64_t rows, int64_t columns, int64_t column_stride,
                 float *tile) {
  const float *column[WIDTH];
  for (int i = 0; i < WIDTH; i++) {
    column[i] = x + (i < columns ? i : columns - 1) * column_stride;
  }
  int64_t r = 0;
  while (r + WIDTH <= rows) {
    vector v[WIDTH];
    for (int i = 0; i < WIDTH; i++) v[i] = load(column[i] + r);
    transpose(v);
    for (int i = 0; i < WIDTH; i++) store(tile + (r + i) * AXN_TILE_COLUMNS, v[i]);
    /* The last rows are turned together with some that were already. */
    r = r + WIDTH < rows && r + 2 * WIDTH > rows ? rows - WIDTH : r + WIDTH;
  }
  for (; r < rows; r++) {
    for (int i = 0; i < WIDTH; i++) tile[r * AXN_TILE_COLUMNS + i] = column[i][r];
  }
}

/* Writes any block of at most AXN_TILE_COLUMNS columns to `tile`, AXN_TILE_COLUMNS to a row.
 * Columns that it lacks repeat the last. */
static void gather(const float *x, int64_t rows, int64_t columns, int64_t row_stride,
                   int64_t column_stride, float *tile) {
  if (column_stride == 1) {
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t j = 0; j < AXN_TILE_COLUMNS; j++) {
        tile[r * AXN_TILE_COLUMNS + j] = x[r * row_stride + (j < columns ? j : columns - 1)];
      }
    }
    return;
  }
  for (int64_t j = 0; j < AXN_TILE_COLUMNS; j += WIDTH) {
    const int64_t first = j < columns ? j : columns - 1;
    turn(x + first * column_stride, rows, columns - first, column_stride, tile + j);
  }
}

#endif
