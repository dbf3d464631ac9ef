/* SPDX-License-Identifier: MIT */
/*
 * A normalization of one's own: over the rows H of N x C x H x W alone, so that every column of every
 * channel has zero mean and unit variance. Nothing in the library knows it.
 *
 *   cc strategy_example.c $(pkg-config --cflags --libs axisnorm) -lm && ./a.out
 */
#include <axisnorm/axisnorm.h>
#include <math.h>
#include <stdio.h>

enum { AXIS_H = 2, N = 2, C = 3, H = 5, W = 4, ELEMENTS = N * C * H * W };

static axn_status select_rows(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                              axn_error *error) {
  (void)self;
  if (desc->rank != 4) {
    if (error != NULL) snprintf(error->message, sizeof error->message, "rank: must be 4");
    return AXN_ERROR_SHAPE;
  }
  axes->reduced = UINT32_C(1) << AXIS_H;
  return AXN_OK;
}

int main(void) {
  axn_strategy rows = axn_strategy_init();
  rows.name = "rows";
  rows.select = select_rows;
  axn_desc desc = axn_desc_init();
  desc.strategy = &rows;
  desc.rank = 4;
  const int64_t shape[4] = {N, C, H, W};
  for (int k = 0; k < 4; k++) desc.shape[k] = shape[k];

  static float x[ELEMENTS], y[ELEMENTS], mean[N * C * W], rstd[N * C * W];
  static float grad_y[ELEMENTS], grad_x[ELEMENTS];
  static double workspace[4096];
  for (int i = 0; i < ELEMENTS; i++) x[i] = (float)(i * i % 37), grad_y[i] = (float)(i % 7) - 3;

  axn_plan *plan = NULL;
  axn_error error;
  axn_status status = axn_plan_create(&plan, &desc, &error);
  axn_training_args training = axn_training_init();
  training.x = x, training.y = y, training.mean = mean, training.rstd = rstd;
  training.workspace = workspace, training.workspace_size = sizeof workspace;
  if (status == AXN_OK) status = axn_forward_training(plan, &training, &error);
  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.grad_y = grad_y, backward.mean = mean, backward.rstd = rstd;
  backward.grad_x = grad_x, backward.workspace = workspace;
  backward.workspace_size = sizeof workspace;
  if (status == AXN_OK) status = axn_backward(plan, &backward, &error);
  axn_plan_destroy(plan);
  if (status != AXN_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 1;
  }

  /* The first column of the first channel: y has mean 0 and variance 1, and the gradient, which goes
   * through both, has sum 0. */
  double sum = 0, squares = 0, gradient = 0;
  for (int h = 0; h < H; h++) {
    sum += (double)y[h * W];
    squares += (double)y[h * W] * (double)y[h * W];
    gradient += (double)grad_x[h * W];
  }
  printf("mean %.6f, variance %.4f, sum of gradients %.6f\n", fabs(sum / H), squares / H,
         fabs(gradient));
  return !(fabs(sum) < 1e-5 && fabs(squares / H - 1) < 1e-4 && fabs(gradient) < 1e-5);
}
