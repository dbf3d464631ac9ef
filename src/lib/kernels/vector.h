/* SPDX-License-Identifier: MIT */
/*
 * Vectors of AXN_VECTOR_BYTES for the kernels: the compilers' own (gcc, clang), with intrinsics where
 * neither has a builtin that does as well: loads and stores of a part of a vector, stores past the
 * caches, the larger and the smaller of two, the conversion to float64 (gcc 12 makes three instructions of
 * it), and fused multiply-adds.
 */
#ifndef AXN_LIB_VECTOR_H
#define AXN_LIB_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { WIDTH = AXN_VECTOR_BYTES / 4, HALF = WIDTH / 2 };

typedef float vector __attribute__((vector_size(AXN_VECTOR_BYTES)));
typedef double wide_vector __attribute__((vector_size(AXN_VECTOR_BYTES)));
typedef float half_vector __attribute__((vector_size(AXN_VECTOR_BYTES / 2)));

#define INLINE static inline __attribute__((always_inline))

/* For what is seldom due, or works on single elements: a compiler would make many times their length of it, in
 * every copy of the kernels, and gain little or nothing. */
#define SMALL __attribute__((noinline, cold))

/* Before a loop that compilers would unroll to no use. */
#if defined(__clang__)
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define ROLLED _Pragma("GCC unroll 1")
#endif

/* Vectors to load before the first of them is stored. Where an output begins a line of the cache or two
 * after an input, modulo 4 KiB, as heaps like to place tensors of whole pages, a processor takes each load
 * for one of what the store before it wrote, and waits. */
enum { AT_ONCE = 4 };

INLINE vector load(const float *from) {
  vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float *to, vector v) {
  memcpy(to, &v, sizeof v);
}

/* A value that is used twice and comes from memory, loaded once: gcc may load it for each use, where a load that
 * crosses two lines of the cache is what takes the time. */
INLINE vector loaded_once(vector v) {
#if AXN_VECTOR_BYTES == 64
  __asm__("" : "+v"(v));
#elif defined(__SSE__)
  __asm__("" : "+x"(v));
#elif defined(__aarch64__)
  __asm__("" : "+w"(v));
#endif
  return v;
}

typedef int32_t float_mask __attribute__((vector_size(AXN_VECTOR_BYTES)));

/* No addition: 0 plus a value is not always that value, less 0 is. */
INLINE vector every(float value) {
  return value - (vector){0};
}

/* `yes` where the mask is set, else `no`. */
INLINE vector select_floats(float_mask mask, vector yes, vector no) {
  return (vector)(((float_mask)yes & mask) | ((float_mask)no & ~mask));
}

/* v where a > b, else 0. */
INLINE vector keep_above(vector a, vector b, vector v) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ),
                                     (__m512)v);
#else
  return (vector)((float_mask)v & (a > b));
#endif
}

/* `yes` where a > b, else `no`. */
INLINE vector select_above(vector a, vector b, vector yes, vector no) {
#if AXN_VECTOR_BYTES == 64
  const __mmask16 above = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  return (vector)_mm512_mask_blend_ps(above, (__m512)no, (__m512)yes);
#else
  return select_floats(a > b, yes, no);
#endif
}

/* floor > v ? floor : v, so that a NaN stays and 0 does not replace -0; x86 has an instruction that does just that. */
INLINE vector at_least(vector floor, vector v) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_max_ps((__m512)floor, (__m512)v);
#elif AXN_VECTOR_BYTES == 32
  return (vector)_mm256_max_ps((__m256)floor, (__m256)v);
#elif defined(__SSE__)
  return (vector)_mm_max_ps((__m128)floor, (__m128)v);
#else
  return select_floats(floor > v, floor, v);
#endif
}

/* ceiling < v ? ceiling : v, likewise. */
INLINE vector at_most(vector ceiling, vector v) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_min_ps((__m512)ceiling, (__m512)v);
#elif AXN_VECTOR_BYTES == 32
  return (vector)_mm256_min_ps((__m256)ceiling, (__m256)v);
#elif defined(__SSE__)
  return (vector)_mm_min_ps((__m128)ceiling, (__m128)v);
#else
  return select_floats(ceiling < v, ceiling, v);
#endif
}

/* What is long without instructions for it, and seldom due, stands once and not wherever it is used. */
#if AXN_VECTOR_BYTES == 64
#define PARTLY INLINE
#else
#define PARTLY static __attribute__((noinline, unused))
#endif

/* The first `count` of a vector, the others from `pad`. */
PARTLY vector load_some(const float *from, int64_t count, vector pad) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_mask_loadu_ps((__m512)pad, (__mmask16)((1u << count) - 1), from);
#elif AXN_VECTOR_BYTES == 32
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), index);
  return (vector)_mm256_blendv_ps((__m256)pad, _mm256_maskload_ps(from, mask),
                                  _mm256_castsi256_ps(mask));
#else
  float values[WIDTH];
  store(values, pad);
  for (int i = 0; i < WIDTH; i++) {
    if (i < count) values[i] = from[i];
  }
  return load(values);
#endif
}

PARTLY void store_some(float *to, int64_t count, vector v) {
#if AXN_VECTOR_BYTES == 64
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#else
  float values[WIDTH];
  store(values, v);
  for (int i = 0; i < WIDTH; i++) {
    if (i < count) to[i] = values[i];
  }
#endif
}

/* `low` in the first `count` elements, `high` in the others. */
INLINE vector join(vector low, vector high, int64_t count) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_mask_blend_ps((__mmask16)((1u << count) - 1), (__m512)high, (__m512)low);
#else
  float_mask index;
  for (int i = 0; i < WIDTH; i++) index[i] = i;
  return select_floats(index < (int32_t)count, low, high);
#endif
}

/* A store past the caches; `to` is aligned to a vector. */
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
INLINE void finish_streams(void) {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

/* Float64 sums of floats. Where vectors of 64 bytes are, half of one is: processors that have them convert
 * faster to what is no wider (0.85 to 1.37 ns a cache line on Zen 4). */
#if AXN_VECTOR_BYTES == 64
typedef double sum_vector __attribute__((vector_size(32)));
#else
typedef wide_vector sum_vector;
#endif

enum { SUMMED = sizeof(sum_vector) / sizeof(double) };

INLINE sum_vector load_sums(const double *from) {
  sum_vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store_sums(double *to, sum_vector v) {
  memcpy(to, &v, sizeof v);
}

INLINE wide_vector load_doubles(const double *from) {
  wide_vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store_doubles(double *to, wide_vector v) {
  memcpy(to, &v, sizeof v);
}

/* HALF floats as doubles. */
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

/* The first `count` of HALF floats as doubles, the others 0. */
PARTLY wide_vector load_wide_some(const float *from, int64_t count) {
#if AXN_VECTOR_BYTES == 64
  return (wide_vector)_mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)((1u << count) - 1), from));
#elif AXN_VECTOR_BYTES == 32
  const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32((int)count), _mm_setr_epi32(0, 1, 2, 3));
  return (wide_vector)_mm256_cvtps_pd(_mm_maskload_ps(from, mask));
#else
  float values[HALF];
  for (int i = 0; i < HALF; i++) values[i] = i < count ? from[i] : 0;
  return load_wide(values);
#endif
}

/* SUMMED floats as doubles. */
INLINE sum_vector load_summed(const float *from) {
#if AXN_VECTOR_BYTES == 64
  return (sum_vector)_mm256_cvtps_pd(_mm_loadu_ps(from));
#else
  return load_wide(from);
#endif
}

/* The first `count` of them, the others 0. */
INLINE sum_vector load_summed_some(const float *from, int64_t count) {
#if AXN_VECTOR_BYTES == 64
  return (sum_vector)_mm256_cvtps_pd(_mm_maskz_loadu_ps((__mmask8)((1u << count) - 1), from));
#else
  return load_wide_some(from, count);
#endif
}

/* sum + value * value, for values that are floats: their squares are exact in float64, so that it makes
 * no difference whether the addition is fused. */
INLINE sum_vector add_square(sum_vector sum, sum_vector value) {
#if AXN_VECTOR_BYTES >= 32
  return (sum_vector)_mm256_fmadd_pd((__m256d)value, (__m256d)value, (__m256d)sum);
#elif defined(__aarch64__)
  return (sum_vector)vfmaq_f64((float64x2_t)sum, (float64x2_t)value, (float64x2_t)value);
#else
  return sum + value * value;
#endif
}

/* sum + value, by units that multiply, where those that add are busy converting. */
INLINE sum_vector add_by_multiplier(sum_vector sum, sum_vector value) {
#if AXN_VECTOR_BYTES == 64
  return (sum_vector)_mm256_fmadd_pd((__m256d)value, _mm256_set1_pd(1), (__m256d)sum);
#else
  return sum + value;
#endif
}

/* The same of floats. */
INLINE vector add_floats_by_multiplier(vector sum, vector value) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_fmadd_ps((__m512)value, _mm512_set1_ps(1), (__m512)sum);
#else
  return sum + value;
#endif
}

INLINE wide_vector root(wide_vector v) {
#if AXN_VECTOR_BYTES == 64
  return (wide_vector)_mm512_sqrt_pd((__m512d)v);
#elif AXN_VECTOR_BYTES == 32
  return (wide_vector)_mm256_sqrt_pd((__m256d)v);
#elif defined(__SSE2__)
  return (wide_vector)_mm_sqrt_pd((__m128d)v);
#elif defined(__aarch64__)
  return (wide_vector)vsqrtq_f64((float64x2_t)v);
#else
  for (int i = 0; i < HALF; i++) v[i] = __builtin_sqrt(v[i]);
  return v;
#endif
}

/* HALF doubles to the nearest floats. */
INLINE void store_narrow(float *to, wide_vector v) {
#if AXN_VECTOR_BYTES == 64
  _mm256_storeu_ps(to, _mm512_cvtpd_ps((__m512d)v));
#elif AXN_VECTOR_BYTES == 32
  _mm_storeu_ps(to, _mm256_cvtpd_ps((__m256d)v));
#else
  const half_vector narrow = __builtin_convertvector(v, half_vector);
  memcpy(to, &narrow, sizeof narrow);
#endif
}

/* Whether any element of a comparison is true. */
typedef int64_t mask_vector __attribute__((vector_size(AXN_VECTOR_BYTES)));

INLINE int any(mask_vector mask) {
#if AXN_VECTOR_BYTES == 64
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif AXN_VECTOR_BYTES == 32
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  int64_t values[HALF], all = 0;
  memcpy(values, &mask, sizeof values);
  for (int i = 0; i < HALF; i++) all |= values[i];
  return all != 0;
#endif
}

/* v where the mask is set, else 0. */
INLINE wide_vector where(mask_vector mask, wide_vector v) {
  return (wide_vector)((mask_vector)v & mask);
}

/* a * b + c in float64, rounded to odd: toward 0 and then, where that was not exact, to an odd last bit. So it rounds
 * to the float that the exact value rounds to, as it has two digits more than a float, or more (Boldo & Melquiond,
 * IEEE Transactions on Computers 57 (4), 2008). The product of floats is exact; the error of the sum is that of Knuth's
 * TwoSum. */
INLINE wide_vector multiply_add_to_odd(wide_vector a, wide_vector b, wide_vector c) {
  const wide_vector product = a * b, sum = product + c, rest = sum - product;
  const wide_vector error = (product - (sum - rest)) + (c - rest);
  const wide_vector side = error * sum; /* nothing underflows; NaN where the sum is not finite */
  const mask_vector beyond = side < 0, inexact = beyond | (side > 0);
  return (wide_vector)(((mask_vector)sum + beyond) | (inexact & 1));
}

/* a * b + c, rounded once, by arithmetic that every machine has. */
static __attribute__((noinline, unused)) vector multiply_add_anywhere(vector a, vector b,
                                                                      vector c) {
  float values[3][WIDTH];
  store(values[0], a), store(values[1], b), store(values[2], c);
  for (int i = 0; i < WIDTH; i += HALF) {
    store_narrow(values[0] + i,
                 multiply_add_to_odd(load_wide(values[0] + i), load_wide(values[1] + i),
                                     load_wide(values[2] + i)));
  }
  return load(values[0]);
}

#if defined(__SSE2__) && AXN_VECTOR_BYTES == 16 && !defined(__FMA__)
/* Whether some sum in float64, of four, may round to another float than the exact one: if it lies halfway between
 * two, or below the normal ones, which have fewer digits; 0 is exact. */
INLINE bool rounds_twice(wide_vector low, wide_vector high) {
  const __m128 a = (__m128)low, b = (__m128)high;
  const __m128i tails = (__m128i)_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0));
  const __m128i heads = (__m128i)_mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1));
  const __m128i halfway =
      _mm_cmpeq_epi32(_mm_and_si128(tails, _mm_set1_epi32(0x1fffffff)), _mm_set1_epi32(0x10000000));
  /* From 1 to below 2^-126: less by 1 - 2^31, the only comparison there is, a signed one, leaves out 0. */
  const __m128i most = _mm_set1_epi32(INT32_MAX);
  const __m128i sizes = _mm_add_epi32(_mm_and_si128(heads, most), most);
  const __m128i small = _mm_cmplt_epi32(sizes, _mm_set1_epi32((0x381 << 20) - 1 + INT32_MIN));
  return _mm_movemask_epi8(_mm_or_si128(halfway, small)) != 0;
}

INLINE wide_vector first_half(vector v) {
  return (wide_vector)_mm_cvtps_pd((__m128)v);
}

INLINE wide_vector second_half(vector v) {
  return (wide_vector)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v));
}

static __attribute__((noinline, unused)) vector multiply_add_in_float64(vector a, vector b,
                                                                        vector c) {
  const wide_vector low = first_half(a) * first_half(b) + first_half(c);
  const wide_vector high = second_half(a) * second_half(b) + second_half(c);
  if (__builtin_expect(rounds_twice(low, high), 0)) return multiply_add_anywhere(a, b, c);
  return (vector)_mm_movelh_ps(_mm_cvtpd_ps((__m128d)low), _mm_cvtpd_ps((__m128d)high));
}
#endif

/* Whether registers of this size have an instruction for it. */
#if AXN_VECTOR_BYTES > 16 || defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
enum { FUSES = true };
#else
enum { FUSES = false };
#endif

/* a * b + c, rounded once. */
INLINE vector multiply_add(vector a, vector b, vector c) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif AXN_VECTOR_BYTES == 32
  return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
  return (vector)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__SSE2__)
  return multiply_add_in_float64(a, b, c);
#elif defined(__aarch64__)
  return (vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__FP_FAST_FMAF)
  for (int i = 0; i < WIDTH; i++) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return a;
#else
  return multiply_add_anywhere(a, b, c);
#endif
}

/* The same where a * b is a float, so that it makes no difference whether the addition is fused. */
INLINE vector exact_multiply_add(vector a, vector b, vector c) {
  return FUSES ? multiply_add(a, b, c) : a * b + c;
}

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
static inline void add_folds(double *values, int64_t count, int64_t fold) {
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
