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

#endif
