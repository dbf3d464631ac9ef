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
  enum { FLOATS_PER_LINE = 16 };
  int64_t run = 1;    /* values in a row of one statistic */
  int64_t beside = 1; /* statistics until the first comes again */
  for (int position = prepared->desc.rank - 1; position >= 0; position--) {
    int axis = prepare_axis_at(&prepared->desc, position);
    int64_t parts = prepare_parts(prepared, axis), each = prepared->desc.shape[axis] / parts;
    if (each > 1 && beside > 1) break;
    run *= each;
    beside *= parts;
  }
  int64_t room = run < FLOATS_PER_LINE ? FLOATS_PER_LINE / run : 1;
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
  int64_t values = private_cache_bytes() * sharing / (arrays * per_line * (int64_t)sizeof(float));
  return info->values_per_statistic > values;
}

void bench_choose_limit(struct bench_limit *limit, enum pass pass, const struct prepared *prepared,
                        const struct bench_arrays *arrays) {
  bool backward = pass == PASS_BACKWARD;
  bool frozen = pass == PASS_INFERENCE && arrays->running_mean.data != NULL;
  limit->second_reading = !frozen && needs_second_reading(prepared, backward ? 2 : 1);
  limit->candidates = backward ? 2 : 3;
  limit->kind = backward                ? limit->second_reading ? "read2+triad" : "triad"
                : limit->second_reading ? "read+copy"
                                        : "copy";
  struct memory_work work = {.pass = backward ? MEMORY_TRIAD_STREAMING : MEMORY_COPY_STREAMING,
                             .from = arrays->x.data,
                             .other = backward ? arrays->grad_y.data : NULL,
                             .to = backward ? arrays->grad_x.data : arrays->y.data,
                             .bytes = (size_t)prepared->info.elements * sizeof(float),
                             .threads = prepared->info.threads};
  for (int i = 0; i < limit->candidates; i++) {
    limit->works[i] = work;
    work.pass = (enum memory_pass)(work.pass + 1);
  }
  work.pass = backward ? MEMORY_READ_TWO : MEMORY_READ;
  work.to = NULL;
  limit->works[limit->candidates] = work;
}

void bench_limit_samples(const struct bench_limit *limit, const struct timed *works, int rounds,
                         double samples[TIMING_ROUNDS_MOST]) {
  int best = 0;
  for (int i = 1; i < limit->candidates; i++)
    if (timing_median(works[i].samples, rounds) < timing_median(works[best].samples, rounds))
      best = i;
  for (int round = 0; round < rounds; round++) {
    samples[round] = works[best].samples[round];
    if (limit->second_reading) samples[round] += works[limit->candidates].samples[round];
  }
}
