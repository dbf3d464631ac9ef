/* SPDX-License-Identifier: MIT */
/* What the memory of this machine allows. */
#define _GNU_SOURCE /* the cache sizes of sysconf are glibc's own */
#include "bench.h"

#include <unistd.h>

/* What one core has for itself. */
static int64_t private_cache_bytes(void) {
  long bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  enum { USUAL = 1 << 20 }; /* where the system does not tell */
  return bytes > 0 ? bytes : USUAL;
}

/* How many statistics share a line of the cache: memory moves whole lines, and beside a value stand
 * those of other statistics where the last axis in memory is kept. With channels last, these are
 * neighbouring channels; for positional normalization with channels first, neighbouring positions. */
static int64_t statistics_per_line(const struct prepared *prepared) {
  enum { LINE = 64 };
  int64_t values_per_line = LINE / (int64_t)axn_dtype_size(prepared->desc.dtype);
  int64_t run = 1;    /* values in a row of one statistic */
  int64_t beside = 1; /* statistics until the first comes again */
  for (int position = prepared->desc.rank - 1; position >= 0; position--) {
    int axis = prepare_axis_at(&prepared->desc, position);
    int64_t parts = prepare_parts(prepared, axis), each = prepared->desc.shape[axis] / parts;
    if (each > 1 && beside > 1) break;
    run *= each;
    beside *= parts;
  }
  int64_t room = run < values_per_line ? values_per_line / run : 1;
  return beside < room ? beside : room;
}

/* A statistic must be known before its values can be normalized. Those that are still in the
 * private caches of the threads that share it, with all else in the same lines, need not come from
 * memory a second time. */
static bool needs_second_reading(const struct prepared *prepared, int arrays) {
  const axn_plan_info *info = &prepared->info;
  int64_t threads = info->threads > 0 ? info->threads : 1;
  int64_t per_line = statistics_per_line(prepared);
  int64_t together = info->statistics / per_line;
  int64_t sharing = together < threads && together > 0 ? threads / together : 1;
  int64_t size = (int64_t)axn_dtype_size(prepared->desc.dtype);
  int64_t values = private_cache_bytes() * sharing / (arrays * per_line * size);
  return info->values_per_statistic > values;
}

static void add_work(struct bench_limit *limit, enum memory_pass pass, struct memory_work work) {
  work.pass = pass;
  limit->works[limit->count++] = work;
}

static void add_copy(struct bench_limit *limit, struct memory_work work) {
  add_work(limit, MEMORY_COPY_STREAMING, work);
  add_work(limit, MEMORY_COPY_LIBRARY, work);
  add_work(limit, MEMORY_COPY_LOOP, work);
}

static void add_triad(struct bench_limit *limit, struct memory_work work) {
  add_work(limit, MEMORY_TRIAD_STREAMING, work);
  add_work(limit, MEMORY_TRIAD, work);
}

/* x becomes y, with the residual beside it where there is one; before that x may have to be read. */
static void choose_forward(struct bench_limit *limit, bool again, struct memory_work work,
                           const struct bench_arrays *arrays) {
  bool adds = arrays->residual.data != NULL;
  limit->kind = again ? adds ? "read+triad" : "read+copy" : adds ? "triad" : "copy";
  work.from = arrays->x.data;
  work.other = arrays->residual.data;
  work.to = arrays->y.data;
  if (adds)
    add_triad(limit, work);
  else
    add_copy(limit, work);
  work.other = work.to = NULL;
  if (again) add_work(limit, MEMORY_READ, work);
}

/* x and grad_y become grad_x; behind an activation the residual becomes grad_residual, which takes the
 * place of grad_y then: no more is read again than without. */
static void choose_backward(struct bench_limit *limit, bool again, struct memory_work work,
                            const struct bench_arrays *arrays) {
  bool adds = arrays->grad_residual.data != NULL;
  limit->kind = again ? adds ? "read2+copy+triad" : "read2+triad" : adds ? "copy+triad" : "triad";
  work.from = arrays->residual.data;
  work.to = arrays->grad_residual.data;
  if (adds) add_copy(limit, work);
  work.from = arrays->x.data;
  work.other = arrays->grad_y.data;
  work.to = arrays->grad_x.data;
  add_triad(limit, work);
  work.to = NULL;
  if (again) add_work(limit, MEMORY_READ_TWO, work);
}

void bench_choose_limit(struct bench_limit *limit, enum pass pass, const struct prepared *prepared,
                        const struct bench_arrays *arrays) {
  bool backward = pass == PASS_BACKWARD;
  bool frozen = pass == PASS_INFERENCE && arrays->running_mean.data != NULL;
  bool again = !frozen && needs_second_reading(prepared, backward ? 2 : 1);
  struct memory_work work = {.bytes = tensor_bytes(&arrays->x), .threads = prepared->info.threads};
  limit->count = 0;
  (backward ? choose_backward : choose_forward)(limit, again, work, arrays);
}

/* Candidates of the same part of a limit are those with the same number here. */
static const int part_of[MEMORY_PASSES] = {
    [MEMORY_COPY_STREAMING] = 0,  [MEMORY_COPY_LIBRARY] = 0, [MEMORY_COPY_LOOP] = 0,
    [MEMORY_TRIAD_STREAMING] = 1, [MEMORY_TRIAD] = 1,        [MEMORY_READ] = 2,
    [MEMORY_READ_TWO] = 2};
enum { PARTS = 3 };

void bench_limit_samples(const struct bench_limit *limit, const struct timed *works, int rounds,
                         double samples[TIMING_ROUNDS_MOST]) {
  const struct timed *best[PARTS] = {NULL};
  for (int i = 0; i < limit->count; i++) {
    const struct timed **part = &best[part_of[limit->works[i].pass]];
    if (*part == NULL ||
        timing_median(works[i].samples, rounds) < timing_median((*part)->samples, rounds))
      *part = &works[i];
  }
  for (int round = 0; round < rounds; round++) {
    samples[round] = 0;
    for (int part = 0; part < PARTS; part++)
      if (best[part] != NULL) samples[round] += best[part]->samples[round];
  }
}
