/* SPDX-License-Identifier: MIT */
/* A parallel loop on the threads of XLA's own pool. */
#include <pthread.h>

#include "xla.h"

enum {
  LOOPS = 64,     /* at the same time; one more runs on its own thread */
  PER_THREAD = 4, /* pieces: some of the pool's threads come late, being busy */
};

/* Threads of the pool are asked for help, and may come when all is done: so loops stay where they are,
 * and a helper that finds its loop over, or another one in its place, does no harm. The calling thread is
 * one of the pool's: it waits for helpers at work alone, never for one that has not begun. */
struct loop {
  pthread_mutex_t mutex;
  pthread_cond_t alone;
  bool open;
  int helpers;
  int64_t next, count, piece;
  axn_task task;
  void *data;
};

static struct loop loops[LOOPS];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local const XLA_FFI_CallFrame *current;

static void make_loops(void) {
  for (int i = 0; i < LOOPS; i++) {
    pthread_mutex_init(&loops[i].mutex, NULL);
    pthread_cond_init(&loops[i].alone, NULL);
  }
}

void xla_enter(const XLA_FFI_CallFrame *frame) {
  pthread_once(&once, make_loops);
  current = frame;
}

static void drop(const XLA_FFI_Api *api, XLA_FFI_Error *error) {
  XLA_FFI_Error_Destroy_Args args = {.struct_size = sizeof args, .error = error};
  api->XLA_FFI_Error_Destroy(&args);
}

int xla_threads(const XLA_FFI_CallFrame *frame) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {
      .struct_size = sizeof args, .ctx = frame->ctx, .num_threads = &threads};
  XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error != NULL) return drop(frame->api, error), 1;
  return threads < 1 ? 1 : threads > 1024 ? 1024 : (int)threads;
}

static struct loop *open_loop(int64_t count, int64_t piece, axn_task task, void *data) {
  for (int i = 0; i < LOOPS; i++) {
    struct loop *loop = &loops[i];
    pthread_mutex_lock(&loop->mutex);
    const bool mine = !loop->open;
    if (mine) {
      loop->open = true;
      loop->next = 0, loop->count = count, loop->piece = piece;
      loop->task = task, loop->data = data;
    }
    pthread_mutex_unlock(&loop->mutex);
    if (mine) return loop;
  }
  return NULL;
}

/* With the mutex held; it is not while a piece runs. */
static void run_pieces(struct loop *loop) {
  while (loop->next < loop->count) {
    const int64_t begin = loop->next, rest = loop->count - begin;
    const int64_t end = begin + (rest < loop->piece ? rest : loop->piece);
    loop->next = end;
    pthread_mutex_unlock(&loop->mutex);
    loop->task(loop->data, begin, end);
    pthread_mutex_lock(&loop->mutex);
  }
}

static void help(void *data) {
  struct loop *loop = data;
  pthread_mutex_lock(&loop->mutex);
  if (loop->open) {
    loop->helpers++;
    run_pieces(loop);
    if (--loop->helpers == 0) pthread_cond_signal(&loop->alone);
  }
  pthread_mutex_unlock(&loop->mutex);
}

static bool ask_for_help(const XLA_FFI_CallFrame *frame, struct loop *loop) {
  XLA_FFI_ThreadPool_Schedule_Args args = {
      .struct_size = sizeof args, .ctx = frame->ctx, .task = help, .data = loop};
  XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
  if (error != NULL) drop(frame->api, error);
  return error == NULL;
}

void xla_parallel_for(void *context, int threads, int64_t count, axn_task task, void *data) {
  (void)context;
  const int64_t pieces = (int64_t)threads * PER_THREAD;
  struct loop *loop = open_loop(count, (count + pieces - 1) / pieces, task, data);
  if (loop == NULL) {
    task(data, 0, count);
    return;
  }
  for (int i = 1; i < threads && ask_for_help(current, loop); i++) continue;
  pthread_mutex_lock(&loop->mutex);
  run_pieces(loop);
  while (loop->helpers > 0) pthread_cond_wait(&loop->alone, &loop->mutex);
  loop->open = false;
  pthread_mutex_unlock(&loop->mutex);
}
