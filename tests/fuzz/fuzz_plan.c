/* SPDX-License-Identifier: MIT */
/* Any bytes as a descriptor: refused, or a plan whose passes stay inside buffers of exactly the
 * sizes that it states. The address sanitizer watches. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "axisnorm/moments.h"

enum { MOST_ELEMENTS = 1 << 14, MOST_SPANNED = 1 << 16 };

typedef struct source {
  const uint8_t *at;
  size_t left;
} source;

static int64_t take(source *from, int64_t limit) {
  if (from->left == 0) return 0;
  from->left--;
  return *from->at++ % limit;
}

/* Whatever the context holds. */
static axn_status select_given(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  (void)desc;
  (void)error;
  *axes = *(const axn_axes *)self->context;
  return AXN_OK;
}

static axn_strategy take_strategy(source *from, axn_axes *axes) {
  axes->reduced = (uint32_t)take(from, 40);
  axes->split_axis = (int)take(from, 8) - 2;
  axes->split_groups = take(from, 9);
  axn_strategy strategy = axn_strategy_init();
  strategy.name = "own";
  strategy.select = select_given;
  strategy.context = axes;
  strategy.second_moment = (int)take(from, 2);
  strategy.running = (axn_running_rule)take(from, 4);
  strategy.parameters_per_element = (int)take(from, 2);
  return strategy;
}

/* Dense; any numbers; or ones with which no elements overlap: the axes in any order, with gaps. */
static void take_strides(source *from, const axn_desc *desc, int64_t strides[AXN_MAX_RANK]) {
  const int64_t kind = take(from, 4);
  int order[AXN_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
  int64_t next = 1;
  if (kind == 0) return;
  for (int i = 0; i < desc->rank && i < AXN_MAX_RANK; i++) {
    const int other = i + (int)take(from, desc->rank - i), k = order[other];
    order[other] = order[i];
    strides[k] = kind == 1 ? take(from, 256) - 8 : next + take(from, 4) * take(from, 4);
    next = strides[k] * (desc->shape[k] > 0 ? desc->shape[k] : 1);
  }
}

static axn_desc take_desc(source *from) {
  axn_desc desc = axn_desc_init();
  desc.norm = (axn_norm)take(from, 9);
  desc.dtype = (axn_dtype)(1 + take(from, 4));
  desc.parameter_dtype = take(from, 2) == 0 ? desc.dtype : AXN_FLOAT32;
  desc.activation = (axn_activation)take(from, 7);
  desc.layout = (axn_layout)(1 + take(from, 2));
  desc.parameters = (axn_parameters)(1 + take(from, 2));
  desc.running_variance = (axn_running_variance)(1 + take(from, 2));
  desc.isa = (axn_isa)take(from, 5);
  desc.rank = (int)take(from, 7);
  for (int k = 0; k < AXN_MAX_RANK; k++) desc.shape[k] = take(from, 70);
  desc.groups = take(from, 9);
  desc.ghost_batch = take(from, 9);
  desc.axis = (int)take(from, 12) - 6;
  desc.threads = (int)take(from, 3);
  if (take(from, 4) == 0) desc.momentum = AXN_MOMENTUM_CUMULATIVE;
  take_strides(from, &desc, desc.x_strides);
  take_strides(from, &desc, desc.y_strides);
  if (take(from, 16) == 0 && from->left >= sizeof desc) {
    memcpy(&desc, from->at, sizeof desc);
    desc.struct_size = sizeof desc;
    desc.parallel_for = NULL;
    desc.strategy = NULL;
  }
  return desc;
}

/* Null one time in four, where the argument is optional. `size`: of an element, of whichever type. */
static void *buffer(source *from, int64_t count, size_t size, int optional) {
  if (optional && take(from, 4) == 0) return NULL;
  unsigned char *values = malloc((size_t)count * size + (count == 0));
  for (int64_t i = 0; i < count; i++) {
    const double wide = (double)(i % 17) - 8;
    const float plain = (float)wide;
    const uint16_t narrow = (uint16_t)(0x3c00 + i % 17 * 0x81);
    const void *value = size == sizeof wide    ? (const void *)&wide
                        : size == sizeof plain ? (const void *)&plain
                                               : &narrow;
    memcpy(values + (size_t)i * size, value, size);
  }
  return values;
}

typedef struct buffers {
  void *x, *y, *scale, *shift, *mean, *rstd, *running_mean, *running_variance;
  void *grad_y, *grad_x, *grad_scale, *grad_shift, *residual, *grad_residual;
} buffers;

static void run(const axn_plan *plan, const axn_plan_info *info, const buffers *b) {
  int64_t batch_count = 3;
  axn_training_args training = axn_training_init();
  training.x = b->x, training.y = b->y, training.scale = b->scale, training.shift = b->shift;
  training.mean = b->mean, training.rstd = b->rstd, training.batch_count = &batch_count;
  training.residual = b->residual;
  if (info->running_statistics > 0) {
    training.running_mean = b->running_mean;
    training.running_variance = b->running_variance;
  }
  training.workspace_size = info->training_workspace;
  training.workspace = malloc(training.workspace_size);
  axn_forward_training(plan, &training, NULL);
  free(training.workspace);

  axn_inference_args inference = axn_inference_init();
  inference.x = b->x, inference.y = b->y, inference.scale = b->scale, inference.shift = b->shift;
  inference.residual = b->residual;
  inference.running_mean = training.running_mean;
  inference.running_variance = training.running_variance;
  inference.workspace_size = info->inference_workspace;
  inference.workspace = malloc(inference.workspace_size);
  axn_forward_inference(plan, &inference, NULL);
  free(inference.workspace);

  axn_backward_args backward = axn_backward_init();
  backward.x = b->x, backward.grad_y = b->grad_y, backward.scale = b->scale;
  backward.mean = b->mean, backward.rstd = b->rstd;
  if (b->mean == NULL && b->rstd == NULL) {
    backward.running_mean = training.running_mean;
    backward.running_variance = training.running_variance;
  }
  backward.grad_x = b->grad_x, backward.grad_scale = b->grad_scale;
  backward.grad_shift = b->grad_shift;
  backward.shift = b->shift, backward.residual = b->residual;
  backward.grad_residual = b->grad_residual;
  backward.workspace_size = info->backward_workspace;
  backward.workspace = malloc(backward.workspace_size);
  axn_backward(plan, &backward, NULL);
  free(backward.workspace);
}

/* Twice: into an empty state, and into one that has seen something. */
static void accumulate(const axn_plan *plan, const axn_plan_info *info, const void *x) {
  axn_moment_state state = axn_moment_state_init();
  const size_t size = (size_t)info->statistics * sizeof(double) + (info->statistics == 0);
  state.statistics = info->statistics, state.mean = malloc(size), state.m2 = malloc(size);
  axn_moments_args args = axn_moments_init();
  args.x = x, args.state = &state;
  args.workspace_size = info->training_workspace;
  args.workspace = malloc(args.workspace_size);
  if (axn_moments_reset(&state, NULL) != AXN_OK) abort();
  for (int i = 0; i < 2; i++) {
    if (axn_moments_accumulate(plan, &args, NULL) != AXN_OK) abort();
  }
  if (state.count != 2 * info->values_per_statistic) abort();
  free(args.workspace), free(state.mean), free(state.m2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  source from = {data, size};
  axn_desc desc = take_desc(&from);
  axn_axes axes;
  const axn_strategy strategy = take_strategy(&from, &axes);
  if (take(&from, 2) == 0) desc.strategy = &strategy;
  axn_plan *plan;
  axn_error error;
  if (axn_plan_create(&plan, &desc, &error) != AXN_OK) return 0;
  axn_plan_info info = axn_plan_info_init();
  axn_plan_describe(plan, &info, NULL);
  if (info.elements <= MOST_ELEMENTS && info.x_span <= MOST_SPANNED &&
      info.y_span <= MOST_SPANNED) {
    const int64_t x = info.x_span, y = info.y_span, p = info.parameters, s = info.statistics;
    const int64_t r = info.running_statistics;
    const size_t e = axn_dtype_size(desc.dtype), real = e == 8 ? 8 : 4;
    const size_t q = desc.parameter_dtype == 0 ? e : axn_dtype_size(desc.parameter_dtype);
    void *all[] = {buffer(&from, x, e, 0),    buffer(&from, y, e, 0),
                   buffer(&from, p, q, 1),    buffer(&from, p, q, 1),
                   buffer(&from, s, real, 1), buffer(&from, s, real, 1),
                   buffer(&from, r, real, 1), buffer(&from, r, real, 1),
                   buffer(&from, y, e, 0),    buffer(&from, x, e, 1),
                   buffer(&from, p, q, 1),    buffer(&from, p, q, 1),
                   buffer(&from, y, e, 1),    NULL};
    /* Without an activation there is no such gradient. */
    if (desc.activation != AXN_ACTIVATION_NONE) all[13] = buffer(&from, y, e, 1);
    const buffers b = {all[0], all[1], all[2], all[3],  all[4],  all[5],  all[6],
                       all[7], all[8], all[9], all[10], all[11], all[12], all[13]};
    run(plan, &info, &b);
    accumulate(plan, &info, b.x);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  }
  axn_plan_destroy(plan);
  return 0;
}
