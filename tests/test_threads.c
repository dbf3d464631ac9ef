/* SPDX-License-Identifier: MIT */
/* The same bits for every number of threads, every parallel loop and every instruction set. */
#include "check.h"
#include "loops.h"
#include "typed.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const int COUNTS[] = {1, 2, 3, 5, 7, 8, 16};
enum { COUNT_OF_COUNTS = sizeof COUNTS / sizeof COUNTS[0] };

/* Every pass of one rig, results kept apart. */
typedef struct results {
  float *trained, *inferred, *frozen_x, *frozen_scale, *frozen_shift;
} results;

static results run_all(rig *self) {
  results all = {0};
  rig_train(self);
  all.trained = copy_floats(self->y, self->sizes.elements);
  if (self->running_mean) {
    rig_backward_frozen(self);
    all.frozen_x = copy_floats(self->grad_x, self->sizes.elements);
    all.frozen_scale = copy_floats(self->grad_scale, self->sizes.parameters);
    all.frozen_shift = copy_floats(self->grad_shift, self->sizes.parameters);
  }
  if (self->running_mean || !needs_running(&self->desc)) {
    rig_infer(self);
    all.inferred = copy_floats(self->y, self->sizes.elements);
  }
  rig_backward(self);
  return all;
}

static void results_free(results *all) {
  free(all->trained);
  free(all->inferred);
  free(all->frozen_x);
  free(all->frozen_scale);
  free(all->frozen_shift);
}

static void check_optional(const rig *self, const char *what, int64_t count, const float *got,
                           const float *want) {
  if (want) check_same(self, what, count, got, want);
}

static void check_same_results(const rig *a, const results *got, const rig *b,
                               const results *want) {
  int64_t elements = a->sizes.elements, parameters = a->sizes.parameters;
  check_same(a, "y", elements, got->trained, want->trained);
  check_same(a, "mean", a->sizes.statistics, a->mean, b->mean);
  check_same(a, "rstd", a->sizes.statistics, a->rstd, b->rstd);
  check_same(a, "grad_x", elements, a->grad_x, b->grad_x);
  check_same(a, "grad_scale", parameters, a->grad_scale, b->grad_scale);
  check_same(a, "grad_shift", parameters, a->grad_shift, b->grad_shift);
  check_optional(a, "y in inference", elements, got->inferred, want->inferred);
  check_optional(a, "frozen grad_x", elements, got->frozen_x, want->frozen_x);
  check_optional(a, "frozen grad_scale", parameters, got->frozen_scale, want->frozen_scale);
  check_optional(a, "frozen grad_shift", parameters, got->frozen_shift, want->frozen_shift);
  check_optional(a, "running_mean", a->sizes.running, a->running_mean, b->running_mean);
  check_optional(a, "running_variance", a->sizes.running, a->running_variance, b->running_variance);
}

typedef struct variant {
  axn_desc desc;
  int call_threads;
} variant;

/* The variants' bits against those of the same rig on one thread. */
static void check_variants(const axn_desc *plain, const variant *others, int count, unsigned has,
                           data_spec data, uint64_t seed) {
  axn_desc single = *plain;
  single.threads = 1;
  rig fresh = rig_make(&single, has, data, seed);
  rig b = rig_twin(&fresh, &single);
  results want = run_all(&b);
  for (int i = 0; i < count; i++) {
    rig a = rig_twin(&fresh, &others[i].desc);
    a.threads = others[i].call_threads;
    results got = run_all(&a);
    check_same_results(&a, &got, &b, &want);
    results_free(&got);
    rig_free(&a);
  }
  results_free(&want);
  rig_free(&b);
  rig_free(&fresh);
}

static void check_variant(const axn_desc *plain, variant other, unsigned has, data_spec data,
                          uint64_t seed) {
  check_variants(plain, &other, 1, has, data, seed);
}

/* Shapes with one, few and many statistics, larger and smaller than a chunk. */
static int chosen_desc(size_t i, axn_desc *desc) {
  const axn_desc descs[] = {
      desc_of(AXN_LAYER_NORM, 1, 3, 211, 307, 0),
      desc_of(AXN_LAYER_NORM, 9, 5003, 0, 0, 0),
      desc_of(AXN_BATCH_NORM, 3, 2, 181, 191, 0),
      desc_of(AXN_BATCH_NORM, 6, 37, 14, 15, 0),
      desc_of(AXN_BATCH_NORM, 30011, 3, 0, 0, 0),
      desc_of(AXN_INSTANCE_NORM, 2, 3, 150, 201, 0),
      desc_of(AXN_INSTANCE_NORM, 7, 19, 31, 0, 0),
      desc_of(AXN_GROUP_NORM, 2, 6, 83, 97, 5),
      desc_of(AXN_LAYER_NORM, 3, 40, 57, 31, 0),
      desc_of(AXN_GROUP_NORM, 5, 12, 7, 7, 0),
      desc_of(AXN_RMS_NORM, 1, 3, 211, 307, 0),
      desc_of(AXN_RMS_NORM, 9, 5003, 0, 0, 0),
      desc_of(AXN_POSITIONAL_NORM, 2, 5, 61, 83, 0),
      desc_of(AXN_POSITIONAL_NORM, 1, 40001, 2, 0, 0),
      desc_of(AXN_GHOST_BATCH_NORM, 6, 2, 181, 191, 0),
      desc_of(AXN_LAYER_NORM, 1, 7, 97, 83, 0),
      desc_of(AXN_RMS_NORM, 2, 35001, 0, 0, 0),
      desc_of(AXN_LAYER_NORM, 16, 4099, 0, 0, 0),
      desc_of(AXN_LAYER_NORM, 17, 4099, 0, 0, 0),
      desc_of(AXN_LAYER_NORM, 530, 129, 0, 0, 0),
  };
  if (i >= 2 * sizeof descs / sizeof descs[0]) return 0;
  *desc = descs[i / 2];
  if (i % 2) desc->layout = AXN_CHANNELS_LAST;
  if (desc->norm == AXN_GROUP_NORM) desc->groups = 3;
  if (i / 2 == 8 || i / 2 >= 15) desc->parameters = AXN_PARAMETERS_PER_ELEMENT;
  return 1;
}

Test(threads, of_the_plan) {
  uint64_t seed = test_seed(501);
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i++) {
    variant others[COUNT_OF_COUNTS];
    for (int t = 0; t < COUNT_OF_COUNTS; t++) {
      others[t] = (variant){desc, 0};
      others[t].desc.threads = COUNTS[t];
    }
    check_variants(&desc, others, COUNT_OF_COUNTS, RIG_ALL, DATA_STANDARD, seed + i);
  }
}

/* They go past the caches sooner; the largest here on every machine. */
Test(threads, cold_outputs) {
  uint64_t seed = test_seed(509);
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i++) {
    if (i == 0) desc = desc_of(AXN_BATCH_NORM, 8, 64, 81, 83, 0);
    variant others[] = {{desc, 1}, {desc, 3}};
    others[0].desc.cold_outputs = others[1].desc.cold_outputs = 1;
    others[1].desc.threads = 3;
    check_variants(&desc, others, 2, RIG_ALL, DATA_STANDARD, seed + i);
  }
}

Test(threads, of_the_call) {
  uint64_t seed = test_seed(502);
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i++) {
    variant others[COUNT_OF_COUNTS];
    for (int t = 0; t < COUNT_OF_COUNTS; t++) {
      others[t] = (variant){desc, COUNTS[t]};
      others[t].desc.threads = 2;
    }
    check_variants(&desc, others, COUNT_OF_COUNTS, RIG_ALL, DATA_STANDARD, seed + i);
  }
}

Test(threads, every_way_through_the_engine) {
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    /* The last one has more threads than its plan was made for. */
    variant others[] = {{desc, 0}, {desc, 0}, {desc, 5}};
    others[0].desc.threads = 2;
    others[1].desc.threads = 5;
    others[2].desc.threads = 1;
    check_variants(&desc, others, 3, RIG_ALL, DATA_STANDARD, i);
  }
}

Test(threads, of_openmp_by_default) {
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i++) {
    check_variant(&desc, (variant){desc, 0}, RIG_ALL, DATA_STANDARD, i);
  }
}

/* The process's threads, as the sum of their numbers; 0 where the system does not list them. */
static int64_t sum_of_thread_numbers(void) {
  int64_t sum = 0;
  DIR *directory = opendir("/proc/self/task");
  if (directory == NULL) return 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) sum += atoll(entry->d_name);
  closedir(directory);
  return sum;
}

/* Those that a loop of fewer parts has nothing for are not ended, to be made anew for the next one: that takes longer
 * than most passes. */
Test(threads, stay) {
  axn_desc desc = desc_of(AXN_LAYER_NORM, 3, 16, 64, 64, 0);
  desc.threads = 7;
  rig self = rig_make(&desc, RIG_ALL, DATA_STANDARD, 1);
  rig_train(&self);
  const int64_t before = sum_of_thread_numbers();
  for (int i = 0; i < 3; i++) {
    rig_train(&self);
    rig_backward(&self);
  }
  cr_assert(sum_of_thread_numbers() == before);
  rig_free(&self);
}

/* Large enough that the library does not keep to one thread, which it may with little to do. */
static axn_desc random_large_desc(randoms *source) {
  axn_desc desc = random_desc(source, 20000);
  int64_t elements = 1;
  for (int k = 0; k < desc.rank; k++) elements *= desc.shape[k];
  int grown = (int)random_between(source, 0, desc.rank - 1);
  desc.shape[grown] *= 70000 / elements + 1;
  return desc;
}

Test(threads, random_shapes) {
  uint64_t seed = test_seed(503);
  for (uint64_t i = 0; i < 100; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_large_desc(&source);
    variant other = {desc, 0};
    other.desc.threads = COUNTS[random_between(&source, 1, COUNT_OF_COUNTS - 1)];
    unsigned has = (unsigned)random_between(&source, 0, RIG_ALL);
    data_spec data = random_data(&source);
    check_variant(&desc, other, has, data, random_bits(&source));
  }
}

/* The float64 way for values that overflow must be as indifferent. */
Test(threads, values_that_overflow) {
  const data_spec data = {DATA_MIXED, 0.0, 3.4e38};
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i += 2) {
    variant other = {desc, 5};
    rig a = rig_make(&other.desc, RIG_PLAIN, data, i);
    rig b = rig_twin(&a, &other.desc);
    a.threads = 5;
    b.threads = 1;
    rig_train(&a);
    rig_train(&b);
    check_same(&a, "y", a.sizes.elements, a.y, b.y);
    check_same(&a, "mean", a.sizes.statistics, a.mean, b.mean);
    check_same(&a, "rstd", a.sizes.statistics, a.rstd, b.rstd);
    rig_free(&b);
    rig_free(&a);
  }
}

/* Backward through an activation, of x that has a NaN in the middle of one channel; bits of grad_x. */
static void *grad_x_beside_nan(axn_desc desc, axn_dtype dtype, int64_t channel) {
  buffers self = buffers_of(&desc, dtype, dtype, AXN_FLOAT32, 0.5);
  const int64_t pixels = desc.shape[2] * desc.shape[3];
  typed_set(self.x, dtype, channel * pixels + pixels / 2, NAN);
  buffers_run(&self, 0);
  axn_backward_args args = axn_backward_init();
  axn_error error = {AXN_OK, ""};
  args.x = self.x, args.grad_y = self.grad_y, args.scale = self.scale, args.shift = self.shift;
  args.mean = self.mean, args.rstd = self.rstd, args.grad_x = self.grad_x;
  args.workspace = self.workspace, args.workspace_size = self.info.backward_workspace;
  cr_assert(axn_backward(self.plan, &args, &error) == AXN_OK, "%s", error.message);
  void *grad_x = self.grad_x;
  self.grad_x = NULL;
  buffers_free(&self);
  return grad_x;
}

/* A channel without numbers may send those that are worked on beside it another way; not to other bits. */
Test(threads, a_nan_beside) {
  static const axn_activation corners[] = {AXN_ACTIVATION_RELU, AXN_ACTIVATION_LEAKY_RELU};
  static const axn_dtype types[] = {AXN_FLOAT32, AXN_BFLOAT16, AXN_FLOAT16};
  for (int i = 0; i < 2 * 3 * 2; i++) {
    axn_desc desc = desc_of(AXN_BATCH_NORM, 1, 46, 79, 54, 0);
    const axn_dtype dtype = types[i / 2 % 3];
    const int64_t pixels = 79 * 54;
    desc.layout = i / 6 == 0 ? AXN_CHANNELS_FIRST : AXN_CHANNELS_LAST;
    desc.activation = corners[i % 2], desc.negative_slope = 0.3, desc.threads = 1;
    const int64_t nan = desc.layout == AXN_CHANNELS_FIRST ? 41 : 0;
    unsigned char *one = grad_x_beside_nan(desc, dtype, nan);
    for (int t = 1; t < COUNT_OF_COUNTS; t++) {
      desc.threads = COUNTS[t];
      unsigned char *other = grad_x_beside_nan(desc, dtype, nan);
      const size_t bytes = (size_t)(46 * pixels) * axn_dtype_size(dtype);
      cr_assert(memcmp(one, other, bytes) == 0, "%s: %d threads give other bits than one",
                desc_text(&desc), COUNTS[t]);
      free(other);
    }
    free(one);
  }
}

/* ---- a host's own loop ---- */

static void check_loop(axn_parallel_for loop, uint64_t seed) {
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i++) {
    variant others[] = {{desc, 0}, {desc, 7}};
    others[0].desc.parallel_for = others[1].desc.parallel_for = loop;
    check_variants(&desc, others, i % 4 ? 1 : 2, RIG_ALL, DATA_STANDARD, seed + i);
  }
}

Test(threads, loop_of_pthreads) {
  check_loop(loop_pthreads, test_seed(504));
}
Test(threads, loop_as_a_whole) {
  check_loop(loop_whole, test_seed(505));
}
Test(threads, loop_reversed) {
  check_loop(loop_reversed_singles, test_seed(506));
}
Test(threads, loop_uneven) {
  check_loop(loop_uneven, test_seed(507));
}
Test(threads, loop_on_many) {
  check_loop(loop_many_pthreads, test_seed(508));
}

static void check_told(axn_desc desc, int plan_threads, int call_threads, int told) {
  loop_record seen = {0, -1};
  desc.parallel_for = loop_whole;
  desc.parallel_context = &seen;
  desc.threads = plan_threads;
  rig self = rig_make(&desc, RIG_PLAIN, DATA_STANDARD, 509);
  self.threads = call_threads;
  cr_assert(self.info.threads == plan_threads, "with a host's loop the info's threads are %d",
            self.info.threads);
  rig_train(&self);
  cr_assert(seen.calls > 0, "the host's loop was not called");
  cr_assert(seen.threads == told, "the loop was told %d threads, not %d", seen.threads, told);
  rig_free(&self);
}

Test(threads, loop_is_told_the_number) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 16, 128, 64, 0);
  check_told(desc, 0, 0, 0);
  check_told(desc, 4, 0, 4);
  check_told(desc, 4, 2, 2);
  check_told(desc, 0, 6, 6);
}

/* ---- one plan, several threads ---- */

typedef struct visitor {
  rig self;
  const rig *shared;
} visitor;

static void *visit(void *argument) {
  visitor *own = argument;
  for (int i = 0; i < 5; i++) {
    rig_train(&own->self);
    rig_backward(&own->self);
  }
  return NULL;
}

/* Eight threads run one plan at once, on data and outputs of their own. */
static void check_shared_plan(const axn_desc *desc, uint64_t seed) {
  enum { VISITORS = 8 };
  visitor visitors[VISITORS];
  pthread_t handles[VISITORS];
  rig shared = rig_make(desc, RIG_SCALE, DATA_STANDARD, seed);
  for (int i = 0; i < VISITORS; i++) {
    visitors[i].self = rig_make(desc, RIG_SCALE, DATA_STANDARD, seed + (uint64_t)i);
    axn_plan_destroy(visitors[i].self.plan);
    visitors[i].self.plan = shared.plan;
    cr_assert(pthread_create(&handles[i], NULL, visit, &visitors[i]) == 0);
  }
  for (int i = 0; i < VISITORS; i++) pthread_join(handles[i], NULL);
  for (int i = 0; i < VISITORS; i++) {
    rig *own = &visitors[i].self;
    rig alone = rig_twin(own, desc);
    rig_train(&alone);
    rig_backward(&alone);
    check_same(own, "y", alone.sizes.elements, own->y, alone.y);
    check_same(own, "grad_x", alone.sizes.elements, own->grad_x, alone.grad_x);
    check_same(own, "grad_scale", alone.sizes.parameters, own->grad_scale, alone.grad_scale);
    own->plan = NULL;
    rig_free(&alone);
    rig_free(own);
  }
  rig_free(&shared);
}

Test(threads, one_plan_at_the_same_time) {
  axn_desc desc;
  for (size_t i = 0; chosen_desc(i, &desc); i += 3) {
    desc.threads = (int)(i % 3);
    check_shared_plan(&desc, i);
  }
}

/* Of float64, whose sums are not rounded to float before they are seen: how units are shared must not
 * show in the order of additions. */
static buffers float64_of(const axn_desc *given, int threads) {
  axn_desc desc = *given;
  desc.threads = threads;
  return buffers_of(&desc, AXN_FLOAT64, AXN_FLOAT64, AXN_FLOAT64, 0.5);
}

static void run_frozen(buffers *own) {
  axn_backward_args args = axn_backward_init();
  args.x = own->x, args.grad_y = own->grad_y, args.grad_x = own->grad_x;
  args.running_mean = own->running_mean, args.running_variance = own->running_variance;
  args.grad_scale = own->grad_scale, args.grad_shift = own->grad_shift;
  args.workspace = own->workspace, args.workspace_size = own->info.backward_workspace;
  cr_assert(axn_backward(own->plan, &args, NULL) == AXN_OK);
}

static void run_training(buffers *own) {
  buffers_run(own, 0);
}

static void check_gradients_of_float64(const axn_desc *desc, void (*run)(buffers *)) {
  buffers one = float64_of(desc, 1);
  run(&one);
  const size_t bytes = (size_t)one.info.parameters * sizeof(double);
  for (int i = 1; i < COUNT_OF_COUNTS; i++) {
    buffers other = float64_of(desc, COUNTS[i]);
    run(&other);
    cr_assert(memcmp(one.grad_scale, other.grad_scale, bytes) == 0 &&
                  memcmp(one.grad_shift, other.grad_shift, bytes) == 0,
              "%s: %d threads", desc_text(desc), COUNTS[i]);
    buffers_free(&other);
  }
  buffers_free(&one);
}

Test(threads, frozen_gradients_of_float64) {
  for (int64_t n = 3; n < 70; n += 9) {
    axn_desc desc = desc_of(n % 2 ? AXN_BATCH_NORM : AXN_INSTANCE_NORM, n, 96, 5, 7, 0);
    check_gradients_of_float64(&desc, run_frozen);
  }
}

/* Bands of rows, which are added up as a tree whatever a thread has of it. */
Test(threads, bands_of_float64) {
  const int64_t rows[] = {433, 512, 797, 1029, 1700};
  for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
    axn_desc desc = desc_of(AXN_LAYER_NORM, rows[r], 80, 0, 0, 0);
    desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
    check_gradients_of_float64(&desc, run_training);
  }
}
