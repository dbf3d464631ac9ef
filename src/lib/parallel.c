/* SPDX-License-Identifier: MIT */
#include "parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum {
  SMALL = 32768,     /* elements: 128 KiB of float, some ten microseconds of copying */
  HOST_DECIDES = 64, /* the width to plan for where the host does not say */
  MOST_THREADS = 1024
};

static int default_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/* An OpenMP runtime ends the process where it cannot have as many threads as it is asked for. */
static int most_threads(void) {
#ifdef _OPENMP
  const int processors = omp_get_num_procs();
  if (processors > MOST_THREADS) return processors;
#endif
  return MOST_THREADS;
}

axn_runner axn_runner_of(const axn_desc *desc, int threads, int64_t elements) {
  axn_runner runner = {threads > 0 ? threads : desc->threads, desc->parallel_for,
                       desc->parallel_context};
  if (runner.host == NULL) {
    const int most = most_threads();
    if (runner.threads == 0) runner.threads = default_threads();
    if (runner.threads > most) runner.threads = most;
  }
  if (elements < SMALL) runner = (axn_runner){.threads = 1};
  return runner;
}

int axn_runner_width(const axn_runner *runner) {
  return runner->threads > 0 ? runner->threads : HOST_DECIDES;
}

/* Start of part `index` when `count` is cut in `parts`; no product that could overflow. */
static int64_t part_start(int64_t count, int parts, int index) {
  const int64_t rest = count % parts;
  return count / parts * index + (index < rest ? index : rest);
}

/* The team has all threads even where there are fewer parts: GNU's runtime ends those that a smaller one has no use for,
 * and makes them anew for the next. */
static void run_team(int threads, int64_t count, axn_task task, void *data) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  {
    /* The team may be smaller than asked for, inside another parallel region for one. */
    const int parts = omp_get_num_threads(), index = omp_get_thread_num();
    const int64_t begin = part_start(count, parts, index);
    const int64_t end = part_start(count, parts, index + 1);
    if (begin < end) task(data, begin, end);
  }
#else
  (void)threads;
  (void)part_start;
  task(data, 0, count);
#endif
}

void axn_run(const axn_runner *runner, int64_t count, axn_task task, void *data) {
  const int threads = runner->threads > 0 && runner->threads > count ? (int)count : runner->threads;
  if (threads == 1) {
    task(data, 0, count);
  } else if (runner->host != NULL) {
    runner->host(runner->context, threads, count, task, data);
  } else {
    run_team(runner->threads, count, task, data);
  }
}
