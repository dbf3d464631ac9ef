/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* getrusage */
/*
 * Every allocation of the library failing in turn, and none at all in a run. The linker hands the
 * library's calls to the __wrap functions here (-Wl,--wrap=malloc and so on); Criterion, in a
 * shared object of its own, is not affected, nor is OpenMP's runtime.
 */
#include "cases.h"
#include "sanitizer.h"

#include <axisnorm/moments.h>

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static long calls;        /* of any allocating function */
static long live;         /* allocated and not freed */
static long fail_at = -1; /* the call that fails, counted from 0; -1: none */
static int counting;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void __real_free(void *memory);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);
void __wrap_free(void *memory);

static int fails(void) {
  return counting && calls++ == fail_at;
}

static void *counted(void *memory) {
  if (counting && memory) live++;
  return memory;
}

void *__wrap_malloc(size_t size) {
  return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *old, size_t size) {
  if (fails()) return NULL;
  void *memory = __real_realloc(old, size);
  return old ? memory : counted(memory);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
  return fails() ? NULL : counted(__real_aligned_alloc(alignment, size));
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t size) {
  if (fails()) return 12; /* ENOMEM */
  int result = __real_posix_memalign(memory, alignment, size);
  if (result == 0) counted(*memory);
  return result;
}

void __wrap_free(void *memory) {
  if (counting && memory) live--;
  __real_free(memory);
}

static void start(long which) {
  calls = live = 0;
  fail_at = which;
  counting = 1;
}

static axn_desc chosen(axn_norm norm, axn_layout layout) {
  axn_desc desc = desc_of(norm, 3, 6, 61, 67, 0);
  if (norm == AXN_GROUP_NORM) desc.groups = 3;
  desc.layout = layout;
  return desc;
}

/* ---- plans ---- */

/* Creates with the which-th allocation failing; returns 0 once there are no more to fail. */
static int check_failure(const axn_desc *desc, long which) {
  axn_plan *plan = (axn_plan *)(void *)&plan;
  axn_error error = {AXN_OK, ""};
  start(which);
  axn_status status = axn_plan_create(&plan, desc, &error);
  counting = 0;
  if (status == AXN_OK) {
    cr_assert(calls <= which, "allocation %ld failed and the plan was made all the same", which);
    axn_plan_destroy(plan);
    return 0;
  }
  cr_assert(status == AXN_ERROR_MEMORY, "allocation %ld: status %d", which, (int)status);
  cr_assert(error.status == AXN_ERROR_MEMORY);
  cr_assert(strlen(error.message) > 0);
  cr_assert_null(plan);
  cr_assert(live == 0, "allocation %ld: %ld leaked", which, live);
  plan = (axn_plan *)(void *)&plan;
  start(which);
  cr_assert(axn_plan_create(&plan, desc, NULL) == AXN_ERROR_MEMORY);
  counting = 0;
  cr_assert_null(plan);
  return 1;
}

static void check_every_failure(const axn_desc *desc) {
  long which = 0;
  while (check_failure(desc, which)) which++;
  cr_assert(which > 0, "%s: the plan was not allocated, or --wrap does not work", desc_text(desc));
}

Test(allocation, every_failure_of_a_plan) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = chosen((axn_norm)norm, AXN_CHANNELS_FIRST);
    check_every_failure(&desc);
    desc.layout = AXN_CHANNELS_LAST;
    check_every_failure(&desc);
  }
}

Test(allocation, destroy_frees_all) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = chosen((axn_norm)norm, AXN_CHANNELS_FIRST);
    axn_plan *plan = NULL;
    start(-1);
    cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
    cr_assert(live > 0);
    axn_plan_destroy(plan);
    cr_assert(live == 0, "%ld leaked", live);
    counting = 0;
  }
}

Test(allocation, a_refused_plan_leaks_nothing) {
  axn_desc desc = chosen(AXN_GROUP_NORM, AXN_CHANNELS_FIRST);
  desc.groups = 4;
  axn_plan *plan = NULL;
  start(-1);
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_ERROR_GROUPS);
  counting = 0;
  cr_assert(live == 0, "%ld leaked", live);
}

/* ---- runs ---- */

typedef struct buffers {
  float *x, *y, *grad, *per_channel[7], *mean, *rstd;
  double *moments[2];
  void *workspace;
} buffers;

static float *zeros(int64_t count) {
  float *values = __real_calloc((size_t)count, sizeof(float));
  cr_assert(values);
  return values;
}

static buffers buffers_for(const axn_plan_info *info) {
  buffers all = {0};
  all.x = zeros(info->elements);
  all.y = zeros(info->elements);
  all.grad = zeros(info->elements);
  for (int64_t i = 0; i < info->elements; i++) all.x[i] = (float)(i % 13);
  for (int i = 0; i < 7; i++) all.per_channel[i] = zeros(info->parameters);
  all.mean = zeros(info->statistics);
  all.rstd = zeros(info->statistics);
  for (int i = 0; i < 2; i++) {
    all.moments[i] = __real_calloc((size_t)info->statistics, sizeof(double));
    cr_assert(all.moments[i]);
  }
  all.workspace = zeros((int64_t)(info->training_workspace + info->inference_workspace +
                                  info->backward_workspace + 1));
  return all;
}

static void buffers_free(buffers *all) {
  __real_free(all->x);
  __real_free(all->y);
  __real_free(all->grad);
  for (int i = 0; i < 7; i++) __real_free(all->per_channel[i]);
  __real_free(all->mean);
  __real_free(all->rstd);
  for (int i = 0; i < 2; i++) __real_free(all->moments[i]);
  __real_free(all->workspace);
}

static void run_training(const axn_plan *plan, const axn_plan_info *info, buffers *all) {
  axn_training_args args = axn_training_init();
  args.x = all->x;
  args.y = all->y;
  args.scale = all->per_channel[0];
  args.shift = all->per_channel[1];
  args.mean = all->mean;
  args.rstd = all->rstd;
  args.running_mean = info->running_statistics ? all->per_channel[2] : NULL;
  args.running_variance = info->running_statistics ? all->per_channel[3] : NULL;
  args.workspace = all->workspace;
  args.workspace_size = info->training_workspace;
  cr_assert(axn_forward_training(plan, &args, NULL) == AXN_OK);
}

static void run_inference(const axn_plan *plan, const axn_plan_info *info, buffers *all) {
  axn_inference_args args = axn_inference_init();
  args.x = all->x;
  args.y = all->y;
  args.scale = all->per_channel[0];
  args.running_mean = info->running_statistics ? all->per_channel[2] : NULL;
  args.running_variance = info->running_statistics ? all->per_channel[3] : NULL;
  args.workspace = all->workspace;
  args.workspace_size = info->inference_workspace;
  cr_assert(axn_forward_inference(plan, &args, NULL) == AXN_OK);
}

static void run_backward(const axn_plan *plan, const axn_plan_info *info, buffers *all) {
  axn_backward_args args = axn_backward_init();
  args.x = all->x;
  args.grad_y = all->y;
  args.scale = all->per_channel[0];
  args.mean = all->mean;
  args.rstd = all->rstd;
  args.grad_x = all->grad;
  args.grad_scale = all->per_channel[4];
  args.grad_shift = all->per_channel[5];
  args.workspace = all->workspace;
  args.workspace_size = info->backward_workspace;
  cr_assert(axn_backward(plan, &args, NULL) == AXN_OK);
}

static void run_moments(const axn_plan *plan, const axn_plan_info *info, buffers *all) {
  axn_moment_state state = axn_moment_state_init();
  state.statistics = info->statistics;
  state.mean = all->moments[0];
  state.m2 = all->moments[1];
  axn_moments_args args = axn_moments_init();
  args.x = all->x;
  args.state = &state;
  args.workspace = all->workspace;
  args.workspace_size = info->training_workspace;
  for (int i = 0; i < 2; i++) cr_assert(axn_moments_accumulate(plan, &args, NULL) == AXN_OK);
}

/* All that runs take. */
typedef struct run_case {
  axn_plan *plan;
  axn_plan_info info;
  buffers all;
} run_case;

static run_case case_of(axn_desc desc, int threads) {
  run_case made = {.info = axn_plan_info_init()};
  desc.threads = threads;
  cr_assert(axn_plan_create(&made.plan, &desc, NULL) == AXN_OK);
  cr_assert(axn_plan_describe(made.plan, &made.info, NULL) == AXN_OK);
  made.all = buffers_for(&made.info);
  return made;
}

static void case_free(run_case *made) {
  buffers_free(&made->all);
  axn_plan_destroy(made->plan);
}

/* Of a run_case: as a thread begins. */
static void *run_all(void *data) {
  run_case *made = data;
  run_training(made->plan, &made->info, &made->all);
  run_inference(made->plan, &made->info, &made->all);
  run_backward(made->plan, &made->info, &made->all);
  run_moments(made->plan, &made->info, &made->all);
  return NULL;
}

/* With every allocation failing: a run that made one would be noticed by the count. */
static void check_runs(axn_desc desc, int threads) {
  run_case made = case_of(desc, threads);
  for (int turn = 0; turn < 2; turn++) { /* the first makes OpenMP's team */
    start(0);
    run_all(&made);
    counting = 0;
    cr_assert(turn == 0 || calls == 0, "%s, %d threads: %ld allocations in a run", desc_text(&desc),
              threads, calls);
  }
  case_free(&made);
}

Test(allocation, none_in_a_run) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    for (int layout = AXN_CHANNELS_FIRST; layout <= AXN_CHANNELS_LAST; layout++) {
      axn_desc desc = chosen((axn_norm)norm, (axn_layout)layout);
      check_runs(desc, 1);
      check_runs(desc, 2);
      check_runs(desc, 0);
    }
  }
}

/* The most memory that the process ever had, in KiB. */
static long peak(void) {
  struct rusage usage;
  cr_assert(getrusage(RUSAGE_SELF, &usage) == 0);
  return usage.ru_maxrss;
}

static void touch(void *memory, size_t bytes) {
  memset(memory, 0, bytes);
}

/* Not by any other way either: with all buffers in memory already, the peak grows by no more than what
 * stacks take, whatever is mapped or allocated by others. */
static void check_peak(axn_desc desc) {
  enum { STACKS_KIB = 2048 }; /* a sanitizer keeps several of them */
  run_case made = case_of(desc, 1);
  const axn_plan_info *info = &made.info;
  touch(made.all.y, (size_t)info->elements * sizeof(float));
  touch(made.all.grad, (size_t)info->elements * sizeof(float));
  touch(made.all.workspace,
        info->training_workspace + info->inference_workspace + info->backward_workspace);
  const long before = peak();
  run_all(&made);
  const long growth = peak() - before;
  cr_assert(growth <= STACKS_KIB, "%s: the peak of memory grew by %ld KiB in a run",
            desc_text(&desc), growth);
  case_free(&made);
}

Test(allocation, peak_of_memory_does_not_grow_in_a_run) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = desc_of((axn_norm)norm, 4, 64, 96, 96, 0); /* 9 MiB a tensor */
    if (norm == AXN_GROUP_NORM) desc.groups = 8;
    check_peak(desc);
    desc.layout = AXN_CHANNELS_LAST;
    check_peak(desc);
  }
}

/* ---- stack ---- */

/* How much of a stack that held one value no longer does. */
static size_t stack_taken(run_case *made) {
  enum { STACK = 1 << 20, PAINT = 0x5a };
  void *memory = NULL;
  pthread_attr_t attributes;
  pthread_t thread;
  cr_assert(__real_posix_memalign(&memory, 4096, STACK) == 0);
  memset(memory, PAINT, STACK);
  cr_assert(pthread_attr_init(&attributes) == 0);
  cr_assert(pthread_attr_setstack(&attributes, memory, STACK) == 0);
  cr_assert(pthread_create(&thread, &attributes, run_all, made) == 0);
  cr_assert(pthread_join(thread, NULL) == 0);
  pthread_attr_destroy(&attributes);
  size_t left = 0;
  while (left < STACK && ((const unsigned char *)memory)[left] == PAINT) left++;
  __real_free(memory);
  return STACK - left;
}

/* What docs/embedding.md and docs/performance.md say of optimized builds, and some for the thread itself.
 * AddressSanitizer takes more. */
Test(allocation, stack) {
  enum { STATED = 160 << 10, OF_THREAD = 16 << 10 };
#if !defined(__OPTIMIZE__) || defined(HAS_ASAN)
  return;
#endif
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    for (int layout = AXN_CHANNELS_FIRST; layout <= AXN_CHANNELS_LAST; layout++) {
      axn_desc desc = chosen((axn_norm)norm, (axn_layout)layout);
      run_case made = case_of(desc, 1);
      const size_t taken = stack_taken(&made);
      cr_expect(taken <= STATED + OF_THREAD, "%s: %zu bytes of stack", desc_text(&desc), taken);
      case_free(&made);
    }
  }
}
