/* SPDX-License-Identifier: MIT */
/*
 * Several vectors of elements at a time, AT_ONCE of them, which is cheaper for bfloat16: NaNs, and what a processor's
 * own conversion does not do as it should, are looked for once for all of them; stores are twice as long; and where
 * the order of elements does not matter, two vectors are those with even numbers and those between, which takes
 * a shift and a mask.
 */
#ifndef AXN_LIB_KERNELS_GROUPS_H
#define AXN_LIB_KERNELS_GROUPS_H

#include "element.h"
#include "kernels.h"

#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 64
enum { PAIRS = AT_ONCE / 2 };

/* Where either is a NaN. */
INLINE __mmask16 nans(vector a, vector b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
}

/* The odd ones of 64 elements. */
INLINE __m512i odd_indices(void) {
  return _mm512_set_epi32(63 << 16 | 61, 59 << 16 | 57, 55 << 16 | 53, 51 << 16 | 49, 47 << 16 | 45,
                          43 << 16 | 41, 39 << 16 | 37, 35 << 16 | 33, 31 << 16 | 29, 27 << 16 | 25,
                          23 << 16 | 21, 19 << 16 | 17, 15 << 16 | 13, 11 << 16 | 9, 7 << 16 | 5,
                          3 << 16 | 1);
}

#ifdef __AVX512BF16__
/* By the processor's own conversion, which takes subnormal numbers for 0. False where there is one, or where the
 * processor has none. Where no result is 0 there is none; else, as after ReLU, a closer look is due. */
INLINE bool converts(const vector some[AT_ONCE], __m512i pairs[PAIRS]) {
  enum { SUBNORMAL = 0x20 };
  __mmask32 zeros = 0;
  __mmask16 subnormal = 0;
  if (!atomic_load_explicit(&axn_converts_bfloat16, memory_order_relaxed)) return false;
  for (int p = 0; p < PAIRS; p++) {
    pairs[p] = (__m512i)_mm512_cvtne2ps_pbh((__m512)some[2 * p + 1], (__m512)some[2 * p]);
    zeros |= _mm512_testn_epi16_mask(pairs[p], _mm512_set1_epi16(0x7fff));
  }
  if (__builtin_expect(zeros == 0, 1)) return true;
  for (int v = 0; v < AT_ONCE; v++) {
    subnormal |= _mm512_fpclass_ps_mask((__m512)some[v], SUBNORMAL);
  }
  return __builtin_expect(subnormal == 0, 1);
}
#else
INLINE bool converts(const vector some[AT_ONCE], __m512i pairs[PAIRS]) {
  (void)some, (void)pairs;
  return false;
}
#endif

/* With integers; NaNs, which are not rounded, are seldom. */
INLINE void convert(const vector some[AT_ONCE], __m512i pairs[PAIRS]) {
  __m512i up[AT_ONCE];
  __mmask16 rare = 0;
  for (int v = 0; v < AT_ONCE; v++) up[v] = rounded_up(some[v]);
  for (int p = 0; p < PAIRS; p++) rare |= nans(some[2 * p], some[2 * p + 1]);
  if (__builtin_expect(rare != 0, 0)) {
    for (int v = 0; v < AT_ONCE; v++) up[v] = with_nans(up[v], some[v]);
  }
  for (int p = 0; p < PAIRS; p++) {
    pairs[p] = _mm512_permutex2var_epi16(up[2 * p], odd_indices(), up[2 * p + 1]);
  }
}

/* Elements of the first half and of the second by turns. */
INLINE __m512i interleaved(__m512i elements) {
  const __m512i indices = _mm512_set_epi32(
      31 << 16 | 15, 30 << 16 | 14, 29 << 16 | 13, 28 << 16 | 12, 27 << 16 | 11, 26 << 16 | 10,
      25 << 16 | 9, 24 << 16 | 8, 23 << 16 | 7, 22 << 16 | 6, 21 << 16 | 5, 20 << 16 | 4,
      19 << 16 | 3, 18 << 16 | 2, 17 << 16 | 1, 16 << 16 | 0);
  return _mm512_permutexvar_epi16(indices, elements);
}

INLINE void put_group(element *to, const vector some[AT_ONCE], bool in_order, bool streams) {
  __m512i pairs[PAIRS];
  if (!converts(some, pairs)) convert(some, pairs);
  for (int p = 0; p < PAIRS; p++, to += 2 * WIDTH) {
    if (!in_order) pairs[p] = interleaved(pairs[p]);
    if (streams) {
      _mm256_stream_si256((__m256i *)(void *)to, _mm512_castsi512_si256(pairs[p]));
      _mm256_stream_si256((__m256i *)(void *)(to + WIDTH), _mm512_extracti64x4_epi64(pairs[p], 1));
    } else {
      _mm512_storeu_si512(to, pairs[p]);
    }
  }
}
#elif AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES == 32
/* Where either is a NaN. */
INLINE __m256 nans(vector a, vector b) {
  return _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_UNORD_Q);
}

INLINE void put_pair(element *to, __m256i elements, bool streams) {
  if (streams) {
    _mm_stream_si128((__m128i *)(void *)to, _mm256_castsi256_si128(elements));
    _mm_stream_si128((__m128i *)(void *)(to + WIDTH), _mm256_extracti128_si256(elements, 1));
  } else {
    _mm256_storeu_si256((__m256i *)(void *)to, elements);
  }
}

INLINE void put_group(element *to, const vector some[AT_ONCE], bool in_order, bool streams) {
  __m256i up[AT_ONCE];
  for (int v = 0; v < AT_ONCE; v++) up[v] = rounded_up(some[v]);
  const __m256 rare = _mm256_or_ps(nans(some[0], some[1]), nans(some[2], some[3]));
  if (__builtin_expect(_mm256_movemask_ps(rare) != 0, 0)) {
    for (int v = 0; v < AT_ONCE; v++) up[v] = with_nans(up[v], some[v]);
  }
  for (int v = 0; v < AT_ONCE; v += 2) {
    const __m256i low = _mm256_srli_epi32(up[v], 16), high = up[v + 1];
    const __m256i halves = in_order ? _mm256_packus_epi32(low, _mm256_srli_epi32(high, 16))
                                    : _mm256_blend_epi16(low, high, 0xaa);
    put_pair(to + v * WIDTH, in_order ? _mm256_permute4x64_epi64(halves, 0xd8) : halves, streams);
  }
}
#elif AXN_ELEMENT == AXN_ELEMENT_BFLOAT16
/* Elements of which each second is the next of `high`. */
CONVERSION bit_vector pair_of(vector low, vector high) {
  return rounded(low) >> 16 | (rounded(high) & 0xffff0000);
}

INLINE void put_group(element *to, const vector some[AT_ONCE], bool in_order, bool streams) {
  for (int v = 0; v < AT_ONCE; v += 2) {
    if (in_order) {
      put(to + v * WIDTH, some[v], streams);
      put(to + (v + 1) * WIDTH, some[v + 1], streams);
    } else {
      const bit_vector bits = pair_of(some[v], some[v + 1]);
      memcpy(to + v * WIDTH, &bits, sizeof bits);
    }
  }
}
#else
INLINE void put_group(element *to, const vector some[AT_ONCE], bool in_order, bool streams) {
  (void)in_order;
  for (int v = 0; v < AT_ONCE; v++) put(to + v * WIDTH, some[v], streams);
}
#endif

/* If not in order, in one that put_group() undoes. With vectors of 64 bytes, of which a permutation widens one, that is
 * cheaper where several are loaded for one that is stored. */
INLINE void load_group(vector some[AT_ONCE], const element *from, bool in_order) {
#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16
  for (int v = 0; v < AT_ONCE && !in_order; v += 2) {
    bit_vector bits;
    memcpy(&bits, from + v * WIDTH, sizeof bits);
    some[v] = (vector)(bits << 16);
    some[v + 1] = (vector)(bits & 0xffff0000);
  }
  if (!in_order) return;
#endif
  (void)in_order;
  for (int v = 0; v < AT_ONCE; v++) some[v] = load_elements(from + v * WIDTH);
}

/* Any number of vectors that lie side by side. */
INLINE void put_all(element *to, const vector *some, int count, bool streams) {
  int v = 0;
#if AXN_ELEMENT == AXN_ELEMENT_BFLOAT16 && AXN_VECTOR_BYTES > 16
  for (; v + AT_ONCE <= count; v += AT_ONCE) put_group(to + v * WIDTH, some + v, true, streams);
#endif
  for (; v < count; v++) put(to + v * WIDTH, some[v], streams);
}

#endif
