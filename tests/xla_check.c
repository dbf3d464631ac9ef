/* SPDX-License-Identifier: MIT */
/* What the handlers of XLA's custom calls share between threads: the loop on XLA's pool, for which a pool
 * of this program's stands in, and the plans kept between calls. A program of its own for the thread
 * sanitizer, as race_check.c is. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "xla.h"

enum { WORKERS = 3, CALLERS = 6, ROUNDS = 400, MOST = 500, QUEUE = 1 << 15, PLANS = 2000 };

/* Tasks in the order in which they came; those that find the queue full are refused. */
static struct {
  void (*task)(void *data);
  void *data;
} queue[QUEUE];
static int first, last;
static bool stopping;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void *work(void *none) {
  pthread_mutex_lock(&mutex);
  while (first < last || !stopping) {
    if (first == last) {
      pthread_cond_wait(&changed, &mutex);
      continue;
    }
    const int mine = first++;
    pthread_mutex_unlock(&mutex);
    queue[mine].task(queue[mine].data);
    pthread_mutex_lock(&mutex);
  }
  pthread_mutex_unlock(&mutex);
  return none;
}

static XLA_FFI_Error *schedule(XLA_FFI_ThreadPool_Schedule_Args *args) {
  pthread_mutex_lock(&mutex);
  const bool full = last == QUEUE;
  if (!full) {
    queue[last].task = args->task;
    queue[last++].data = args->data;
  }
  pthread_cond_signal(&changed);
  pthread_mutex_unlock(&mutex);
  return full ? (XLA_FFI_Error *)(void *)queue : NULL;
}

static XLA_FFI_Error *number(XLA_FFI_ThreadPool_NumThreads_Args *args) {
  *args->num_threads = WORKERS + 1;
  return NULL;
}

static void destroy(XLA_FFI_Error_Destroy_Args *args) {
  (void)args;
}

static const XLA_FFI_Api api = {.struct_size = sizeof api,
                                .XLA_FFI_Error_Destroy = destroy,
                                .XLA_FFI_ThreadPool_Schedule = schedule,
                                .XLA_FFI_ThreadPool_NumThreads = number};

static void count(void *data, int64_t begin, int64_t end) {
  int *visits = data;
  for (int64_t i = begin; i < end; i++) visits[i]++;
}

/* Every index once. */
static bool loop_is_right(const XLA_FFI_CallFrame *frame, int extent, int *visits) {
  memset(visits, 0, MOST * sizeof *visits);
  xla_parallel_for(NULL, xla_threads(frame), extent, count, visits);
  for (int i = 0; i < MOST; i++)
    if (visits[i] != (i < extent)) return false;
  return true;
}

static axn_status take(struct xla_plan *plan, int64_t rows, double epsilon) {
  axn_desc desc = axn_desc_init();
  axn_error error;
  desc.norm = AXN_LAYER_NORM, desc.epsilon = epsilon;
  desc.rank = 2, desc.shape[0] = rows, desc.shape[1] = 3;
  return xla_plan_take(plan, &desc, &error);
}

static void *call(void *data) {
  bool *right = data;
  const XLA_FFI_CallFrame frame = {.struct_size = sizeof frame, .api = &api};
  int *visits = malloc(MOST * sizeof *visits);
  xla_enter(&frame);
  for (int i = 0; i < ROUNDS && *right; i++) {
    struct xla_plan one, other;
    *right = visits != NULL && loop_is_right(&frame, 1 + 7 * i % MOST, visits) &&
             take(&one, i % 50, 1e-5) == AXN_OK && take(&other, 1, 1e-3 + i % 30) == AXN_OK;
    if (!*right) break;
    *right = one.info.elements == 3 * (i % 50) && other.info.elements == 3;
    xla_plan_give_back(&one);
    xla_plan_give_back(&other);
  }
  free(visits);
  return NULL;
}

/* More plans at the same time than there are places for. */
static bool plans_are_right(void) {
  static struct xla_plan plans[PLANS];
  bool right = true;
  int own = 0;
  for (int i = 0; i < PLANS; i++) {
    right = right && take(&plans[i], i, 1e-5) == AXN_OK;
    own += plans[i].place < 0;
  }
  for (int i = 0; i < PLANS && right; i++) {
    right = plans[i].info.elements == 3 * i;
    xla_plan_give_back(&plans[i]);
  }
  struct xla_plan again;
  right = right && own > 0 && own < PLANS && take(&again, 7, 1e-5) == AXN_OK && again.place >= 0;
  if (right) xla_plan_give_back(&again);
  return right;
}

int main(void) {
  pthread_t workers[WORKERS], callers[CALLERS];
  bool right[CALLERS], all = true;
  for (int i = 0; i < WORKERS; i++) pthread_create(&workers[i], NULL, work, NULL);
  for (int i = 0; i < CALLERS; i++) {
    right[i] = true;
    pthread_create(&callers[i], NULL, call, &right[i]);
  }
  for (int i = 0; i < CALLERS; i++) {
    pthread_join(callers[i], NULL);
    all = all && right[i];
  }
  pthread_mutex_lock(&mutex);
  stopping = true;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
  all = all && plans_are_right();
  puts(all ? "loops and plans are right" : "WRONG");
  return all ? 0 : 1;
}
