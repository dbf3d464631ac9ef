/* SPDX-License-Identifier: MIT */
#include "arguments.h"

#include "check.h"
#include "error.h"
#include "plan.h"
#include "real.h"

/* A pair of statistics: both or neither. */
static axn_status check_pair(const char *first_name, const void *first, const char *second_name,
                             const void *second, axn_error *error) {
  if ((first == NULL) == (second == NULL)) return AXN_OK;
  return axn_fail(error, AXN_ERROR_STATISTICS, "%s: is null, but %s is given",
                  first == NULL ? first_name : second_name,
                  first == NULL ? second_name : first_name);
}

static axn_status check_running(const axn_plan *plan, const void *mean, const void *variance,
                                axn_error *error) {
  if ((mean != NULL || variance != NULL) && plan->running == 0) {
    return axn_fail(error, AXN_ERROR_STATISTICS,
                    "running_mean, running_variance: %s normalization keeps none",
                    plan->strategy.name);
  }
  return check_pair("running_mean", mean, "running_variance", variance, error);
}

/* A tensor of this side. */
static axn_buffer tensor_of(const axn_plan *plan, const char *name, const void *start,
                            axn_side side, bool required, bool written, const char *in_place_of,
                            const char *or_of) {
  return (axn_buffer){name,    start,       plan->elements, plan->element_size, required,
                      written, in_place_of, or_of,          &plan->views[side]};
}

/* ---- training ---- */

static axn_status check_training_buffers(const axn_plan *plan, const axn_training_args *args,
                                         axn_error *error) {
  const size_t real = axn_real_size(plan->doubles);
  const size_t parameter = axn_parameter_size(plan);
  const int64_t statistics = axn_statistics(plan);
  const bool counted = args->running_mean != NULL && plan->desc.momentum == AXN_MOMENTUM_CUMULATIVE;
  const axn_buffer buffers[] = {
      tensor_of(plan, "x", args->x, AXN_SIDE_X, true, false, NULL, NULL),
      tensor_of(plan, "y", args->y, AXN_SIDE_Y, true, true, "x", "residual"),
      {"scale", args->scale, plan->parameters, parameter, false, false, NULL, NULL, NULL},
      {"shift", args->shift, plan->parameters, parameter, false, false, NULL, NULL, NULL},
      {"mean", args->mean, statistics, real, false, true, NULL, NULL, NULL},
      {"rstd", args->rstd, statistics, real, false, true, NULL, NULL, NULL},
      {"running_mean", args->running_mean, plan->running, real, false, true, NULL, NULL, NULL},
      {"running_variance", args->running_variance, plan->running, real, false, true, NULL, NULL,
       NULL},
      tensor_of(plan, "residual", args->residual, AXN_SIDE_Y, false, false, NULL, NULL),
      {"batch_count", args->batch_count, 1, sizeof(int64_t), counted, true, NULL, NULL, NULL},
      {"workspace", args->workspace, (int64_t)axn_training_bytes(plan), 1, false, true, NULL, NULL,
       NULL},
  };
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

axn_status axn_read_training(const axn_plan *plan, const axn_training_args *theirs,
                             axn_training_args *ours, axn_error *error) {
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  axn_status status = axn_read_struct(ours, sizeof *ours, sizeof *ours, theirs, "args", error);
  if (status == AXN_OK) status = axn_check_threads(ours->threads, error);
  if (status == AXN_OK) {
    status = check_running(plan, ours->running_mean, ours->running_variance, error);
  }
  if (status == AXN_OK) {
    status =
        axn_check_workspace(ours->workspace, ours->workspace_size, axn_training_bytes(plan), error);
  }
  if (status == AXN_OK) status = check_training_buffers(plan, ours, error);
  if (status == AXN_OK) status = axn_check_batch_count(ours->batch_count, error);
  if (status != AXN_OK) return status;
  if (plan->elements > 0 && plan->own.partition.values == 1 &&
      plan->strategy.training_needs_values) {
    return axn_fail(error, AXN_ERROR_TOO_FEW_VALUES,
                    "shape: %s normalization has one value per statistic to train on",
                    plan->strategy.name);
  }
  return AXN_OK;
}

/* ---- inference ---- */

static axn_status check_inference_buffers(const axn_plan *plan, const axn_inference_args *args,
                                          size_t workspace, axn_error *error) {
  const size_t real = axn_real_size(plan->doubles);
  const size_t parameter = axn_parameter_size(plan);
  const axn_buffer buffers[] = {
      tensor_of(plan, "x", args->x, AXN_SIDE_X, true, false, NULL, NULL),
      tensor_of(plan, "y", args->y, AXN_SIDE_Y, true, true, "x", "residual"),
      {"scale", args->scale, plan->parameters, parameter, false, false, NULL, NULL, NULL},
      {"shift", args->shift, plan->parameters, parameter, false, false, NULL, NULL, NULL},
      {"running_mean", args->running_mean, plan->running, real, false, false, NULL, NULL, NULL},
      {"running_variance", args->running_variance, plan->running, real, false, false, NULL, NULL,
       NULL},
      tensor_of(plan, "residual", args->residual, AXN_SIDE_Y, false, false, NULL, NULL),
      {"workspace", args->workspace, (int64_t)workspace, 1, false, true, NULL, NULL, NULL},
  };
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

axn_status axn_read_inference(const axn_plan *plan, const axn_inference_args *theirs,
                              axn_inference_args *ours, axn_error *error) {
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  axn_status status = axn_read_struct(ours, sizeof *ours, sizeof *ours, theirs, "args", error);
  if (status == AXN_OK) status = axn_check_threads(ours->threads, error);
  if (status == AXN_OK) {
    status = check_running(plan, ours->running_mean, ours->running_variance, error);
  }
  if (status != AXN_OK) return status;
  const bool given = ours->running_mean != NULL;
  if (!given && plan->strategy.inference_needs_running) {
    return axn_fail(error, AXN_ERROR_STATISTICS,
                    "running_mean, running_variance: are null; %s normalization needs them here",
                    plan->strategy.name);
  }
  const size_t workspace = axn_inference_bytes_with(plan, given);
  status = axn_check_workspace(ours->workspace, ours->workspace_size, workspace, error);
  if (status == AXN_OK) status = check_inference_buffers(plan, ours, workspace, error);
  return status;
}

/* ---- backward ---- */

static axn_status check_backward_statistics(const axn_plan *plan, const axn_backward_args *args,
                                            axn_error *error) {
  const bool own = args->mean != NULL || args->rstd != NULL;
  const bool given = args->running_mean != NULL || args->running_variance != NULL;
  if (own && given) {
    return axn_fail(error, AXN_ERROR_STATISTICS,
                    "mean, rstd: given together with running_mean, running_variance");
  }
  if (!own && !given && plan->elements > 0) {
    return axn_fail(error, AXN_ERROR_STATISTICS,
                    "mean, rstd: are null, and so are running_mean, running_variance");
  }
  const axn_status status = check_running(plan, args->running_mean, args->running_variance, error);
  if (status != AXN_OK) return status;
  if (plan->strategy.second_moment && args->rstd != NULL) return AXN_OK;
  return check_pair("mean", args->mean, "rstd", args->rstd, error);
}

/* An activation is gone through on the way, which takes x, and room for what comes of it. */
static axn_status check_backward_ending(const axn_plan *plan, const axn_backward_args *args,
                                        axn_error *error) {
  if (plan->elements == 0) return AXN_OK;
  if (plan->desc.activation == AXN_ACTIVATION_NONE) {
    if (args->grad_residual == NULL) return AXN_OK;
    return axn_fail(error, AXN_ERROR_OPTION,
                    "grad_residual: is given without an activation, where it is grad_y itself");
  }
  if (args->x == NULL) {
    return axn_fail(error, AXN_ERROR_NULL, "x: is null; the activation needs it");
  }
  if (args->grad_x == NULL && args->grad_residual == NULL) {
    return axn_fail(error, AXN_ERROR_NULL,
                    "grad_x: is null, as is grad_residual; the activation needs one of them");
  }
  return AXN_OK;
}

static axn_status check_backward_buffers(const axn_plan *plan, const axn_backward_args *args,
                                         axn_error *error) {
  const size_t real = axn_real_size(plan->doubles);
  const size_t parameter = axn_parameter_size(plan);
  const bool needs_x = args->rstd != NULL || args->grad_scale != NULL;
  const int64_t statistics = axn_statistics(plan);
  const axn_buffer buffers[] = {
      tensor_of(plan, "x", args->x, AXN_SIDE_X, needs_x, false, NULL, NULL),
      tensor_of(plan, "grad_y", args->grad_y, AXN_SIDE_Y, true, false, NULL, NULL),
      {"scale", args->scale, plan->parameters, parameter, false, false, NULL, NULL, NULL},
      {"mean", args->mean, statistics, real, false, false, NULL, NULL, NULL},
      {"rstd", args->rstd, statistics, real, false, false, NULL, NULL, NULL},
      {"running_mean", args->running_mean, plan->running, real, false, false, NULL, NULL, NULL},
      {"running_variance", args->running_variance, plan->running, real, false, false, NULL, NULL,
       NULL},
      {"shift", args->shift, plan->parameters, parameter, false, false, NULL, NULL, NULL},
      tensor_of(plan, "residual", args->residual, AXN_SIDE_Y, false, false, NULL, NULL),
      tensor_of(plan, "grad_x", args->grad_x, AXN_SIDE_X, false, true, "grad_y", NULL),
      tensor_of(plan, "grad_residual", args->grad_residual, AXN_SIDE_Y, false, true, NULL, NULL),
      {"grad_scale", args->grad_scale, plan->parameters, parameter, false, true, NULL, NULL, NULL},
      {"grad_shift", args->grad_shift, plan->parameters, parameter, false, true, NULL, NULL, NULL},
      {"workspace", args->workspace, (int64_t)axn_backward_bytes(plan), 1, false, true, NULL, NULL,
       NULL},
  };
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

axn_status axn_read_backward(const axn_plan *plan, const axn_backward_args *theirs,
                             axn_backward_args *ours, axn_error *error) {
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  axn_status status = axn_read_struct(ours, sizeof *ours, sizeof *ours, theirs, "args", error);
  if (status == AXN_OK) status = axn_check_threads(ours->threads, error);
  if (status == AXN_OK) status = check_backward_statistics(plan, ours, error);
  if (status == AXN_OK) status = check_backward_ending(plan, ours, error);
  if (status == AXN_OK) {
    status =
        axn_check_workspace(ours->workspace, ours->workspace_size, axn_backward_bytes(plan), error);
  }
  if (status == AXN_OK) status = check_backward_buffers(plan, ours, error);
  return status;
}
