/* SPDX-License-Identifier: MIT */
/* Lanes and neighbours added up, in one fixed tree whatever the width of a vector. */
#ifndef AXN_LIB_KERNELS_LANES_H
#define AXN_LIB_KERNELS_LANES_H

#include "vector.h"

#if AXN_VECTOR_BYTES == 64
/* The sums of eight vectors, eight values each, in a vector. Neighbours change places as far as an instruction
 * for that is faster than others. */
INLINE wide_vector add_vectors(const wide_vector v[8]) {
  wide_vector two[4], four[2];
  for (int i = 0; i < 4; i++) {
    two[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
             __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 2; i++) {
    four[i] = __builtin_shufflevector(two[2 * i], two[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13) +
              __builtin_shufflevector(two[2 * i], two[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15);
  }
  return __builtin_shufflevector(four[0], four[1], 0, 1, 4, 5, 8, 9, 12, 13) +
         __builtin_shufflevector(four[0], four[1], 2, 3, 6, 7, 10, 11, 14, 15);
}
#else
/* Sums of neighbours, of two vectors. */
INLINE wide_vector add_neighbours(wide_vector a, wide_vector b) {
#if AXN_VECTOR_BYTES == 32
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#else
  return __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
#endif
}

/* The sums of HALF times eight values, in a vector. */
INLINE wide_vector add_vectors(const wide_vector v[8]) {
  const wide_vector low = add_neighbours(add_neighbours(v[0], v[1]), add_neighbours(v[2], v[3]));
  const wide_vector high = add_neighbours(add_neighbours(v[4], v[5]), add_neighbours(v[6], v[7]));
  return add_neighbours(low, high);
}
#endif

/* The sum of eight values, ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). */
INLINE double add_eight(const double eight[8]) {
#if AXN_VECTOR_BYTES == 64
  wide_vector v = load_doubles(eight);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v[0] + v[4];
#elif AXN_VECTOR_BYTES == 32
  wide_vector low = load_doubles(eight), high = load_doubles(eight + 4);
  low += __builtin_shufflevector(low, low, 1, 0, 3, 2);
  high += __builtin_shufflevector(high, high, 1, 0, 3, 2);
  return (low[0] + low[2]) + (high[0] + high[2]);
#else
  return ((eight[0] + eight[1]) + (eight[2] + eight[3])) +
         ((eight[4] + eight[5]) + (eight[6] + eight[7]));
#endif
}

/* Adds up eight values each, as add_eight() does; the `count` results may take the place of the first. */
static __attribute__((noinline, unused)) void add_eights(double *values, int count, double *to) {
  int i = 0;
  for (; i + HALF <= count; i += HALF, values += 8 * HALF) {
    wide_vector v[8];
    for (int j = 0; j < 8; j++) v[j] = load_doubles(values + j * HALF);
    store_doubles(to + i, add_vectors(v));
  }
  for (; i < count; i++, values += 8) to[i] = add_eight(values);
}

/* Lanes of 16 floats, those that are eight apart and then those that are four apart added together; writes four. */
INLINE void store_fours(float *to, const vector *lanes) {
#if AXN_VECTOR_BYTES == 64
  const __m512 v = (__m512)lanes[0];
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#elif AXN_VECTOR_BYTES == 32
  const __m256 eight = (__m256)(lanes[0] + lanes[1]);
#endif
#if AXN_VECTOR_BYTES >= 32
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
#else
  store(to, (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]));
#endif
}

/* Sums of neighbours, of two vectors, within each 16 bytes of these. */
INLINE vector add_float_neighbours(vector a, vector b) {
#if AXN_VECTOR_BYTES == 64
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif AXN_VECTOR_BYTES == 32
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

/* The sums of WIDTH times four values, (0 + 1) + (2 + 3), in a vector. */
INLINE vector add_float_vectors(const float *from) {
  vector v[4];
  for (int j = 0; j < 4; j++) v[j] = load(from + j * WIDTH);
  const vector sums =
      add_float_neighbours(add_float_neighbours(v[0], v[1]), add_float_neighbours(v[2], v[3]));
#if AXN_VECTOR_BYTES == 64
  return __builtin_shufflevector(sums, sums, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#elif AXN_VECTOR_BYTES == 32
  return __builtin_shufflevector(sums, sums, 0, 4, 1, 5, 2, 6, 3, 7);
#else
  return sums;
#endif
}

/* Adds up four floats each, which have room for whole vectors. */
static __attribute__((noinline, unused)) void add_float_fours(float *values, int64_t count,
                                                              double *to) {
  if (count % WIDTH != 0) {
    memset(values + 4 * count, 0, (size_t)(4 * (WIDTH - count % WIDTH)) * sizeof *values);
  }
  float sums[WIDTH];
  for (int64_t i = 0; i < count; i += HALF) {
    if (i % WIDTH == 0) store(sums, add_float_vectors(values + 4 * i));
    const float *half = sums + i % WIDTH;
    if (count - i >= HALF) {
      store_doubles(to + i, load_wide(half));
    } else {
      for (int64_t j = i; j < count; j++) to[j] = (double)half[j - i];
    }
  }
}

/* The sum of four values. */
INLINE double add_four(const double four[4]) {
  return (four[0] + four[1]) + (four[2] + four[3]);
}

/* The sums of HALF times four values, each as add_four() adds them, in a vector. */
INLINE wide_vector add_wide_fours(const double *from) {
#if AXN_VECTOR_BYTES == 64
  wide_vector two[2];
  for (int i = 0; i < 2; i++) {
    const wide_vector a = load_doubles(from + 16 * i), b = load_doubles(from + 16 * i + 8);
    two[i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
             __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  }
  const wide_vector sums = __builtin_shufflevector(two[0], two[1], 0, 1, 8, 9, 4, 5, 12, 13) +
                           __builtin_shufflevector(two[0], two[1], 2, 3, 10, 11, 6, 7, 14, 15);
  return __builtin_shufflevector(sums, sums, 0, 4, 1, 5, 2, 6, 3, 7);
#elif AXN_VECTOR_BYTES == 32
  return add_neighbours(add_neighbours(load_doubles(from), load_doubles(from + 4)),
                        add_neighbours(load_doubles(from + 8), load_doubles(from + 12)));
#else
  return add_neighbours(add_neighbours(load_doubles(from), load_doubles(from + 2)),
                        add_neighbours(load_doubles(from + 4), load_doubles(from + 6)));
#endif
}

/* Adds up four values each; the `count` results may take the place of the first. */
static __attribute__((noinline, unused)) void add_fours(double *values, int64_t count, double *to) {
  int64_t i = 0;
  for (; i + HALF <= count; i += HALF) store_doubles(to + i, add_wide_fours(values + 4 * i));
  for (; i < count; i++) to[i] = add_four(values + 4 * i);
}

/* Adds up lanes of columns, a power of two of them, each with all columns side by side: its upper half to its lower one,
 * until one is left. There is room for whole vectors. */
static __attribute__((noinline, unused)) void add_column_lanes(double *values, int64_t columns,
                                                               int64_t lanes) {
  for (int64_t half = lanes / 2 * columns; half >= columns; half /= 2) {
    ROLLED for (int64_t j = 0; j < half; j += HALF) {
      store_doubles(values + j, load_doubles(values + j) + load_doubles(values + half + j));
    }
  }
}

/* Adds up `fold` values into eight lanes. */
INLINE void add_fold(const double *values, int64_t fold, double eight[8]) {
  int64_t i = 0;
  memset(eight, 0, 8 * sizeof *eight);
  for (; i + 8 <= fold; i += 8) {
    for (int j = 0; j < 8; j += HALF) {
      store_doubles(eight + j, load_doubles(eight + j) + load_doubles(values + i + j));
    }
  }
  for (int64_t j = 0; i < fold; i++, j++) eight[j] += values[i];
}

/* Adds up `fold` neighbours each: `count` results at the start of `values`. */
static __attribute__((noinline, unused)) void add_folds(double *values, int64_t count,
                                                        int64_t fold) {
  enum { LINES = 128 };
  double lanes[8 * LINES];
  if (fold == 1) return;
  for (int64_t first = 0; first < count; first += LINES) {
    const int some = count - first < LINES ? (int)(count - first) : LINES;
    for (int k = 0; k < some; k++) add_fold(values + (first + k) * fold, fold, lanes + 8 * k);
    add_eights(lanes, some, values + first);
  }
}

#endif
