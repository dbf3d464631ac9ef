/* SPDX-License-Identifier: MIT */
/*
 * Two blocks of networks, forward and backward, each as one fused normalization: batch normalization, the
 * residual and ReLU of a residual network in float32; group normalization and SiLU of a diffusion network
 * in bfloat16.
 *
 *   cc fused_example.c $(pkg-config --cflags --libs axisnorm) -lm && ./a.out
 */
#include <axisnorm/axisnorm.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 4, C = 8, H = 7, W = 7, GROUPS = 4, ELEMENTS = N * C * H * W };

static int failed(const axn_error *error) {
  fprintf(stderr, "%s\n", error->message);
  return 1;
}

/* Of one shape; room for every pass is asked for once. */
static int make_plan(axn_desc desc, axn_plan **plan, void **workspace, size_t *size) {
  const int64_t shape[4] = {N, C, H, W};
  axn_error error;
  desc.rank = 4;
  for (int k = 0; k < 4; k++) desc.shape[k] = shape[k];
  if (axn_plan_create(plan, &desc, &error) != AXN_OK) return failed(&error);
  axn_plan_info info = axn_plan_info_init();
  axn_plan_describe(*plan, &info, NULL);
  *size = info.training_workspace;
  if (*size < info.backward_workspace) *size = info.backward_workspace;
  *workspace = malloc(*size);
  return *workspace == NULL;
}

/* y = relu(batch_norm(x) + shortcut) */
static int residual_block(void) {
  static float x[ELEMENTS], shortcut[ELEMENTS], y[ELEMENTS], grad_y[ELEMENTS];
  static float grad_x[ELEMENTS], grad_shortcut[ELEMENTS];
  float scale[C], shift[C], mean[C], rstd[C], grad_scale[C], grad_shift[C];
  for (int i = 0; i < ELEMENTS; i++) {
    x[i] = (float)(i * i % 101), shortcut[i] = (float)(i % 5) - 2, grad_y[i] = (float)(i % 3) - 1;
  }
  for (int c = 0; c < C; c++) scale[c] = 1, shift[c] = 0.25f * (float)c;

  axn_desc desc = axn_desc_init();
  desc.norm = AXN_BATCH_NORM, desc.activation = AXN_ACTIVATION_RELU;
  axn_plan *plan;
  axn_error error;
  void *workspace;
  size_t size;
  if (make_plan(desc, &plan, &workspace, &size)) return 1;

  axn_training_args forward = axn_training_init();
  forward.x = x, forward.residual = shortcut, forward.y = y;
  forward.scale = scale, forward.shift = shift, forward.mean = mean, forward.rstd = rstd;
  forward.workspace = workspace, forward.workspace_size = size;
  if (axn_forward_training(plan, &forward, &error) != AXN_OK) return failed(&error);

  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.residual = shortcut, backward.grad_y = grad_y;
  backward.scale = scale, backward.shift = shift, backward.mean = mean, backward.rstd = rstd;
  backward.grad_x = grad_x, backward.grad_residual = grad_shortcut;
  backward.grad_scale = grad_scale, backward.grad_shift = grad_shift;
  backward.workspace = workspace, backward.workspace_size = size;
  if (axn_backward(plan, &backward, &error) != AXN_OK) return failed(&error);
  free(workspace);
  axn_plan_destroy(plan);

  /* The gradient passes where y is above 0, and its sum over a channel is that by shift. */
  int wrong = 0;
  double sum = 0;
  for (int i = 0; i < ELEMENTS; i++) {
    wrong += y[i] < 0 || grad_shortcut[i] != (y[i] > 0 ? grad_y[i] : 0);
    if (i / (H * W) % C == 0) sum += (double)grad_shortcut[i];
  }
  printf("batch norm + add + ReLU: %d wrong, gradient by shift[0] %g, sum %g\n", wrong,
         (double)grad_shift[0], sum);
  return wrong > 0 || fabs(sum - (double)grad_shift[0]) > 1e-4;
}

/* bfloat16 is the upper half of a float32. */
static float of_bfloat16(uint16_t value) {
  const uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

static uint16_t bfloat16_of_small(int whole) { /* of an integer that has at most 8 digits */
  const float value = (float)whole;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);
}

/* y = silu(group_norm(x)); grad_x in grad_y's place */
static int diffusion_block(void) {
  static uint16_t x[ELEMENTS], y[ELEMENTS], gradient[ELEMENTS];
  float scale[C], shift[C], mean[N * GROUPS], rstd[N * GROUPS], grad_scale[C], grad_shift[C];
  for (int i = 0; i < ELEMENTS; i++) {
    x[i] = bfloat16_of_small(i * i % 101), gradient[i] = bfloat16_of_small(i % 3 - 1);
  }
  for (int c = 0; c < C; c++) scale[c] = 1, shift[c] = 0;

  axn_desc desc = axn_desc_init();
  desc.norm = AXN_GROUP_NORM, desc.groups = GROUPS, desc.activation = AXN_ACTIVATION_SILU;
  desc.dtype = AXN_BFLOAT16, desc.parameter_dtype = AXN_FLOAT32;
  axn_plan *plan;
  axn_error error;
  void *workspace;
  size_t size;
  if (make_plan(desc, &plan, &workspace, &size)) return 1;

  axn_training_args forward = axn_training_init();
  forward.x = x, forward.y = y, forward.scale = scale, forward.shift = shift;
  forward.mean = mean, forward.rstd = rstd;
  forward.workspace = workspace, forward.workspace_size = size;
  if (axn_forward_training(plan, &forward, &error) != AXN_OK) return failed(&error);

  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.grad_y = gradient, backward.grad_x = gradient;
  backward.scale = scale, backward.shift = shift, backward.mean = mean, backward.rstd = rstd;
  backward.grad_scale = grad_scale, backward.grad_shift = grad_shift;
  backward.workspace = workspace, backward.workspace_size = size;
  if (axn_backward(plan, &backward, &error) != AXN_OK) return failed(&error);
  free(workspace);
  axn_plan_destroy(plan);

  const double z = ((double)of_bfloat16(x[0]) - (double)mean[0]) * (double)rstd[0];
  const double expected = z / (1 + exp(-z)), found = (double)of_bfloat16(y[0]);
  printf("group norm + SiLU: y[0] is %g, of float64 %g\n", found, expected);
  return fabs(found - expected) > fabs(expected) / 256;
}

int main(void) {
  const int wrong = residual_block() + diffusion_block();
  return wrong > 0;
}
