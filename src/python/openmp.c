/* SPDX-License-Identifier: MIT */
/* A parallel loop on somebody else's OpenMP. Where PyTorch brings its own copy of the runtime, a second
 * one beside it would keep a second pool of threads, and each spins while the other works. */
#include "core.h"

#include <pthread.h>

/* The interface of GNU's runtime, which LLVM's and Intel's offer as well. */
typedef void (*gomp_parallel)(void (*function)(void *), void *data, unsigned threads,
                              unsigned flags);
typedef int (*omp_number)(void);

static gomp_parallel parallel;
static omp_number team_size, team_index;

struct loop {
  int64_t count;
  axn_task task;
  void *data;
};

/* Of `count` indices, those before part `index` of `parts`. */
static int64_t before_part(int64_t count, int parts, int index) {
  const int64_t rest = count % parts;
  return count / parts * index + (index < rest ? index : rest);
}

static void run_part(void *data) {
  const struct loop *loop = data;
  const int parts = team_size(), index = team_index();
  const int64_t begin = before_part(loop->count, parts, index);
  const int64_t end = before_part(loop->count, parts, index + 1);
  if (begin < end) loop->task(loop->data, begin, end);
}

/* A team of fewer threads than the one before would end the others, which are PyTorch's, too. */
static void core_parallel_for(void *context, int threads, int64_t count, axn_task task,
                              void *data) {
  (void)threads;
  struct loop loop = {count, task, data};
  parallel(run_part, &loop, (unsigned)(uintptr_t)context, 0);
}

void core_set_loop(axn_desc *desc) {
  if (parallel == NULL) return;
  desc->parallel_for = core_parallel_for;
  desc->parallel_context = (void *)(uintptr_t)(unsigned)desc->threads;
}

PyObject *core_use_openmp(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  void *addresses[3];
  if (count != 3) return PyErr_Format(PyExc_TypeError, "3 arguments are due");
  for (int i = 0; i < 3; i++) addresses[i] = PyLong_AsVoidPtr(args[i]);
  if (PyErr_Occurred() != NULL) return NULL;
  memcpy(&parallel, &addresses[0], sizeof parallel);
  memcpy(&team_size, &addresses[1], sizeof team_size);
  memcpy(&team_index, &addresses[2], sizeof team_index);
  Py_RETURN_NONE;
}

static bool has_threads, forked;

/* PyTorch, whose runtime it is then, may have used it for its own. */
static void enter_child(void) {
  forked = forked || has_threads || parallel != NULL;
}

bool core_watch_forks(void) {
  return pthread_atfork(NULL, NULL, enter_child) == 0 || PyErr_NoMemory() != NULL;
}

int core_threads(int planned) {
  has_threads = has_threads || planned > 1;
  return forked ? 1 : 0;
}
