/* SPDX-License-Identifier: MIT */
/*
 * Every buffer between pages that must not be touched, flush against the one before and then the
 * one after; inputs in pages that must not be written. A touch is a crash, and so a failed test.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include "cases.h"
#include "sanitizer.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef HAS_ASAN /* which would turn the crash into a report */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "handle_segv=0:handle_sigbus=0";
}
#endif

typedef struct guarded {
  unsigned char *pages; /* the whole mapping */
  size_t size;
  size_t inner; /* bytes between the guard pages */
  void *start;  /* of the buffer */
} guarded;

static guarded guarded_make(size_t bytes, int at_end, size_t alignment) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  guarded self = {NULL, 0, (bytes + page - 1) / page * page, NULL};
  if (self.inner == 0) self.inner = page;
  self.size = self.inner + 2 * page;
  self.pages = mmap(NULL, self.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cr_assert(self.pages != MAP_FAILED);
  cr_assert(mprotect(self.pages + page, self.inner, PROT_READ | PROT_WRITE) == 0);
  size_t offset = at_end ? (self.inner - bytes) / alignment * alignment : 0;
  self.start = self.pages + page + offset;
  memset(self.pages + page, 0xff, self.inner);
  return self;
}

static void guarded_read_only(const guarded *self) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  cr_assert(mprotect(self->pages + page, self->inner, PROT_READ) == 0);
}

static void guarded_free(guarded *self) {
  munmap(self->pages, self->size);
}

/* ---- all buffers of a plan ---- */

enum {
  X,
  GRAD_Y,
  SCALE,
  SHIFT,
  INPUTS,
  Y = INPUTS,
  MEAN,
  RSTD,
  RUNNING_MEAN,
  RUNNING_VARIANCE,
  GRAD_X,
  GRAD_SCALE,
  GRAD_SHIFT,
  COUNT,
  TRAINING_SPACE,
  INFERENCE_SPACE,
  BACKWARD_SPACE,
  BUFFERS
};

typedef struct yard {
  axn_plan *plan;
  axn_plan_info info;
  guarded buffers[BUFFERS];
} yard;

static void size_buffers(const axn_plan_info *info, size_t sizes[BUFFERS]) {
  size_t elements = 4 * (size_t)info->elements, parameters = 4 * (size_t)info->parameters;
  size_t statistics = 4 * (size_t)info->statistics;
  size_t running = 4 * (size_t)info->running_statistics;
  sizes[X] = sizes[GRAD_Y] = sizes[Y] = sizes[GRAD_X] = elements;
  sizes[SCALE] = sizes[SHIFT] = sizes[GRAD_SCALE] = sizes[GRAD_SHIFT] = parameters;
  sizes[MEAN] = sizes[RSTD] = statistics;
  sizes[RUNNING_MEAN] = sizes[RUNNING_VARIANCE] = running;
  sizes[COUNT] = 8;
  sizes[TRAINING_SPACE] = info->training_workspace;
  sizes[INFERENCE_SPACE] = info->inference_workspace;
  sizes[BACKWARD_SPACE] = info->backward_workspace;
}

static yard yard_make(const axn_desc *desc, int at_end, uint64_t seed) {
  yard self = {0};
  size_t sizes[BUFFERS];
  randoms source = randoms_from(seed);
  self.info = axn_plan_info_init();
  cr_assert(axn_plan_create(&self.plan, desc, NULL) == AXN_OK, "%s", desc_text(desc));
  cr_assert(axn_plan_describe(self.plan, &self.info, NULL) == AXN_OK);
  size_buffers(&self.info, sizes);
  for (int i = 0; i < BUFFERS; i++) {
    size_t alignment = i >= TRAINING_SPACE ? 1 : i == COUNT ? 8 : 4;
    self.buffers[i] = guarded_make(sizes[i], at_end, alignment);
    if (i < INPUTS || i == RUNNING_MEAN || i == RUNNING_VARIANCE) {
      fill_data(self.buffers[i].start, (int64_t)(sizes[i] / 4), DATA_STANDARD, &source);
    }
    if (i < INPUTS) guarded_read_only(&self.buffers[i]);
  }
  *(int64_t *)self.buffers[COUNT].start = 0;
  return self;
}

static void yard_free(yard *self) {
  for (int i = 0; i < BUFFERS; i++) guarded_free(&self->buffers[i]);
  axn_plan_destroy(self->plan);
}

static void *at(const yard *self, int which) {
  return self->buffers[which].start;
}

/* ---- the passes ---- */

static void train(const yard *self) {
  int keeps = self->info.running_statistics > 0;
  axn_training_args args = axn_training_init();
  args.x = at(self, X);
  args.y = at(self, Y);
  args.scale = at(self, SCALE);
  args.shift = at(self, SHIFT);
  args.mean = at(self, MEAN);
  args.rstd = at(self, RSTD);
  args.running_mean = keeps ? at(self, RUNNING_MEAN) : NULL;
  args.running_variance = keeps ? at(self, RUNNING_VARIANCE) : NULL;
  args.batch_count = at(self, COUNT);
  args.workspace = at(self, TRAINING_SPACE);
  args.workspace_size = self->info.training_workspace;
  cr_assert(axn_forward_training(self->plan, &args, NULL) == AXN_OK);
}

static void infer(const yard *self, int running) {
  if (running) { /* inputs here */
    guarded_read_only(&self->buffers[RUNNING_MEAN]);
    guarded_read_only(&self->buffers[RUNNING_VARIANCE]);
  }
  axn_inference_args args = axn_inference_init();
  args.x = at(self, X);
  args.y = at(self, Y);
  args.scale = at(self, SCALE);
  args.shift = at(self, SHIFT);
  args.running_mean = running ? at(self, RUNNING_MEAN) : NULL;
  args.running_variance = running ? at(self, RUNNING_VARIANCE) : NULL;
  args.workspace = at(self, INFERENCE_SPACE);
  args.workspace_size = self->info.inference_workspace;
  cr_assert(axn_forward_inference(self->plan, &args, NULL) == AXN_OK);
}

static void backward(const yard *self, int running) {
  guarded_read_only(&self->buffers[MEAN]);
  guarded_read_only(&self->buffers[RSTD]);
  axn_backward_args args = axn_backward_init();
  args.x = at(self, X);
  args.grad_y = at(self, GRAD_Y);
  args.scale = at(self, SCALE);
  args.mean = running ? NULL : at(self, MEAN);
  args.rstd = running ? NULL : at(self, RSTD);
  args.running_mean = running ? at(self, RUNNING_MEAN) : NULL;
  args.running_variance = running ? at(self, RUNNING_VARIANCE) : NULL;
  args.grad_x = at(self, GRAD_X);
  args.grad_scale = at(self, GRAD_SCALE);
  args.grad_shift = at(self, GRAD_SHIFT);
  args.workspace = at(self, BACKWARD_SPACE);
  args.workspace_size = self->info.backward_workspace;
  cr_assert(axn_backward(self->plan, &args, NULL) == AXN_OK);
}

static void check_passes(const axn_desc *desc, int at_end) {
  yard self = yard_make(desc, at_end, 701);
  int keeps = self.info.running_statistics > 0;
  train(&self);
  if (!needs_running(desc)) infer(&self, 0);
  if (keeps) infer(&self, 1);
  backward(&self, 0);
  if (keeps) backward(&self, 1);
  yard_free(&self);
}

static void check(const axn_desc *desc) {
  if (keeps_running(desc) && values_of(desc) < 2) return;
  check_passes(desc, 0);
  check_passes(desc, 1);
}

/* ---- which shapes ---- */

/* The length along memory, across it, and both, for one instruction set. */
static void check_lengths(axn_isa isa) {
  if (!axn_isa_available(isa)) return;
  for (int64_t n = 1; n <= 130; n++) {
    axn_desc descs[] = {
        desc_of(AXN_LAYER_NORM, 2, n, 0, 0, 0),      desc_of(AXN_BATCH_NORM, 3, n, 0, 0, 0),
        desc_of(AXN_BATCH_NORM, n, 3, 0, 0, 0),      desc_of(AXN_INSTANCE_NORM, 2, 2, n, 0, 0),
        desc_of(AXN_INSTANCE_NORM, 1, n, 3, 0, 0),   desc_of(AXN_GROUP_NORM, 2, 2, n, 0, 0),
        desc_of(AXN_LAYER_NORM, 1, n, 5, 0, 0),      desc_of(AXN_BATCH_NORM, 1, 2, n, 0, 0),
        desc_of(AXN_RMS_NORM, 2, n, 0, 0, 0),        desc_of(AXN_POSITIONAL_NORM, 2, n, 3, 0, 0),
        desc_of(AXN_POSITIONAL_NORM, 1, 3, n, 0, 0), desc_of(AXN_GHOST_BATCH_NORM, 4, n, 0, 0, 0),
    };
    for (size_t i = 0; i < 2 * sizeof descs / sizeof descs[0]; i++) {
      axn_desc desc = descs[i / 2];
      if (i % 2) desc.layout = AXN_CHANNELS_LAST;
      desc.isa = isa;
      desc.threads = 1;
      if (i == 0) desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
      check(&desc);
    }
  }
}

Test(guard, every_length_baseline) {
  check_lengths(AXN_ISA_BASELINE);
}
Test(guard, every_length_avx2) {
  check_lengths(AXN_ISA_AVX2);
}
Test(guard, every_length_avx512) {
  check_lengths(AXN_ISA_AVX512);
}
Test(guard, every_length_neon) {
  check_lengths(AXN_ISA_NEON);
}

Test(guard, random_shapes) {
  uint64_t seed = test_seed(702);
  for (uint64_t i = 0; i < 400; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, i % 8 ? 4000 : 100000);
    desc.threads = (int)random_between(&source, 0, 3);
    check(&desc);
  }
}

Test(guard, every_norm_and_option) {
  const int64_t shape[5] = {3, 6, 5, 7, 2};
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) check(&desc);
}

/* A page that is not to be touched really is not: the yard itself works. */
Test(guard, a_touch_is_a_crash, .signal = 11) {
  guarded buffer = guarded_make(100, 1, 4);
  ((volatile unsigned char *)buffer.start)[100] = 1;
}

Test(guard, a_write_to_an_input_is_a_crash, .signal = 11) {
  guarded buffer = guarded_make(100, 0, 4);
  guarded_read_only(&buffer);
  ((volatile unsigned char *)buffer.start)[0] = 1;
}
