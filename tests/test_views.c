/* SPDX-License-Identifier: MIT */
/*
 * Views: the same runs on parts of larger tensors. Elements lie where strides say, in memory of NaN that must
 * stay as it is; what comes out is compared with the oracle, and where the header says so with the bits of a
 * dense tensor.
 */
#include "ended.h"

#include <axisnorm/moments.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Outputs go past the caches from `cache_bytes` on; null: as this machine has it. */
#ifdef WRAPS_CACHE
static const int64_t *cache_bytes;
int64_t __real_axn_shared_cache_bytes(void);
int64_t __wrap_axn_shared_cache_bytes(void);
int64_t __wrap_axn_shared_cache_bytes(void) {
  return cache_bytes ? *cache_bytes : __real_axn_shared_cache_bytes();
}
static void stream(int always) {
  static const int64_t none = 0;
  cache_bytes = always ? &none : NULL;
}
#else
static void stream(int always) {
  (void)always;
}
#endif

static const axn_dtype TYPES[] = {AXN_FLOAT32, AXN_FLOAT64, AXN_BFLOAT16, AXN_FLOAT16};

/* ---- strides ---- */

/* Axes in the order of a layout, outermost first. */
static int axis_at(const axn_desc *desc, axn_layout layout, int position) {
  if (layout == AXN_CHANNELS_FIRST || position == 0) return position;
  return position == desc->rank - 1 ? 1 : position + 1;
}

typedef enum view_kind {
  VIEW_DENSE,    /* all zero */
  VIEW_SAMPLES,  /* gaps between samples: a slice of channels where these come first */
  VIEW_CHANNELS, /* every second channel, or a slice where they come last */
  VIEW_BOTH,     /* every second channel of every second sample, or both slices */
  VIEW_CROP,     /* gaps between all axes but the innermost */
  VIEW_STEPS,    /* every third element */
  VIEW_OTHER,    /* the other layout's strides */
  VIEW_ANY,      /* axes in any order, with any gaps */
  VIEW_KINDS
} view_kind;

/* From the innermost axis out; `gap[p]`: added to the stride of the axis at position p, in steps. */
static void strides_of(const axn_desc *desc, const int order[5], const int64_t gap[5],
                       int64_t strides[AXN_MAX_RANK]) {
  int64_t next = 1;
  for (int p = desc->rank - 1; p >= 0; p--) {
    strides[order[p]] = next + gap[p];
    next = strides[order[p]] * desc->shape[order[p]];
  }
}

static void make_view(const axn_desc *desc, view_kind kind, randoms *source,
                      int64_t strides[AXN_MAX_RANK]) {
  const axn_layout other =
      desc->layout == AXN_CHANNELS_FIRST ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
  int order[5] = {0};
  int64_t gap[5] = {0};
  memset(strides, 0, AXN_MAX_RANK * sizeof *strides);
  if (kind == VIEW_DENSE) return;
  for (int p = 0; p < desc->rank; p++) {
    order[p] = axis_at(desc, kind == VIEW_OTHER ? other : desc->layout, p);
  }
  const int last = desc->rank - 1;
  int64_t positions = 1;
  for (int k = 2; k < desc->rank; k++) positions *= desc->shape[k];
  const int channels = desc->layout == AXN_CHANNELS_FIRST ? 1 : last - 1;
  const int64_t between = desc->layout == AXN_CHANNELS_FIRST ? positions : 5;
  if (kind == VIEW_SAMPLES || kind == VIEW_BOTH) gap[0] = 3 * positions;
  if (kind == VIEW_CHANNELS || kind == VIEW_BOTH) gap[channels] += between;
  for (int p = 0; p < desc->rank; p++) {
    if (kind == VIEW_CROP && p < last) gap[p] += 3 + p;
    if (kind == VIEW_STEPS && p == last) gap[p] += 2;
    if (kind == VIEW_ANY) gap[p] = random_between(source, 0, 2) * random_between(source, 0, 9);
  }
  for (int p = last; kind == VIEW_ANY && p > 0; p--) {
    const int swapped = (int)random_between(source, 0, p), kept = order[p];
    order[p] = order[swapped];
    order[swapped] = kept;
  }
  strides_of(desc, order, gap, strides);
}

static int is_view(const axn_desc *desc, const int64_t *strides) {
  int given = 0;
  for (int k = 0; k < desc->rank; k++) given |= strides[k] != 0;
  return given;
}

/* Offsets of all elements, in the order of the dense layout. */
static int64_t *offsets_of(const axn_desc *desc, const int64_t *given) {
  int order[5] = {0};
  int64_t dense[AXN_MAX_RANK] = {0}, index[5] = {0}, count = 1;
  const int64_t none[5] = {0};
  for (int p = 0; p < desc->rank; p++) order[p] = axis_at(desc, desc->layout, p);
  for (int k = 0; k < desc->rank; k++) count *= desc->shape[k];
  strides_of(desc, order, none, dense);
  const int64_t *strides = is_view(desc, given) ? given : dense;
  int64_t *offsets = malloc((size_t)(count + 1) * sizeof *offsets);
  cr_assert(offsets);
  for (int64_t e = 0; e < count; e++) {
    offsets[e] = 0;
    for (int k = 0; k < desc->rank; k++) offsets[e] += index[k] * strides[k];
    for (int p = desc->rank - 1; p >= 0 && ++index[order[p]] == desc->shape[order[p]]; p--) {
      index[order[p]] = 0;
    }
  }
  return offsets;
}

/* ---- tensors of a view ---- */

typedef struct side {
  axn_dtype dtype;
  int64_t count, span, margin; /* elements */
  int64_t *offsets;
} side;

static side side_of(const buffers *own, const axn_desc *desc, const int64_t *strides, int64_t span,
                    int64_t margin) {
  side self = {own->dtype, own->info.elements, 1, margin, offsets_of(desc, strides)};
  for (int64_t e = 0; e < self.count; e++) {
    if (self.offsets[e] >= self.span) self.span = self.offsets[e] + 1;
  }
  cr_assert(span == self.span, "%s: spans %lld, not %lld", desc_text(desc), (long long)span,
            (long long)self.span);
  return self;
}

/* Memory of NaN with the values of a dense tensor in it, null: none; and its first element. */
static unsigned char *spread(const side *self, const void *values) {
  const size_t size = axn_dtype_size(self->dtype);
  const size_t bytes = (size_t)(self->span + 2 * self->margin) * size;
  unsigned char *memory = malloc(bytes);
  cr_assert(memory);
  memset(memory, 0xff, bytes);
  for (int64_t e = 0; values && e < self->count; e++) {
    memcpy(memory + (size_t)(self->margin + self->offsets[e]) * size,
           (const unsigned char *)values + (size_t)e * size, size);
  }
  return memory;
}

static void *start_of(const side *self, unsigned char *memory) {
  return memory ? memory + (size_t)self->margin * axn_dtype_size(self->dtype) : NULL;
}

/* The other way, and nothing else was touched. Frees the memory. */
static void gather(const side *self, unsigned char *memory, void *values, const axn_desc *desc,
                   const char *name) {
  const size_t size = axn_dtype_size(self->dtype);
  const size_t bytes = (size_t)(self->span + 2 * self->margin) * size;
  for (int64_t e = 0; e < self->count; e++) {
    unsigned char *at = memory + (size_t)(self->margin + self->offsets[e]) * size;
    if (values) memcpy((unsigned char *)values + (size_t)e * size, at, size);
    memset(at, 0xff, size);
  }
  cr_assert(memory[0] == 0xff && memcmp(memory, memory + 1, bytes - 1) == 0,
            "%s: %s: a gap was written to", desc_text(desc), name);
  free(memory);
}

/* ---- runs ---- */

typedef struct views {
  buffers own; /* dense, with the plan of the views */
  const axn_desc *desc;
  side x, y;
  int in_place, threads;
} views;

static int same_strides(const axn_desc *desc) {
  return memcmp(desc->x_strides, desc->y_strides, sizeof desc->x_strides) == 0;
}

static views views_of(const axn_desc *desc, axn_dtype dtype, axn_dtype parameters,
                      int with_residual, int in_place) {
  views self = {.own = buffers_of(desc, dtype, dtype, parameters, 0.5), .desc = desc};
  self.own.with_residual = with_residual;
  self.in_place = in_place && same_strides(desc);
  const int64_t margin = in_place ? 0 : 67;
  self.x = side_of(&self.own, desc, desc->x_strides, self.own.info.x_span, margin);
  self.y = side_of(&self.own, desc, desc->y_strides, self.own.info.y_span, margin);
  return self;
}

static void views_free(views *self) {
  free(self->x.offsets);
  free(self->y.offsets);
  buffers_free(&self->own);
}

static void ok(const views *self, axn_status status, const axn_error *error) {
  cr_assert(status == AXN_OK, "%s: %s", desc_text(self->desc), error->message);
}

static void run_inference(views *self) {
  buffers *own = &self->own;
  const int running = own->info.running_statistics > 0;
  axn_error error = {AXN_OK, ""};
  unsigned char *x = spread(&self->x, own->x);
  unsigned char *residual = own->with_residual ? spread(&self->y, own->residual) : NULL;
  unsigned char *y = self->in_place ? x : spread(&self->y, NULL);
  axn_inference_args args = axn_inference_init();
  args.x = start_of(&self->x, x), args.y = start_of(&self->y, y);
  args.scale = own->scale, args.shift = own->shift, args.threads = self->threads;
  args.running_mean = running ? own->running_mean : NULL;
  args.running_variance = running ? own->running_variance : NULL;
  args.residual = start_of(&self->y, residual), args.workspace = own->workspace;
  args.workspace_size = own->info.inference_workspace;
  ok(self, axn_forward_inference(own->plan, &args, &error), &error);
  gather(&self->y, y, own->z, self->desc, "y of inference");
  if (x != y) gather(&self->x, x, NULL, self->desc, "x");
  if (residual) gather(&self->y, residual, NULL, self->desc, "residual");
}

/* In place of the residual, where there is one. */
static void run_training(views *self) {
  buffers *own = &self->own;
  const int running = own->info.running_statistics > 0;
  axn_error error = {AXN_OK, ""};
  unsigned char *x = spread(&self->x, own->x);
  unsigned char *residual = own->with_residual ? spread(&self->y, own->residual) : NULL;
  unsigned char *y = residual ? residual : spread(&self->y, NULL);
  axn_training_args args = axn_training_init();
  args.x = start_of(&self->x, x), args.y = start_of(&self->y, y);
  args.scale = own->scale, args.shift = own->shift, args.threads = self->threads;
  args.mean = own->mean, args.rstd = own->rstd;
  args.running_mean = running ? own->running_mean : NULL;
  args.running_variance = running ? own->running_variance : NULL;
  args.residual = start_of(&self->y, residual), args.workspace = own->workspace;
  args.workspace_size = own->info.training_workspace;
  ok(self, axn_forward_training(own->plan, &args, &error), &error);
  gather(&self->y, y, own->y, self->desc, "y of training");
  gather(&self->x, x, NULL, self->desc, "x");
}

/* `frozen`: through running statistics; without grad_scale and activation then without x. */
static void run_backward(views *self, int frozen) {
  buffers *own = &self->own;
  const int ends = own->activation != AXN_ACTIVATION_NONE, needs_x = !frozen || ends;
  axn_error error = {AXN_OK, ""};
  unsigned char *x = needs_x ? spread(&self->x, own->x) : NULL;
  unsigned char *grad_y = spread(&self->y, own->grad_y);
  unsigned char *residual = own->with_residual ? spread(&self->y, own->residual) : NULL;
  unsigned char *grad_x = self->in_place ? grad_y : spread(&self->x, NULL);
  unsigned char *grad_residual = ends && own->with_residual ? spread(&self->y, NULL) : NULL;
  axn_backward_args args = axn_backward_init();
  args.x = start_of(&self->x, x), args.grad_y = start_of(&self->y, grad_y);
  args.scale = own->scale, args.shift = own->shift, args.residual = start_of(&self->y, residual);
  args.mean = frozen ? NULL : own->mean, args.rstd = frozen ? NULL : own->rstd;
  args.running_mean = frozen ? own->running_mean : NULL;
  args.running_variance = frozen ? own->running_variance : NULL;
  args.grad_x = start_of(&self->x, grad_x), args.threads = self->threads;
  args.grad_residual = start_of(&self->y, grad_residual);
  args.grad_scale = needs_x ? own->grad_scale : NULL, args.grad_shift = own->grad_shift;
  args.workspace = own->workspace, args.workspace_size = own->info.backward_workspace;
  ok(self, axn_backward(own->plan, &args, &error), &error);
  gather(&self->x, grad_x, own->grad_x, self->desc, "grad_x");
  if (grad_residual)
    gather(&self->y, grad_residual, own->grad_residual, self->desc, "grad_residual");
  if (grad_y != grad_x) gather(&self->y, grad_y, NULL, self->desc, "grad_y");
  if (x) gather(&self->x, x, NULL, self->desc, "x");
  if (residual) gather(&self->y, residual, NULL, self->desc, "residual");
}

/* ---- against the oracle ---- */

static void check_moments(views *self, const expected *due) {
  const buffers *own = &self->own;
  const int64_t s = own->info.statistics;
  axn_moment_state state = axn_moment_state_init();
  state.statistics = s, state.mean = typed_room(s, AXN_FLOAT64);
  state.m2 = typed_room(s, AXN_FLOAT64);
  unsigned char *x = spread(&self->x, own->x);
  axn_error error = {AXN_OK, ""};
  axn_moments_args args = axn_moments_init();
  args.x = start_of(&self->x, x), args.state = &state, args.workspace = own->workspace;
  args.workspace_size = own->info.training_workspace;
  ok(self, axn_moments_reset(&state, &error), &error);
  ok(self, axn_moments_accumulate(own->plan, &args, &error), &error);
  const axn_strategy *own_strategy = self->desc->strategy;
  const int has_mean = own_strategy ? !own_strategy->second_moment : knows_mean(self->desc);
  const double room = axn_dtype_size(own->dtype) == 2 ? 6e-5 : 1e-6;
  for (int64_t k = 0; k < s && has_mean; k++) {
    const double variance = state.m2[k] / (double)state.count;
    cr_assert(fabs(state.mean[k] - due->forward.mean[k]) < room &&
                  fabs(variance - due->forward.variance[k]) < room * (variance + 1e-6),
              "%s: moments %lld", desc_text(self->desc), (long long)k);
  }
  gather(&self->x, x, NULL, self->desc, "x");
  free(state.mean);
  free(state.m2);
}

/* Without an activation: gradients of x and shift through constants. */
static void check_frozen(views *self, const expected *due) {
  buffers *own = &self->own;
  const int64_t n = own->info.elements, r = own->info.running_statistics;
  if (r == 0 || own->activation != AXN_ACTIVATION_NONE) return;
  double *x = doubles_of(own->x, own->dtype, n), *grad_y = doubles_of(own->grad_y, own->dtype, n);
  double *scale = doubles_of(own->scale, own->parameters, own->info.parameters);
  double *mean = doubles_of(own->running_mean, own->reals, r);
  double *variance = doubles_of(own->running_variance, own->reals, r);
  oracle_backward backward = oracle_frozen_gradients(&due->sizes, x, grad_y, scale, mean, variance);
  for (int64_t p = 0; p < own->info.parameters; p++) { /* not asked for */
    backward.grad_scale[p] = typed_get(own->grad_scale, own->parameters, p);
  }
  run_backward(self, 1);
  expect_gradients(own, self->desc, &backward);
  oracle_backward_free(&backward);
  double *const mine[] = {x, grad_y, scale, mean, variance};
  for (int i = 0; i < 5; i++) free(mine[i]);
}

static void check_views(const axn_desc *given, axn_dtype dtype, int turn) {
  axn_desc desc = *given;
  const axn_dtype parameters = dtype == AXN_FLOAT64 ? dtype : AXN_FLOAT32;
  desc.activation = (axn_activation)(turn % 7 % 6), desc.negative_slope = ENDED_SLOPE;
  stream(turn / 2 % 2);
  views self = views_of(&desc, dtype, parameters, turn % 3 == 0, turn % 2);
  expected due = expect(&self.own, &desc);
  run_inference(&self);
  run_training(&self);
  run_backward(&self, 0);
  expect_runs(&self.own, &desc, &due);
  check_frozen(&self, &due);
  check_moments(&self, &due);
  expected_free(&due);
  views_free(&self);
}

/* Both sides the same one time in three, so that runs in place are among them. */
static void set_views(axn_desc *desc, int turn, randoms *source) {
  const int kind = turn % VIEW_KINDS, other = turn / VIEW_KINDS % VIEW_KINDS;
  make_view(desc, (view_kind)kind, source, desc->x_strides);
  make_view(desc, (view_kind)other, source, desc->y_strides);
  if (turn % 3 == 0) memcpy(desc->y_strides, desc->x_strides, sizeof desc->y_strides);
}

Test(views, every_norm_type_and_kind) {
  static const int64_t shape[5] = {4, 6, 3, 5, 7};
  randoms source = randoms_from(test_seed(811));
  axn_desc desc;
  for (int i = 0, turn = 0; listed_desc(i, shape, &desc); i++) {
    for (int k = 0; k < VIEW_KINDS + 3; k++, turn += 5) {
      set_views(&desc, turn, &source);
      check_views(&desc, TYPES[turn % 4], turn + k);
    }
  }
}

static int64_t elements_of(const axn_desc *desc) {
  int64_t elements = 1;
  for (int k = 0; k < desc->rank; k++) elements *= desc->shape[k];
  return elements;
}

Test(views, every_way_through_the_engine) {
  randoms source = randoms_from(test_seed(812));
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    const int64_t elements = elements_of(&desc);
    if (elements > 200000) continue;
    for (int k = 0; k < (elements < 60000 ? 3 : 1); k++) {
      const int turn = (int)i * 7 + k * 13;
      set_views(&desc, turn, &source);
      check_views(&desc, AXN_FLOAT32, turn);
    }
  }
}

/* So many samples that a matrix would be taken in bands: where gaps break its rows, it cannot be. */
Test(views, rows_with_gaps) {
  randoms source = randoms_from(test_seed(818));
  for (int turn = 0; turn < 2 * VIEW_KINDS * VIEW_KINDS; turn++) {
    const axn_norm norm = turn % 3 ? AXN_LAYER_NORM : AXN_RMS_NORM;
    axn_desc desc = turn % 2 ? desc_of(norm, 40, 6, 20, 0, 0) : desc_of(norm, 50, 37, 0, 0, 0);
    desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
    desc.layout = turn / 2 % 2 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
    set_views(&desc, turn / 2, &source);
    check_views(&desc, TYPES[turn % 4], turn);
  }
}

Test(views, random_shapes) {
  randoms source = randoms_from(test_seed(813));
  for (int i = 0; i < 600; i++) {
    axn_desc desc = random_desc(&source, 3000);
    if (desc.momentum == AXN_MOMENTUM_CUMULATIVE) desc.momentum = 0.5;
    if (desc.epsilon < 1e-6) desc.epsilon = 1e-5;
    make_view(&desc, VIEW_ANY, &source, desc.x_strides);
    make_view(&desc, i % 3 ? VIEW_ANY : VIEW_CROP, &source, desc.y_strides);
    check_views(&desc, TYPES[i % 4], i);
  }
}

/* ---- strategies of one's own: every set of axes, every kind of parameters ---- */

static axn_status select_given(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  (void)desc;
  (void)error;
  *axes = *(const axn_axes *)self->context;
  return AXN_OK;
}

Test(views, every_choice_of_axes) {
  static const int64_t shape[4] = {4, 6, 5, 18};
  randoms source = randoms_from(test_seed(814));
  for (int turn = 0; turn < 16 * 2 * 12; turn++) {
    const axn_axes axes = {(uint32_t)(turn % 16), turn % 16 & 2 && turn % 5 == 0 ? 1 : -1,
                           turn % 16 & 2 && turn % 5 == 0 ? 3 : 1};
    axn_strategy strategy = axn_strategy_init();
    strategy.name = "own", strategy.select = select_given, strategy.context = &axes;
    strategy.parameters_per_element = 1, strategy.second_moment = turn % 7 == 0;
    axn_desc desc = make_desc(AXN_BATCH_NORM, 4, shape);
    desc.strategy = &strategy;
    desc.layout = turn / 16 % 2 ? AXN_CHANNELS_FIRST : AXN_CHANNELS_LAST;
    if (turn % 3 && axes.split_axis < 0) desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
    set_views(&desc, turn / 32 * 5 + turn, &source);
    check_views(&desc, TYPES[turn / 32 % 4], turn);
  }
}

/* ---- the same bits ---- */

static void run_all(views *self) {
  run_inference(self);
  run_training(self);
  run_backward(self, 0);
}

static void same(const views *a, const views *b, const char *name, const void *one, const void *two,
                 int64_t count, axn_dtype dtype) {
  cr_assert(memcmp(one, two, (size_t)count * axn_dtype_size(dtype)) == 0, "%s, %s: %s differ",
            desc_text(a->desc), axn_dtype_name(b->own.dtype), name);
}

static void same_forward(const views *a, const views *b) {
  const buffers *one = &a->own, *two = &b->own;
  same(a, b, "inference", one->z, two->z, one->info.elements, one->dtype);
  same(a, b, "y", one->y, two->y, one->info.elements, one->dtype);
  same(a, b, "mean", one->mean, two->mean, one->info.statistics, one->reals);
  same(a, b, "rstd", one->rstd, two->rstd, one->info.statistics, one->reals);
}

/* Neighbours in the layout that are reduced, axes of extent 1 left out, must follow each other in x; and the
 * innermost axis must be dense on both sides. */
static int promises_bits(const axn_desc *desc, const oracle *sizes) {
  int inner = -1;
  for (int p = desc->rank - 1; p >= 0; p--) {
    const int k = axis_at(desc, desc->layout, p);
    if (desc->shape[k] == 1) continue;
    const int64_t *x = desc->x_strides, *y = desc->y_strides;
    if (inner < 0 && ((is_view(desc, x) && x[k] != 1) || (is_view(desc, y) && y[k] != 1))) return 0;
    const int between = sizes->split_axis == inner && sizes->split_groups > 1; /* its groups */
    const int both =
        inner >= 0 && sizes->reduced_axes >> k & 1 && sizes->reduced_axes >> inner & 1 && !between;
    if (both && is_view(desc, x) && x[k] != x[inner] * desc->shape[inner]) return 0;
    inner = k;
  }
  return 1;
}

Test(views, bits_of_a_dense_tensor) {
  static const int64_t shapes[3][5] = {{4, 6, 3, 5, 7}, {17, 6, 7, 7, 1}, {2, 33, 1, 19, 40}};
  randoms source = randoms_from(test_seed(815));
  axn_desc desc;
  int promised = 0;
  for (int i = 0; i < 3; i++) {
    for (int d = 0, turn = i; listed_desc(d, shapes[i], &desc); d++, turn += 5) {
      set_views(&desc, turn, &source);
      axn_desc dense = desc;
      memset(dense.x_strides, 0, sizeof dense.x_strides);
      memset(dense.y_strides, 0, sizeof dense.y_strides);
      views viewed = views_of(&desc, TYPES[turn % 4], TYPES[turn % 4], turn % 3 == 0, 0);
      views plain = views_of(&dense, TYPES[turn % 4], TYPES[turn % 4], turn % 3 == 0, 0);
      oracle sizes = oracle_make(&desc);
      if (promises_bits(&desc, &sizes)) {
        run_all(&viewed);
        run_all(&plain);
        same_forward(&viewed, &plain);
        promised++;
      }
      oracle_free(&sizes);
      views_free(&viewed);
      views_free(&plain);
    }
  }
  cr_assert(promised > 150, "%d", promised);
}

/* On every instruction set, with one thread and with three. */
Test(views, same_bits_everywhere) {
  randoms source = randoms_from(test_seed(816));
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    if (elements_of(&desc) > 150000) continue;
    set_views(&desc, (int)i * 5, &source);
    desc.activation = (axn_activation)(i % 6), desc.threads = 3, desc.isa = AXN_ISA_BASELINE;
    stream(i % 2 == 0);
    views first = views_of(&desc, AXN_FLOAT32, AXN_FLOAT32, i % 3 == 0, 0);
    run_all(&first);
    for (int isa = AXN_ISA_BASELINE; axn_isa_name((axn_isa)isa) != NULL; isa++) {
      if (!axn_isa_available((axn_isa)isa)) continue;
      desc.isa = (axn_isa)isa, desc.threads = 1;
      views other = views_of(&desc, AXN_FLOAT32, AXN_FLOAT32, i % 3 == 0, 0);
      run_all(&other);
      const buffers *one = &first.own, *two = &other.own;
      same_forward(&first, &other);
      same(&first, &other, "grad_x", one->grad_x, two->grad_x, one->info.elements, one->dtype);
      same(&first, &other, "grad_scale", one->grad_scale, two->grad_scale, one->info.parameters,
           one->parameters);
      same(&first, &other, "grad_shift", one->grad_shift, two->grad_shift, one->info.parameters,
           one->parameters);
      views_free(&other);
    }
    views_free(&first);
  }
}

static void check_threads(axn_desc desc, axn_dtype dtype) {
  desc.threads = 1;
  views first = views_of(&desc, dtype, dtype, 0, 0);
  run_all(&first);
  for (int threads = 2; threads <= 32; threads *= 2) {
    desc.threads = threads;
    views other = views_of(&desc, dtype, dtype, 0, 0);
    run_all(&other);
    const buffers *one = &first.own, *two = &other.own;
    same_forward(&first, &other);
    same(&first, &other, "grad_x", one->grad_x, two->grad_x, one->info.elements, dtype);
    same(&first, &other, "grad_scale", one->grad_scale, two->grad_scale, one->info.parameters,
         one->parameters);
    views_free(&other);
  }
  views_free(&first);
}

/* Groups whose channels are lines of one element or few, as x's channels are not neighbours though the layout says
 * so: sums of blocks of such lines are added in an order that is not to depend on how many groups a thread has. */
Test(views, groups_of_short_lines) {
  static const struct {
    int64_t shape[4], groups;
  } cases[] = {{{136, 41, 3, 27}, 1}, {{2, 1004, 19, 11}, 4}, {{58, 448, 3, 2}, 64}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const int64_t *shape = cases[i].shape, pixels = shape[2] * shape[3];
    const int64_t first[4] = {shape[1] * pixels, pixels, shape[3], 1};
    const int64_t turned[4] = {shape[1] * pixels, shape[2], 1, shape[1] * shape[2]};
    axn_desc desc = make_desc(AXN_GROUP_NORM, 4, shape);
    desc.groups = cases[i].groups, desc.layout = AXN_CHANNELS_LAST;
    memcpy(desc.x_strides, first, sizeof first);
    check_threads(desc, AXN_FLOAT64);
    check_threads(desc, AXN_FLOAT32);
    memcpy(desc.x_strides, turned, sizeof turned);
    check_threads(desc, AXN_FLOAT64);
  }
}

/* ---- input and output in one buffer: DenseNet's layers ---- */

static void check_one_buffer(axn_norm norm, axn_layout layout, axn_dtype dtype) {
  enum { N = 3, C = 8, H = 5, W = 6, ALL = 20, OTHER = 10 };
  const int64_t shape[4] = {N, C, H, W};
  const int first = layout == AXN_CHANNELS_FIRST;
  const int64_t strides[4] = {ALL * H * W, first ? H * W : 1, first ? W : W * ALL, first ? 1 : ALL};
  const int64_t from = first ? H * W : 1, to = OTHER * from; /* channels 1 to 8, and 10 to 17 */
  axn_desc desc = make_desc(norm, 4, shape);
  desc.layout = layout;
  memcpy(desc.x_strides, strides, sizeof strides);
  memcpy(desc.y_strides, strides, sizeof strides);
  views self = views_of(&desc, dtype, dtype, 0, 0);
  expected due = expect(&self.own, &desc);
  run_all(&self);
  side whole = {dtype, N * ALL * H * W, N * ALL * H * W, 0, NULL};
  unsigned char *memory = spread(&whole, NULL);
  const size_t size = axn_dtype_size(dtype);
  unsigned char *x = memory + (size_t)from * size, *y = memory + (size_t)to * size;
  for (int64_t e = 0; e < self.x.count; e++) {
    memcpy(x + (size_t)self.x.offsets[e] * size, (char *)self.own.x + (size_t)e * size, size);
  }
  axn_training_args args = axn_training_init();
  axn_error error = {AXN_OK, ""};
  args.x = x, args.y = y, args.scale = self.own.scale, args.shift = self.own.shift;
  args.workspace = self.own.workspace, args.workspace_size = self.own.info.training_workspace;
  ok(&self, axn_forward_training(self.own.plan, &args, &error), &error);
  for (int64_t e = 0; e < self.x.count; e++) {
    unsigned char *in = x + (size_t)self.x.offsets[e] * size;
    unsigned char *out = y + (size_t)self.x.offsets[e] * size;
    cr_assert(memcmp(in, (char *)self.own.x + (size_t)e * size, size) == 0);
    cr_assert(memcmp(out, (char *)self.own.y + (size_t)e * size, size) == 0);
    memset(in, 0xff, size);
    memset(out, 0xff, size);
  }
  whole.count = 0;
  gather(&whole, memory, NULL, &desc, "the buffer");
  expect_runs(&self.own, &desc, &due);
  expected_free(&due);
  views_free(&self);
}

Test(views, one_buffer) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    if (norm == AXN_GHOST_BATCH_NORM) continue; /* of 3 samples: batch */
    for (int t = 0; t < 4; t++) {
      check_one_buffer((axn_norm)norm, AXN_CHANNELS_FIRST, TYPES[t]);
      check_one_buffer((axn_norm)norm, AXN_CHANNELS_LAST, TYPES[t]);
    }
  }
}

/* ---- which buffers overlap ---- */

/* Instance normalization from an offset to another in one block of floats. */
static axn_status run_between(const axn_plan *plan, float *from, float *to, const float *scale,
                              axn_error *error) {
  static double workspace[256];
  axn_inference_args args = axn_inference_init();
  args.x = from, args.y = to, args.scale = scale;
  args.workspace = workspace, args.workspace_size = sizeof workspace;
  return axn_forward_inference(plan, &args, error);
}

static int meet(const side *a, int64_t at_a, const side *b, int64_t at_b) {
  for (int64_t i = 0; i < a->count; i++) {
    for (int64_t j = 0; j < b->count; j++) {
      if (at_a + a->offsets[i] == at_b + b->offsets[j]) return 1;
    }
  }
  return 0;
}

/* Exact where both have the same strides or one is dense; else never too trusting. */
static void check_overlaps(const axn_desc *desc, int exact, int *apart_though_woven) {
  enum { BLOCK = 4000 };
  static float block[BLOCK];
  views self = views_of(desc, AXN_FLOAT32, AXN_FLOAT32, 0, 0);
  const side *x = &self.x, *y = &self.y;
  const int64_t middle = BLOCK / 2 - x->span / 2;
  cr_assert(3 * x->span + 2 * y->span < BLOCK);
  for (int64_t at = middle - y->span - 2; at < middle + x->span + 2; at++) {
    axn_error error = {AXN_OK, ""};
    memset(block, 0, sizeof block);
    const axn_status status = run_between(self.own.plan, block + middle, block + at, NULL, &error);
    const int in_place = at == middle && same_strides(desc);
    const int due = !in_place && meet(x, middle, y, at);
    cr_assert(status == AXN_OK || status == AXN_ERROR_OVERLAP, "%s", error.message);
    cr_assert(!due || status != AXN_OK, "%s: overlap at %lld not seen", desc_text(desc),
              (long long)(at - middle));
    cr_assert(!exact || due || status == AXN_OK, "%s: no overlap at %lld: %s", desc_text(desc),
              (long long)(at - middle), error.message);
    const int within = at + y->span > middle && at < middle + x->span;
    if (within && !in_place && status == AXN_OK) ++*apart_though_woven;
    if (status == AXN_ERROR_OVERLAP) cr_assert(strstr(error.message, "y: overlaps x"));
  }
  views_free(&self);
}

Test(views, overlap_is_of_elements) {
  static const int64_t shape[4] = {2, 3, 2, 3};
  randoms source = randoms_from(test_seed(817));
  for (int turn = 0, woven = 0; turn < 200; turn++) {
    axn_desc desc = make_desc(AXN_INSTANCE_NORM, 4, shape);
    desc.layout = turn % 2 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
    make_view(&desc, VIEW_ANY, &source, desc.x_strides);
    const int same_ones = turn % 4 < 2, dense = turn % 4 == 2;
    if (same_ones) memcpy(desc.y_strides, desc.x_strides, sizeof desc.y_strides);
    if (!same_ones && !dense) make_view(&desc, VIEW_ANY, &source, desc.y_strides);
    check_overlaps(&desc, same_ones || dense, &woven);
    cr_assert(turn < 199 || woven > 50, "%d", woven);
  }
}

/* Slices of channels of buffers with other gaps between samples are told apart. */
Test(views, overlap_of_other_strides) {
  const int64_t shape[4] = {2, 3, 2, 3};
  int woven = 0;
  axn_desc desc = make_desc(AXN_INSTANCE_NORM, 4, shape);
  const int64_t x[4] = {10 * 6, 6, 3, 1}, y[4] = {20 * 6, 6, 3, 1};
  memcpy(desc.x_strides, x, sizeof x);
  memcpy(desc.y_strides, y, sizeof y);
  check_overlaps(&desc, 0, &woven);
  cr_assert(woven > 20, "%d", woven);
  const int64_t x_last[4] = {6 * 10, 1, 3 * 10, 10}, y_last[4] = {9 * 10, 1, 3 * 10, 10};
  woven = 0;
  desc.layout = AXN_CHANNELS_LAST;
  memcpy(desc.x_strides, x_last, sizeof x);
  memcpy(desc.y_strides, y_last, sizeof y);
  check_overlaps(&desc, 0, &woven);
  cr_assert(woven > 20, "%d", woven);
}

/* What is not a tensor may lie in a gap, an output and an input. */
Test(views, overlap_with_parameters) {
  static float block[600];
  const int64_t shape[4] = {2, 3, 2, 3}, strides[4] = {90, 24, 5, 1};
  axn_desc desc = make_desc(AXN_INSTANCE_NORM, 4, shape);
  memcpy(desc.y_strides, strides, sizeof strides);
  views self = views_of(&desc, AXN_FLOAT32, AXN_FLOAT32, 0, 0);
  side scale = {AXN_FLOAT32, 3, 3, 0, (int64_t[]){0, 1, 2}};
  float x[36] = {0};
  for (int64_t at = 0; at < 300; at++) {
    axn_error error = {AXN_OK, ""};
    memset(block, 0, sizeof block);
    const axn_status status = run_between(self.own.plan, x, block + 50, block + at, &error);
    const int due = meet(&self.y, 50, &scale, at);
    cr_assert(status == (due ? AXN_ERROR_OVERLAP : AXN_OK), "at %lld: %s", (long long)at,
              error.message);
    if (due) cr_assert(strstr(error.message, "y: overlaps scale"));
  }
  views_free(&self);
}

/* ---- descriptors ---- */

static void refused(const axn_desc *desc, axn_status status, const char *field) {
  axn_plan *plan = NULL;
  axn_error error = {AXN_OK, ""};
  const axn_status got = axn_plan_create(&plan, desc, &error);
  cr_assert(got == status && plan == NULL, "%s: %d, not %d: %s", desc_text(desc), (int)got,
            (int)status, error.message);
  cr_assert(strstr(error.message, field), "%s is not in: %s", field, error.message);
  cr_assert(axn_plan_create(&plan, desc, NULL) == status);
}

static axn_desc strided(int64_t n, int64_t c, int64_t h, int64_t w) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 2, 3, 4, 5, 0);
  const int64_t strides[4] = {n, c, h, w};
  memcpy(desc.x_strides, strides, sizeof strides);
  return desc;
}

Test(views, strides_that_are_refused) {
  static const struct {
    int64_t strides[4];
    axn_status status;
    const char *field;
  } cases[] = {
      {{60, 20, 5, 0}, AXN_ERROR_STRIDES, "_strides[3]: 0 is below 1"},
      {{0, 20, 5, 1}, AXN_ERROR_STRIDES, "_strides[0]: 0 is below 1"},
      {{60, -20, 5, 1}, AXN_ERROR_STRIDES, "_strides[1]: -20 is below 1"},
      {{60, 20, 4, 1}, AXN_ERROR_STRIDES, "_strides[2]: 4 lets elements overlap"},
      {{60, 20, 1, 1}, AXN_ERROR_STRIDES, "lets elements overlap"},
      {{59, 20, 5, 1}, AXN_ERROR_STRIDES, "_strides[0]: 59"},
      {{60, 19, 5, 1}, AXN_ERROR_STRIDES, "_strides[1]: 19"},
      {{INT64_MIN, 20, 5, 1}, AXN_ERROR_STRIDES, "_strides[0]"},
      {{INT64_MAX, 20, 5, 1}, AXN_ERROR_OVERFLOW, "_strides[0]"},
      {{INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}, AXN_ERROR_OVERFLOW, "_strides"},
      {{60, INT64_MAX / 400, 5, 1}, AXN_ERROR_OVERFLOW, "_strides[1]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const int64_t *s = cases[i].strides;
    axn_desc desc = strided(s[0], s[1], s[2], s[3]);
    char field[64];
    snprintf(field, sizeof field, "%s%s", cases[i].field[0] == '_' ? "x" : "", cases[i].field);
    refused(&desc, cases[i].status, field);
    memcpy(desc.y_strides, desc.x_strides, sizeof desc.y_strides);
    memset(desc.x_strides, 0, sizeof desc.x_strides);
    field[0] = cases[i].field[0] == '_' ? 'y' : field[0];
    refused(&desc, cases[i].status, field);
  }
}

/* Axes of one element, or none, have no stride; nor has what lies behind the rank. */
Test(views, strides_that_are_ignored) {
  axn_desc desc = desc_of(AXN_LAYER_NORM, 1, 4, 1, 5, 0);
  const int64_t strides[6] = {-7, 9, 0, 2, -1, 3};
  memcpy(desc.x_strides, strides, sizeof strides);
  axn_plan *plan = NULL;
  axn_plan_info info = axn_plan_info_init();
  for (int n = 0; n < 2; n++) {
    desc.shape[0] = n;
    cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
    cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
    cr_assert(info.elements == n * 20 && info.x_span == n * (1 + 3 * 9 + 4 * 2));
    cr_assert(info.y_span == n * 20);
    axn_plan_destroy(plan);
  }
}
