/* SPDX-License-Identifier: MIT */
/*
 * Vectors of AXN_VECTOR_BYTES for the kernels: the compilers' own (gcc, clang), with intrinsics where
 * neither has a builtin that does as well. And lanes: a fixed number of sums side by side, whatever
 * the width of a vector.
 */
#ifndef AXN_LIB_VECTOR_H
#define AXN_LIB_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE__)
#include <immintrin.h>
#endif

enum {
  WIDTH = AXN_VECTOR_BYTES / 4,
  LANES = 32,
  PARTS = LANES / WIDTH /* vectors that make up the lanes */
};

typedef float vector __attribute__((vector_size(AXN_VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vector load(const float *from) {
  vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float *to, vector v) {
  memcpy(to, &v, sizeof v);
}

/* A store past the caches; `to` is aligned to a vector. Both compilers lack a builtin for it that
 * the other has, hence intrinsics. */
INLINE void stream(float *to, vector v) {
#if AXN_VECTOR_BYTES == 64
  _mm512_stream_ps(to, (__m512)v);
#elif AXN_VECTOR_BYTES == 32
  _mm256_stream_ps(to, (__m256)v);
#elif defined(__SSE__)
  _mm_stream_ps(to, (__m128)v);
#else
  store(to, v);
#endif
}

/* Streamed stores are weakly ordered; after this they are visible like any other. */
static void finish_streams(void) {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

/* The first `count` of a vector, the others `pad`. */
INLINE vector load_some(const float *from, int64_t count, float pad) {
  float values[WIDTH];
  for (int i = 0; i < WIDTH; i++) values[i] = i < count ? from[i] : pad;
  return load(values);
}

INLINE void clear(vector lanes[PARTS]) {
  for (int p = 0; p < PARTS; p++) lanes[p] = (vector){0};
}

typedef double wide_vector __attribute__((vector_size(AXN_VECTOR_BYTES)));
typedef float half_vector __attribute__((vector_size(AXN_VECTOR_BYTES / 2)));

enum { HALF = WIDTH / 2 };

/* gcc 12 makes two conversions and an insertion of __builtin_convertvector; hence intrinsics. */
INLINE wide_vector load_wide(const float *from) {
#if AXN_VECTOR_BYTES == 64
  return (wide_vector)_mm512_cvtps_pd(_mm256_loadu_ps(from));
#elif AXN_VECTOR_BYTES == 32
  return (wide_vector)_mm256_cvtps_pd(_mm_loadu_ps(from));
#elif defined(__SSE2__)
  return (wide_vector)_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)from)));
#else
  half_vector narrow;
  memcpy(&narrow, from, sizeof narrow);
  return __builtin_convertvector(narrow, wide_vector);
#endif
}

INLINE void widen_add(double totals[WIDTH], vector values) {
  float narrow[WIDTH];
  wide_vector total[2];
  store(narrow, values);
  memcpy(total, totals, sizeof total);
  total[0] += load_wide(narrow);
  total[1] += load_wide(narrow + HALF);
  memcpy(totals, total, sizeof total);
}

/* Adds the lanes to float64 ones, and empties them. */
INLINE void flush(vector lanes[PARTS], double totals[LANES]) {
  for (int p = 0; p < PARTS; p++) widen_add(totals + p * WIDTH, lanes[p]);
  clear(lanes);
}

static double add_lanes(double totals[LANES]) {
  for (int half = LANES / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) totals[i] += totals[i + half];
  }
  return totals[0];
}

#endif
