/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set: meson.build gives KERNEL its name and the compiler the set. */
#include "copy_kernels.h"

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* A block is as wide as a cache line: one or more vector registers of any instruction set. Whole
 * numbers: what is no float32 would be slow to add as one, where it looks like a denormal. */
enum { BLOCK = 64 };
typedef uint32_t block __attribute__((vector_size(BLOCK)));

/* Keeps the compiler from making a call of memcpy out of a loop, or dropping a sum. */
static inline void keep(void) {
  __asm__ volatile("" ::: "memory");
}

static inline block load(const void *from, size_t at) {
  block value;
  memcpy(&value, (const char *)from + at, sizeof value);
  return value;
}

static inline void store(void *to, size_t at, const block *value) {
  memcpy((char *)to + at, value, sizeof *value);
}

/* `to` must be at a multiple of a block's size. */
static inline void store_streaming(void *to, size_t at, const block *value) {
#if defined(__AVX512F__)
  _mm512_stream_si512((void *)((char *)to + at), (__m512i)*value);
#elif defined(__AVX__)
  __m256i half[2];
  memcpy(half, value, sizeof half);
  for (size_t i = 0; i < 2; i++)
    _mm256_stream_si256((__m256i *)(void *)((char *)to + at) + i, half[i]);
#elif defined(__SSE2__)
  __m128i part[4];
  memcpy(part, value, sizeof part);
  for (size_t i = 0; i < 4; i++)
    _mm_stream_si128((__m128i *)(void *)((char *)to + at) + i, part[i]);
#else
  store(to, at, value); /* no such store in C here: the pass equals the loop */
#endif
}

static void end_streaming(void) {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

static void copy(const struct memory_work *work, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += BLOCK) {
    block value = load(work->from, i);
    store(work->to, i, &value);
    keep();
  }
}

static void copy_streaming(const struct memory_work *work, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += BLOCK) {
    block value = load(work->from, i);
    store_streaming(work->to, i, &value);
  }
  end_streaming();
}

/* Several sums, so that the reads and not the additions set the pace. */
static void read_arrays(const void *from, const void *other, size_t begin, size_t end) {
  block sums[4] = {{0}, {0}, {0}, {0}};
  size_t i = begin;
  for (; i + 4 * BLOCK <= end; i += 4 * BLOCK)
    for (size_t part = 0; part < 4; part++) {
      sums[part] += load(from, i + part * BLOCK);
      if (other != NULL) sums[part] += load(other, i + part * BLOCK);
    }
  for (; i < end; i += BLOCK) {
    sums[0] += load(from, i);
    if (other != NULL) sums[0] += load(other, i);
  }
  sums[0] += sums[1] + (sums[2] + sums[3]);
  __asm__ volatile("" ::"r"(&sums[0]) : "memory");
}

static void triad(const struct memory_work *work, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += BLOCK) {
    block value = load(work->from, i) + load(work->other, i);
    store(work->to, i, &value);
  }
}

static void triad_streaming(const struct memory_work *work, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += BLOCK) {
    block value = load(work->from, i) + load(work->other, i);
    store_streaming(work->to, i, &value);
  }
  end_streaming();
}

void KERNEL(const struct memory_work *work, size_t begin, size_t end) {
  switch (work->pass) {
  case MEMORY_COPY_LOOP:
    copy(work, begin, end);
    break;
  case MEMORY_COPY_STREAMING:
    copy_streaming(work, begin, end);
    break;
  case MEMORY_READ:
    read_arrays(work->from, NULL, begin, end);
    break;
  case MEMORY_READ_TWO:
    read_arrays(work->from, work->other, begin, end);
    break;
  case MEMORY_TRIAD:
    triad(work, begin, end);
    break;
  case MEMORY_TRIAD_STREAMING:
    triad_streaming(work, begin, end);
    break;
  default:
    break;
  }
}
