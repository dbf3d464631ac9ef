/* SPDX-License-Identifier: MIT */
#include "ours.h"

#include <stdlib.h>

static void check(axn_status status, const axn_error *error) {
  if (status != AXN_OK) fail("axisnorm", error->message);
}

static size_t largest(size_t a, size_t b) {
  return a > b ? a : b;
}

static void set_training(struct ours *ours, const struct inputs *inputs,
                         const struct outputs *outputs, size_t size) {
  ours->training = axn_training_init();
  ours->training.x = inputs->x;
  ours->training.y = outputs->y;
  ours->training.scale = inputs->scale;
  ours->training.shift = inputs->shift;
  ours->training.mean = outputs->mean;
  ours->training.rstd = outputs->deviation;
  ours->training.residual = inputs->residual;
  ours->training.workspace = ours->workspace;
  ours->training.workspace_size = size;
}

/* Only batch normalization takes running statistics: the peers take none for the others. */
static void set_inference(struct ours *ours, axn_norm norm, const struct inputs *inputs,
                          const struct outputs *outputs, size_t size) {
  ours->inference = axn_inference_init();
  ours->inference.x = inputs->x;
  ours->inference.y = outputs->y;
  ours->inference.scale = inputs->scale;
  ours->inference.shift = inputs->shift;
  ours->inference.residual = inputs->residual;
  if (norm == AXN_BATCH_NORM) {
    ours->inference.running_mean = inputs->running_mean;
    ours->inference.running_variance = inputs->running_variance;
  }
  ours->inference.workspace = ours->workspace;
  ours->inference.workspace_size = size;
}

/* Without an activation the residual is nothing to the backward pass. */
static void set_ending(struct ours *ours, const struct inputs *inputs,
                       const struct outputs *outputs) {
  ours->backward.shift = inputs->shift;
  ours->backward.residual = inputs->residual;
  if (inputs->residual != NULL) ours->backward.grad_residual = outputs->grad_residual;
}

static void set_backward(struct ours *ours, axn_activation activation, const struct inputs *inputs,
                         const struct outputs *outputs, size_t size) {
  ours->backward = axn_backward_init();
  ours->backward.x = inputs->x;
  ours->backward.grad_y = inputs->grad_y;
  ours->backward.scale = inputs->scale;
  ours->backward.mean = outputs->mean;
  ours->backward.rstd = outputs->deviation;
  ours->backward.grad_x = outputs->grad_x;
  ours->backward.grad_scale = outputs->grad_scale;
  ours->backward.grad_shift = outputs->grad_shift;
  ours->backward.workspace = ours->workspace;
  ours->backward.workspace_size = size;
  if (activation != AXN_ACTIVATION_NONE) set_ending(ours, inputs, outputs);
}

static void run(const struct ours *ours, enum pass pass) {
  axn_error error;
  axn_status status;
  if (pass == FORWARD_TRAINING)
    status = axn_forward_training(ours->plan, &ours->training, &error);
  else if (pass == FORWARD_INFERENCE)
    status = axn_forward_inference(ours->plan, &ours->inference, &error);
  else
    status = axn_backward(ours->plan, &ours->backward, &error);
  check(status, &error);
}

struct ours ours_make(const struct layer *layer, enum pass pass, const struct inputs *inputs,
                      const struct outputs *outputs) {
  struct ours ours = {.pass = pass};
  axn_error error;
  check(axn_plan_create(&ours.plan, &layer->desc, &error), &error);
  axn_plan_info info = axn_plan_info_init();
  check(axn_plan_describe(ours.plan, &info, &error), &error);
  ours.isa = info.isa;
  size_t size = largest(largest(info.training_workspace, info.inference_workspace),
                        largest(info.backward_workspace, 1));
  ours.workspace = malloc(size);
  if (ours.workspace == NULL) fail("memory", "there is not enough");
  set_training(&ours, inputs, outputs, size);
  set_inference(&ours, layer->desc.norm, inputs, outputs, size);
  set_backward(&ours, layer->desc.activation, inputs, outputs, size);
  if (pass == BACKWARD) run(&ours, FORWARD_TRAINING);
  return ours;
}

void ours_run(void *context) {
  const struct ours *ours = context;
  run(ours, ours->pass);
}

void ours_free(struct ours *ours) {
  axn_plan_destroy(ours->plan);
  free(ours->workspace);
}

void ours_find_argument(const struct layer *layer, const struct inputs *inputs,
                        const struct outputs *outputs) {
  struct layer plain = *layer;
  plain.desc.activation = AXN_ACTIVATION_NONE;
  struct ours ours = ours_make(&plain, FORWARD_TRAINING, inputs, outputs);
  ours_run(&ours);
  ours_free(&ours);
}
