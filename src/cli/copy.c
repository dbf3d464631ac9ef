/* SPDX-License-Identifier: MIT */
#include "copy.h"
#include "copy_kernels.h"

#include <string.h>

static memory_kernel widest_kernel(void) {
#if defined(AXISNORM_WIDE_COPIES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return memory_kernel_avx512;
  if (__builtin_cpu_supports("avx2")) return memory_kernel_avx2;
#endif
  return memory_kernel_baseline;
}

/* The kernels take whole cache lines; the few floats after the last go as a loop of their own. */
enum { LINE = 16 };

static void run_tail(const struct memory_work *work, size_t begin) {
  volatile float sink = 0;
  for (size_t i = begin; i < work->count; i++) {
    float value = work->from[i];
    if (work->other != NULL) value += 0.5f * work->other[i];
    if (work->to != NULL)
      work->to[i] = value;
    else
      sink = value;
  }
  (void)sink;
}

static void run_lines(const struct memory_work *work, memory_kernel kernel, size_t begin,
                      size_t end) {
  if (begin == end) return;
  if (work->pass == MEMORY_COPY_LIBRARY)
    memcpy(work->to + begin, work->from + begin, (end - begin) * sizeof(float));
  else
    kernel(work, begin, end);
}

void memory_run(void *context) {
  const struct memory_work *work = context;
  memory_kernel kernel = widest_kernel();
  size_t lines = work->count / LINE, parts = work->threads > 1 ? (size_t)work->threads : 1;
  if (parts > lines) parts = lines;
  if (parts <= 1) {
    run_lines(work, kernel, 0, lines * LINE);
  } else {
#if defined(_OPENMP)
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
#endif
    for (size_t part = 0; part < parts; part++)
      run_lines(work, kernel, lines * part / parts * LINE, lines * (part + 1) / parts * LINE);
  }
  run_tail(work, lines * LINE);
}
