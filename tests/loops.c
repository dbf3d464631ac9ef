/* SPDX-License-Identifier: MIT */
#include "loops.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct range {
  axn_task task;
  void *data;
  int64_t begin, end, step; /* step: of begin, for a thread that takes several ranges */
  int64_t count;
} range;

static void record(void *context, int threads) {
  loop_record *seen = context;
  if (!seen) return;
  seen->calls++;
  seen->threads = threads;
}

static void must(int failed, const char *what) {
  if (!failed) return;
  fprintf(stderr, "loops: %s failed\n", what);
  abort();
}

static void *run_range(void *argument) {
  range *part = argument;
  if (part->begin < part->end) part->task(part->data, part->begin, part->end);
  return NULL;
}

static void run_on_pthreads(void *(*run)(void *), range *parts, int64_t count) {
  pthread_t handles[64];
  for (int64_t i = 0; i < count; i++) {
    must(pthread_create(&handles[i], NULL, run, &parts[i]), "pthread_create");
  }
  for (int64_t i = 0; i < count; i++) must(pthread_join(handles[i], NULL), "pthread_join");
}

void loop_pthreads(void *context, int threads, int64_t count, axn_task task, void *data) {
  range parts[64];
  int64_t team = threads > 0 ? threads : 3;
  record(context, threads);
  if (team > 64) team = 64;
  for (int64_t i = 0; i < team; i++) {
    parts[i] = (range){task, data, count * i / team, count * (i + 1) / team, 0, count};
  }
  run_on_pthreads(run_range, parts, team);
}

void loop_whole(void *context, int threads, int64_t count, axn_task task, void *data) {
  record(context, threads);
  if (count > 0) task(data, 0, count);
}

void loop_reversed_singles(void *context, int threads, int64_t count, axn_task task, void *data) {
  record(context, threads);
  for (int64_t i = count; i-- > 0;) task(data, i, i + 1);
}

/* Ranges of 1, 2, 3, ... indices; a thread takes every second one. */
static void *run_uneven(void *argument) {
  range *part = argument;
  int64_t begin = 0;
  for (int64_t size = 1; begin < part->count; begin += size++) {
    int64_t end = begin + size < part->count ? begin + size : part->count;
    if (size % 2 == part->step) part->task(part->data, begin, end);
  }
  return NULL;
}

void loop_uneven(void *context, int threads, int64_t count, axn_task task, void *data) {
  record(context, threads);
  range parts[2] = {{task, data, 0, 0, 1, count}, {task, data, 0, 0, 0, count}};
  run_on_pthreads(run_uneven, parts, 2);
}

void loop_many_pthreads(void *context, int threads, int64_t count, axn_task task, void *data) {
  record(context, threads);
  range parts[64];
  int64_t team = count < 64 ? count : 64;
  for (int64_t i = 0; i < team; i++) {
    parts[i] = (range){task, data, count * i / team, count * (i + 1) / team, 0, count};
  }
  run_on_pthreads(run_range, parts, team);
}
