/* SPDX-License-Identifier: MIT */
/*
 * What the memory of a machine allows a normalization that takes its statistics from x: plain loops, in float32
 * and with no regard to rounding, beside a copy of the same tensor.
 *
 *     clang -O3 -march=native -ffast-math -fopenmp bench/plain_loops.c -o plain_loops && ./plain_loops 2
 *
 * (gcc 12 makes slower loops of it.) One statistic after the other is summed, then applied. Prints nanoseconds per
 * 64 bytes of x and thread, medians, and their ratio to the copy (forward) or to the loop over two inputs and an output
 * (backward). Arguments: threads, KiB of x per thread.
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 201, LINE = 16 }; /* floats in a line of the cache */

enum { COPY, SUMS, SUMS_THEN_Y, TRIAD, SUMS_OF_BOTH, SUMS_THEN_GRADIENT, LOOPS };

static double now(void) {
  struct timespec at;
  timespec_get(&at, TIME_UTC);
  return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static float sum(const float *restrict x, long count) {
  float s = 0, q = 0;
#pragma omp simd reduction(+ : s, q)
  for (long i = 0; i < count; i++) s += x[i], q += x[i] * x[i];
  return s + q;
}

static void apply(const float *restrict x, float *restrict y, long count, float mean, float rstd) {
#pragma omp simd
  for (long i = 0; i < count; i++) y[i] = (x[i] - mean) * rstd;
}

static float sum_two(const float *restrict x, const float *restrict g, long count) {
  float s = 0, q = 0;
#pragma omp simd reduction(+ : s, q)
  for (long i = 0; i < count; i++) s += g[i], q += g[i] * x[i];
  return s + q;
}

static void gradient(const float *restrict x, const float *restrict g, float *restrict out,
                     long count, float a, float b) {
#pragma omp simd
  for (long i = 0; i < count; i++) out[i] = g[i] * a + (x[i] * b + a);
}

typedef struct tensors {
  const float *x, *g;
  float *y;
  long count, statistic; /* floats */
} tensors;

static float run(int loop, const tensors *t) {
  float result = 0;
  for (long i = 0; i < t->count; i += t->statistic) {
    const float *x = t->x + i, *g = t->g + i;
    float *y = t->y + i, s = 0;
    if (loop == SUMS || loop == SUMS_THEN_Y) s = sum(x, t->statistic);
    if (loop == SUMS_OF_BOTH || loop == SUMS_THEN_GRADIENT) s = sum_two(x, g, t->statistic);
    if (loop == COPY || loop == SUMS_THEN_Y) apply(x, y, t->statistic, s * 1e-9f, 1);
    if (loop == TRIAD || loop == SUMS_THEN_GRADIENT) gradient(x, g, y, t->statistic, s * 1e-9f, 1);
    result += s;
  }
  return result;
}

/* Every thread has tensors of its own, so that nothing is shared but the caches. */
static void measure(int threads, const tensors *all, double medians[LOOPS]) {
  static double times[LOOPS][ROUNDS];
  volatile float sink = 0;
  for (int r = 0; r < ROUNDS; r++) {
    for (int loop = 0; loop < LOOPS; loop++) {
      for (int twice = 0; twice < 2;
           twice++) { /* the first finds what another loop left in the caches */
        const double begin = now();
#pragma omp parallel num_threads(threads)
        {
          const float result = run(loop, &all[omp_get_thread_num()]);
#pragma omp critical
          sink = sink + result;
        }
        times[loop][r] = now() - begin;
      }
    }
  }
  for (int loop = 0; loop < LOOPS; loop++) {
    qsort(times[loop], ROUNDS, sizeof times[loop][0], compare);
    medians[loop] = times[loop][ROUNDS / 2] / (double)(all[0].count / LINE);
  }
}

static float *floats(long count) {
  float *values = aligned_alloc(4096, ((size_t)count * sizeof *values + 4095) / 4096 * 4096);
  if (values == NULL) exit(1);
  for (long i = 0; i < count; i++) values[i] = (float)(i % 17) - 8;
  return values;
}

int main(int argc, char **argv) {
  static const char *const names[LOOPS] = {"copy",  "sums",         "sums, then y",
                                           "triad", "sums of both", "sums, then grad_x"};
  static const int statistics[] = {4, 12, 48, 192}; /* KiB */
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  const long count = (argc > 2 ? atol(argv[2]) : 1536) * 256;
  if (threads < 1 || count < 192 * 256)
    return fputs("plain_loops [threads [KiB of x per thread, 192 or more]]\n", stderr), 2;
  tensors *all = calloc((size_t)threads, sizeof *all);
  if (all == NULL) return 1;
  for (int t = 0; t < threads; t++)
    all[t] = (tensors){floats(count), floats(count), floats(count), count, 0};
  printf("| a statistic of, KiB |");
  for (int loop = 0; loop < LOOPS; loop++) printf(" %s |", names[loop]);
  printf("\n|---|---|---|---|---|---|---|\n");
  for (size_t s = 0; s < sizeof statistics / sizeof statistics[0]; s++) {
    double ns[LOOPS];
    for (int t = 0; t < threads; t++) {
      all[t].statistic = statistics[s] * 256L;
      all[t].count = count / all[t].statistic * all[t].statistic;
    }
    measure(threads, all, ns);
    printf("| %d |", statistics[s]);
    for (int loop = 0; loop < LOOPS; loop++)
      printf(" %.2f (%.2f) |", ns[loop], ns[loop] / ns[loop < TRIAD ? COPY : TRIAD]);
    printf("\n");
  }
  return 0;
}
