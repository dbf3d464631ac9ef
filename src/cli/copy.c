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

enum { LINE = 64 };

static void run_lines(const struct memory_work *work, memory_kernel kernel, size_t begin,
                      size_t end) {
  if (work->pass == MEMORY_COPY_LIBRARY)
    memcpy((char *)work->to + begin * LINE, (const char *)work->from + begin * LINE,
           (end - begin) * LINE);
  else
    kernel(work, begin * LINE, end * LINE);
}

void memory_run(void *context) {
  const struct memory_work *work = context;
  memory_kernel kernel = widest_kernel();
  size_t lines = (work->bytes + LINE - 1) / LINE;
  size_t parts = work->threads > 1 ? (size_t)work->threads : 1;
  if (parts > lines) parts = lines;
  if (parts <= 1) {
    run_lines(work, kernel, 0, lines);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
#endif
  for (size_t part = 0; part < parts; part++)
    run_lines(work, kernel, lines * part / parts, lines * (part + 1) / parts);
}
