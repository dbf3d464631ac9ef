/* SPDX-License-Identifier: MIT */
/*
 * The elements of tensors in memory, which are float32, bfloat16 or float16 by AXN_ELEMENT, an axn_dtype;
 * arithmetic is on vectors of floats whatever they are. Conversions are exact one way, and round to the
 * nearest, ties to even, the other way; a NaN stays one, quiet, with the leading bits of its payload; all in
 * the same bits on every instruction set. A bfloat16 is the upper half of a float, so it is converted with integers;
 * groups.h has what is faster for several vectors.
 */
#ifndef AXN_LIB_KERNELS_ELEMENT_H
#define AXN_LIB_KERNELS_ELEMENT_H

#include <stdbool.h>

#include "axisnorm/axisnorm.h"
#include "vector.h"

#define AXN_ELEMENT_FLOAT32 1
#define AXN_ELEMENT_BFLOAT16 3
#define AXN_ELEMENT_FLOAT16 4
_Static_assert(AXN_ELEMENT_FLOAT32 == AXN_FLOAT32 && AXN_ELEMENT_BFLOAT16 == AXN_BFLOAT16 &&
                   AXN_ELEMENT_FLOAT16 == AXN_FLOAT16,
               "the preprocessor's numbers of types");

#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32

typedef float element;

INLINE vector load_elements(const element *from) {
  return load(from);
}

INLINE vector load_some_elements(const element *from, int64_t count, vector pad) {
  return load_some(from, count, pad);
}

INLINE wide_vector load_wide_elements(const element *from) {
  return load_wide(from);
}

INLINE void store_elements(element *to, vector v) {
  store(to, v);
}

INLINE void store_some_elements(element *to, int64_t count, vector v) {
  store_some(to, count, v);
}

INLINE void stream_elements(element *to, vector v) {
  stream(to, v);
}

INLINE double element_value(element e) {
  return (double)e;
}

INLINE element nearest_element(float value) {
  return value;
}

#else

typedef uint16_t element;
typedef uint32_t bit_vector __attribute__((vector_size(AXN_VECTOR_BYTES)));
typedef int32_t sign_vector __attribute__((vector_size(AXN_VECTOR_BYTES)));
typedef element element_vector __attribute__((vector_size(AXN_VECTOR_BYTES / 2)));

/* `yes` where the mask is set, else `no`. */
INLINE bit_vector choose(sign_vector mask, bit_vector yes, bit_vector no) {
  return (yes & (bit_vector)mask) | (no & ~(bit_vector)mask);
}

/* Whether the bits of magnitudes are above a limit; both are below 2^31. */
INLINE sign_vector above(bit_vector magnitude, uint32_t limit) {
  return (sign_vector)magnitude > (int32_t)limit;
}

#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16

INLINE vector widened(bit_vector bits) {
  return (vector)(bits << 16);
}

/* Bits whose upper halves are elements. */
INLINE bit_vector rounded(vector v) {
  const bit_vector bits = (bit_vector)v, up = bits + 0x7fff + (bits >> 16 & 1);
  return choose(above(bits & 0x7fffffff, 0x7f800000), bits | 0x400000, up);
}

INLINE bit_vector narrowed(vector v) {
  return rounded(v) >> 16;
}

#else

/* The exponent moves by 112; a product brings subnormals, which have none, to their place. */
INLINE vector widened(bit_vector bits) {
  const bit_vector magnitude = bits & 0x7fff, sign = (bits & 0x8000) << 16;
  const bit_vector finite = (bit_vector)((vector)(magnitude << 13) * 0x1p112f);
  const bit_vector quiet =
      choose(above(magnitude, 0x7c00), magnitude << 13 | 0x400000, magnitude << 13);
  return (vector)(choose(above(magnitude, 0x7bff), quiet | 0x7f800000, finite) | sign);
}

/* Subnormals are rounded by an addition that leaves no room for what is below them. */
INLINE bit_vector narrowed(vector v) {
  const bit_vector bits = (bit_vector)v, magnitude = bits & 0x7fffffff;
  const bit_vector small = (bit_vector)((vector)magnitude + 0.5f) - 0x3f000000;
  const bit_vector usual = (magnitude + (0u - (112u << 23) + 0xfff) + (magnitude >> 13 & 1)) >> 13;
  const bit_vector large = choose(above(magnitude, 0x7f800000), (magnitude >> 13 & 0x3ff) | 0x7e00,
                                  magnitude * 0 + 0x7c00);
  const bit_vector finite = choose(above(magnitude, 0x387fffff), usual, small);
  return choose(above(magnitude, 0x477fffff), large, finite) | (bits >> 16 & 0x8000);
}

#endif

#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 64
/* Bits whose upper halves are elements, but for NaNs. */
INLINE __m512i rounded_up(vector v) {
  const __m512i bits = (__m512i)v;
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
}

INLINE __m512i with_nans(__m512i up, vector v) {
  const __mmask16 none = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(up, none, (__m512i)v, _mm512_set1_epi32(0x400000));
}
#elif AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 32
/* Bits whose upper halves are elements, but for NaNs. */
INLINE __m256i rounded_up(vector v) {
  const __m256i bits = (__m256i)v;
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
}

INLINE __m256i with_nans(__m256i up, vector v) {
  const __m256i quiet = _mm256_or_si256((__m256i)v, _mm256_set1_epi32(0x400000));
  const __m256 none = _mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q);
  return _mm256_castps_si256(
      _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), none));
}
#endif

/* Without instructions for it, a conversion is too long to stand wherever it is used. */
#if AXN_VECTOR_BYTES == 16 && !(AXN_ELEMENT == AXN_ELEMENT_FLOAT16 && defined(__aarch64__))
#define CONVERSION static __attribute__((noinline, unused))
#else
#define CONVERSION INLINE
#endif

#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 64
/* Which of 16 elements go to the upper halves of 16 floats; and the way back. */
INLINE __m512i spread_indices(void) {
  return _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16,
                          8 << 16, 7 << 16, 6 << 16, 5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16,
                          0);
}

INLINE __m512i gather_indices(void) {
  return _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 31 << 16 | 29, 27 << 16 | 25, 23 << 16 | 21,
                          19 << 16 | 17, 15 << 16 | 13, 11 << 16 | 9, 7 << 16 | 5, 3 << 16 | 1);
}
#endif

#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16
/* gcc 12 would widen a vector in two halves. */
INLINE vector vector_of(element_vector elements) {
#if AXN_VECTOR_BYTES == 64
  const __m512i low = _mm512_castsi256_si512((__m256i)elements);
  return (vector)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, spread_indices(), low);
#elif AXN_VECTOR_BYTES == 32
  return (vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)elements), 16);
#elif defined(__SSE2__)
  int64_t bits;
  memcpy(&bits, &elements, sizeof bits);
  return (vector)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_cvtsi64_si128(bits));
#elif defined(__aarch64__)
  return (vector)vshll_n_u16((uint16x4_t)elements, 16);
#else
  return widened(__builtin_convertvector(elements, bit_vector));
#endif
}
#else
CONVERSION vector vector_of(element_vector elements) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_cvtph_ps((__m256i)elements);
#elif AXN_VECTOR_BYTES == 32
  return (vector)_mm256_cvtph_ps((__m128i)elements);
#elif defined(__aarch64__)
  return (vector)vcvt_f32_f16((float16x4_t)elements);
#else
  return widened(__builtin_convertvector(elements, bit_vector));
#endif
}
#endif

CONVERSION element_vector elements_of(vector v) {
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT16 && AXN_VECTOR_BYTES == 64
  return (element_vector)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif AXN_ELEMENT == AXN_ELEMENT_FLOAT16 && AXN_VECTOR_BYTES == 32
  return (element_vector)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#elif AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 64
  const __m512i up = with_nans(rounded_up(v), v);
  return (element_vector)_mm512_castsi512_si256(_mm512_permutexvar_epi16(gather_indices(), up));
#elif AXN_ELEMENT == AXN_ELEMENT_FLOAT16 && defined(__aarch64__)
  return (element_vector)vcvt_f16_f32((float32x4_t)v);
#elif AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 32
  /* Bytes move within halves of the register, then the halves. */
  const __m256i up = with_nans(rounded_up(v), v);
  const __m256i upper = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i halves = _mm256_shuffle_epi8(up, upper);
  return (element_vector)_mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08));
#else
  return __builtin_convertvector(narrowed(v), element_vector);
#endif
}

INLINE vector load_elements(const element *from) {
  element_vector elements;
  memcpy(&elements, from, sizeof elements);
  return vector_of(elements);
}

/* The first `count` elements, the others 0. */
PARTLY element_vector some_elements(const element *from, int64_t count) {
#if AXN_VECTOR_BYTES == 64
  return (element_vector)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), from);
#else
  element values[WIDTH] = {0};
  element_vector elements;
  for (int i = 0; i < WIDTH; i++) {
    if (i < count) values[i] = from[i];
  }
  memcpy(&elements, values, sizeof elements);
  return elements;
#endif
}

PARTLY vector load_some_elements(const element *from, int64_t count, vector pad) {
  return join(vector_of(some_elements(from, count)), pad, count);
}

INLINE wide_vector low_half(vector v) {
#if AXN_VECTOR_BYTES == 64
  return (wide_vector)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
#elif AXN_VECTOR_BYTES == 32
  return (wide_vector)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
#else
  float floats[WIDTH];
  store(floats, v);
  return load_wide(floats);
#endif
}

/* HALF elements as doubles. */
INLINE wide_vector load_wide_elements(const element *from) {
#if AXN_VECTOR_BYTES == 64
  const __m128i elements = _mm_loadu_si128((const __m128i *)(const void *)from);
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT16
  return (wide_vector)_mm512_cvtps_pd(_mm256_cvtph_ps(elements));
#else
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(elements), 16);
  return (wide_vector)_mm512_cvtps_pd(_mm256_castsi256_ps(bits));
#endif
#elif AXN_VECTOR_BYTES == 32
  const __m128i elements = _mm_loadl_epi64((const __m128i *)(const void *)from);
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT16
  return (wide_vector)_mm256_cvtps_pd(_mm_cvtph_ps(elements));
#else
  const __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(elements), 16);
  return (wide_vector)_mm256_cvtps_pd(_mm_castsi128_ps(bits));
#endif
#else
  element_vector elements = {0};
  memcpy(&elements, from, sizeof elements / 2);
  return low_half(vector_of(elements));
#endif
}

INLINE void store_elements(element *to, vector v) {
  const element_vector elements = elements_of(v);
  memcpy(to, &elements, sizeof elements);
}

PARTLY void store_some_elements(element *to, int64_t count, vector v) {
  const element_vector elements = elements_of(v);
#if AXN_VECTOR_BYTES == 64
  _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1), (__m256i)elements);
#else
  element values[WIDTH];
  memcpy(values, &elements, sizeof elements);
  for (int i = 0; i < WIDTH; i++) {
    if (i < count) to[i] = values[i];
  }
#endif
}

/* `to` is aligned to a vector of elements. */
INLINE void stream_elements(element *to, vector v) {
#if AXN_VECTOR_BYTES == 64
  _mm256_stream_si256((__m256i *)(void *)to, (__m256i)elements_of(v));
#elif AXN_VECTOR_BYTES == 32
  _mm_stream_si128((__m128i *)(void *)to, (__m128i)elements_of(v));
#else
  store_elements(to, v);
#endif
}

INLINE double element_value(element e) {
  element values[WIDTH] = {e};
  return (double)load_elements(values)[0];
}

INLINE element nearest_element(float value) {
  return elements_of((vector){value})[0];
}

#endif

/* Element `at` of a tensor. */
INLINE const element *input_at(const void *tensor, int64_t at) {
  return (const element *)tensor + at;
}

INLINE element *output_at(void *tensor, int64_t at) {
  return (element *)tensor + at;
}

/* Elements from `to` on up to where a vector of them is aligned. */
INLINE int64_t until_aligned(const element *to) {
  return (int64_t)(-(uintptr_t)to % (WIDTH * sizeof(element)) / sizeof(element));
}

INLINE void put(element *to, vector v, bool streams) {
  if (streams) {
    stream_elements(to, v);
  } else {
    store_elements(to, v);
  }
}

/* Brings what lies `ahead` bytes from here to the second-level cache: down a column no prefetcher of the
 * processor sees it come. Nothing need be there, so it is no pointer that is computed. */
INLINE void fetch(const void *from, int64_t ahead) {
  __builtin_prefetch((const void *)((uintptr_t)from + (uintptr_t)ahead), 0, 2);
}

#endif
