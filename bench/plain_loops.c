/* SPDX-License-Identifier: MIT */
/*
 * What a machine allows a normalization that takes its statistics from x: plain loops, with float32 arithmetic and no
 * regard to rounding, beside a copy of the same tensor; of float32, of bfloat16, and of float32 with SiLU and GELU
 * as compilers make vectors of them from polynomials of about float32's accuracy.
 *
 *     clang -O3 -march=native -ffast-math -fopenmp bench/plain_loops.c -o plain_loops && ./plain_loops 2
 *
 * (gcc 12 makes slower loops of it.) One statistic after the other is summed, then applied. Prints nanoseconds per
 * 64 bytes of x and thread, medians, and their ratio to the copy (forward) or to the loop over two inputs and an output
 * (backward). Arguments: threads, KiB of x per thread.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { ROUNDS = 101, LINE = 64 }; /* bytes in a line of the cache */

enum { COPY, SUMS, SUMS_THEN_Y, TRIAD, SUMS_OF_BOTH, SUMS_THEN_GRADIENT, LOOPS };
enum { FLOAT32, BFLOAT16, SILU, GELU, KINDS };

static double now(void) {
  struct timespec at;
  timespec_get(&at, TIME_UTC);
  return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float same(float value) {
  return value;
}

/* exp(-x): a power of two, and a polynomial for what is left. */
static inline float exp_of_minus(float x) {
  const float shifted = x * -0x1.715476p0f + 0x1.8p23f, n = shifted - 0x1.8p23f;
  const float r = n * -0x1.62e43p-1f - x;
  const float p =
      ((((0x1.1239e4p-7f * r + 0x1.5558f2p-5f) * r + 0x1.555492p-3f) * r + 0.5f) * r + 1) * r + 1;
  return float_of_bits(bits_of(p) + (bits_of(shifted) << 23));
}

static inline float silu(float z) {
  return z / (1 + exp_of_minus(fminf(fmaxf(z, -87), 87)));
}

/* z times the normal distribution's tail (Abramowitz & Stegun 26.2.17), from which float32 keeps all digits but one. */
static inline float gelu(float z) {
  const float t = fminf(fabsf(z), 13), k = 1 / (1 + 0.2316419f * t);
  const float p = ((((1.330274429f * k - 1.821255978f) * k + 1.781477937f) * k - 0.356563782f) * k +
                   0.31938153f) *
                  k;
  return fmaxf(z, 0) - t * 0.3989422804f * exp_of_minus(t * t * 0.5f) * p;
}

typedef struct tensors {
  const void *x, *g;
  void *y;
  long count, statistic; /* elements */
} tensors;

/* The loops over one type of element; `end` is what an activation makes of z. */
#define LOOPS_OF(kind, element, wide, narrow, end)                                                 \
  static float sum_##kind(const element *restrict x, long count) {                                 \
    float s = 0, q = 0;                                                                            \
    _Pragma("omp simd reduction(+ : s, q)") for (long i = 0; i < count; i++) {                     \
      s += wide(x[i]), q += wide(x[i]) * wide(x[i]);                                               \
    }                                                                                              \
    return s + q;                                                                                  \
  }                                                                                                \
  static void apply_##kind(const element *restrict x, element *restrict y, long count, float mean, \
                           float rstd) {                                                           \
    _Pragma("omp simd") for (long i = 0; i < count; i++) {                                         \
      y[i] = narrow(end((wide(x[i]) - mean) * rstd));                                              \
    }                                                                                              \
  }                                                                                                \
  static float sum_two_##kind(const element *restrict x, const element *restrict g, long count) {  \
    float s = 0, q = 0;                                                                            \
    _Pragma("omp simd reduction(+ : s, q)") for (long i = 0; i < count; i++) {                     \
      s += wide(g[i]), q += wide(g[i]) * wide(x[i]);                                               \
    }                                                                                              \
    return s + q;                                                                                  \
  }                                                                                                \
  static void gradient_##kind(const element *restrict x, const element *restrict g,                \
                              element *restrict out, long count, float a, float b) {               \
    _Pragma("omp simd") for (long i = 0; i < count; i++) {                                         \
      out[i] = narrow(wide(g[i]) * a + (wide(x[i]) * b + a));                                      \
    }                                                                                              \
  }

/* One statistic after the other. */
#define RUN_OF(kind, element)                                                                      \
  static float run_##kind(int loop, const tensors *t) {                                            \
    float result = 0;                                                                              \
    for (long i = 0; i < t->count; i += t->statistic) {                                            \
      const element *x = (const element *)t->x + i, *g = (const element *)t->g + i;                \
      element *y = (element *)t->y + i;                                                            \
      float s = 0;                                                                                 \
      if (loop == SUMS || loop == SUMS_THEN_Y) s = sum_##kind(x, t->statistic);                    \
      if (loop == SUMS_OF_BOTH || loop == SUMS_THEN_GRADIENT) {                                    \
        s = sum_two_##kind(x, g, t->statistic);                                                    \
      }                                                                                            \
      if (loop == SUMS_THEN_Y) apply_##kind(x, y, t->statistic, s * 1e-9f, 1);                     \
      if (loop == SUMS_THEN_GRADIENT) gradient_##kind(x, g, y, t->statistic, s * 1e-9f, 1);        \
      result += s;                                                                                 \
    }                                                                                              \
    return result;                                                                                 \
  }

LOOPS_OF(float32, float, same, same, same)
LOOPS_OF(silu, float, same, same, silu)
LOOPS_OF(gelu, float, same, same, gelu)
#ifndef __AVX512BF16__
/* A bfloat16 is the upper half of a float; to the nearest, NaNs and all else that is rare left out. */
static inline float widened(uint16_t bits) {
  return float_of_bits((uint32_t)bits << 16);
}

static inline uint16_t rounded(float value) {
  return (uint16_t)((bits_of(value) + 0x8000) >> 16);
}

LOOPS_OF(bfloat16, uint16_t, widened, rounded, same)
#else
/* By the instructions for bfloat16, which take subnormal numbers for 0; compilers do not find them by themselves. */
static inline __m512 load_16(const uint16_t *from) {
  return _mm512_cvtpbh_ps((__m256bh)_mm256_loadu_si256((const __m256i *)(const void *)from));
}

static inline void store_32(uint16_t *to, __m512 low, __m512 high) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* Of a and of a * b. */
static float sum_products(const uint16_t *a, const uint16_t *b, long count) {
  const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
  __m512 s[4] = {{0}}, q[4] = {{0}};
  for (long i = 0; i < count; i += 128) {
    for (int k = 0; k < 4; k++) {
      const __m512bh v = (__m512bh)_mm512_loadu_si512(a + i + 32 * k);
      s[k] = _mm512_dpbf16_ps(s[k], v, one);
      q[k] = _mm512_dpbf16_ps(q[k], v, (__m512bh)_mm512_loadu_si512(b + i + 32 * k));
    }
  }
  return _mm512_reduce_add_ps(((s[0] + s[1]) + (s[2] + s[3])) + ((q[0] + q[1]) + (q[2] + q[3])));
}

static float sum_bfloat16(const uint16_t *x, long count) {
  return sum_products(x, x, count);
}

static float sum_two_bfloat16(const uint16_t *x, const uint16_t *g, long count) {
  return sum_products(g, x, count);
}

static void apply_bfloat16(const uint16_t *x, uint16_t *y, long count, float mean, float rstd) {
  for (long i = 0; i < count; i += 32) {
    store_32(y + i, (load_16(x + i) - mean) * rstd, (load_16(x + i + 16) - mean) * rstd);
  }
}

static inline __m512 gradient_16(const uint16_t *x, const uint16_t *g, float a, float b) {
  return load_16(g) * a + (load_16(x) * b + a);
}

static void gradient_bfloat16(const uint16_t *x, const uint16_t *g, uint16_t *out, long count,
                              float a, float b) {
  for (long i = 0; i < count; i += 32) {
    store_32(out + i, gradient_16(x + i, g + i, a, b), gradient_16(x + i + 16, g + i + 16, a, b));
  }
}
#endif

RUN_OF(float32, float)
RUN_OF(bfloat16, uint16_t)
RUN_OF(silu, float)
RUN_OF(gelu, float)

/* The limits move the same bytes, whatever they are. What they multiply by is not known when this is compiled. */
static volatile float none = 0;

static float run(int kind, int loop, const tensors *t) {
  static float (*const runs[KINDS])(int, const tensors *) = {run_float32, run_bfloat16, run_silu,
                                                             run_gelu};
  if (loop != COPY && loop != TRIAD) return runs[kind](loop, t);
  const long part = kind == BFLOAT16 ? 2 : 1;
  const float zero = none;
  for (long i = 0; i < t->count / part; i += t->statistic / part) {
    const float *x = (const float *)t->x + i, *g = (const float *)t->g + i;
    float *y = (float *)t->y + i;
    if (loop == COPY) apply_float32(x, y, t->statistic / part, zero, 1);
    if (loop == TRIAD) gradient_float32(x, g, y, t->statistic / part, zero, 1);
  }
  return 0;
}

/* Every thread has tensors of its own, so that nothing is shared but the caches. */
static void measure(int kind, int threads, const tensors *all, double medians[LOOPS]) {
  static double times[LOOPS][ROUNDS];
  volatile float sink = 0;
  for (int r = 0; r < ROUNDS; r++) {
    for (int loop = 0; loop < LOOPS; loop++) {
      /* The first finds what another loop left in the caches. */
      for (int twice = 0; twice < 2; twice++) {
        const double begin = now();
#pragma omp parallel num_threads(threads)
        {
          const float result = run(kind, loop, &all[omp_get_thread_num()]);
#pragma omp critical
          sink = sink + result;
        }
        times[loop][r] = now() - begin;
      }
    }
  }
  const long bytes = all[0].count * (kind == BFLOAT16 ? 2 : 4);
  for (int loop = 0; loop < LOOPS; loop++) {
    qsort(times[loop], ROUNDS, sizeof times[loop][0], compare);
    medians[loop] = times[loop][ROUNDS / 2] / ((double)bytes / LINE);
  }
}

/* 2.5, as float32 and as two bfloat16. */
static float *room(long bytes) {
  uint16_t *values = aligned_alloc(4096, ((size_t)bytes + 4095) / 4096 * 4096);
  if (values == NULL) exit(1);
  for (long i = 0; i < bytes / 2; i++) values[i] = 0x4020;
  return (float *)(void *)values;
}

static void print_kind(const char *name, int kind, int threads, tensors *all, long bytes) {
  static const char *const names[LOOPS] = {"copy",  "sums",         "sums, then y",
                                           "triad", "sums of both", "sums, then grad_x"};
  static const int statistics[] = {4, 12, 48, 192}; /* KiB */
  printf("\n%s\n\n| a statistic of, KiB |", name);
  for (int loop = 0; loop < LOOPS; loop++) printf(" %s |", names[loop]);
  printf("\n|---|---|---|---|---|---|---|\n");
  for (size_t s = 0; s < sizeof statistics / sizeof statistics[0]; s++) {
    double ns[LOOPS];
    for (int t = 0; t < threads; t++) {
      const long size = kind == BFLOAT16 ? 2 : 4;
      all[t].statistic = statistics[s] * 1024L / size;
      all[t].count = bytes / size / all[t].statistic * all[t].statistic;
    }
    measure(kind, threads, all, ns);
    printf("| %d |", statistics[s]);
    for (int loop = 0; loop < LOOPS; loop++)
      printf(" %.2f (%.2f) |", ns[loop], ns[loop] / ns[loop < TRIAD ? COPY : TRIAD]);
    printf("\n");
  }
}

int main(int argc, char **argv) {
  static const char *const kinds[KINDS] = {"float32", "bfloat16", "float32 with SiLU",
                                           "float32 with GELU"};
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  const long bytes = (argc > 2 ? atol(argv[2]) : 1536) * 1024;
  if (threads < 1 || bytes < 192 * 1024)
    return fputs("plain_loops [threads [KiB of x per thread, 192 or more]]\n", stderr), 2;
  tensors *all = calloc((size_t)threads, sizeof *all);
  if (all == NULL) return 1;
  for (int t = 0; t < threads; t++) all[t] = (tensors){room(bytes), room(bytes), room(bytes), 0, 0};
  for (int kind = 0; kind < KINDS; kind++) print_kind(kinds[kind], kind, threads, all, bytes);
  return 0;
}
