/* SPDX-License-Identifier: MIT */
#include "passes.h"

axn_status pass_training(const struct prepared *prepared, const struct pass_data *data,
                         axn_error *error) {
  axn_training_args args = axn_training_init();
  int64_t batch_count = 0;
  args.x = data->x;
  args.y = data->y;
  args.scale = data->scale;
  args.shift = data->shift;
  args.residual = data->residual;
  args.mean = data->mean;
  args.rstd = data->rstd;
  args.running_mean = data->running_mean;
  args.running_variance = data->running_variance;
  args.batch_count = data->running_mean != NULL ? &batch_count : NULL;
  args.workspace = prepared->workspace;
  args.workspace_size = prepared->workspace_size;
  return axn_forward_training(prepared->plan, &args, error);
}

axn_status pass_inference(const struct prepared *prepared, const struct pass_data *data,
                          axn_error *error) {
  axn_inference_args args = axn_inference_init();
  args.x = data->x;
  args.y = data->y;
  args.scale = data->scale;
  args.shift = data->shift;
  args.residual = data->residual;
  args.running_mean = data->running_mean;
  args.running_variance = data->running_variance;
  args.workspace = prepared->workspace;
  args.workspace_size = prepared->workspace_size;
  return axn_forward_inference(prepared->plan, &args, error);
}

axn_status pass_backward(const struct prepared *prepared, const struct pass_data *data,
                         axn_error *error) {
  axn_backward_args args = axn_backward_init();
  args.x = data->x;
  args.grad_y = data->grad_y;
  args.scale = data->scale;
  if (data->mean != NULL) {
    args.mean = data->mean;
    args.rstd = data->rstd;
  } else {
    args.running_mean = data->running_mean;
    args.running_variance = data->running_variance;
  }
  args.grad_x = data->grad_x;
  args.grad_scale = data->grad_scale;
  args.grad_shift = data->grad_shift;
  args.shift = data->shift;
  args.residual = data->residual;
  args.grad_residual = data->grad_residual;
  args.workspace = prepared->workspace;
  args.workspace_size = prepared->workspace_size;
  return axn_backward(prepared->plan, &args, error);
}
