/* SPDX-License-Identifier: MIT */
/* Inference batch normalization folded into the linear map before or after it. */
#include "axisnorm/fold.h"

#include <math.h>
#include <stdbool.h>

#include "check.h"
#include "error.h"

/* Weights are an array [outer, inner / groups, kernel]; outer and inner are the layer's channels, out
 * and in, or in and out in a transposed convolution. */
typedef struct weight_shape {
  int64_t outer, outer_per_group, inner_per_group, kernel;
} weight_shape;

/* What the normalization does to a channel: x * factor + offset. */
typedef struct channel_map {
  double factor, offset;
} channel_map;

static channel_map map_of(const axn_fold_args *args, int64_t channel) {
  const double variance = (double)args->running_variance[channel];
  const double scale = args->scale != NULL ? (double)args->scale[channel] : 1;
  const double shift = args->shift != NULL ? (double)args->shift[channel] : 0;
  const double factor = scale / sqrt(variance + args->epsilon);
  return (channel_map){factor, shift - (double)args->running_mean[channel] * factor};
}

static double bias_of(const axn_fold_args *args, int64_t out) {
  return args->bias != NULL ? (double)args->bias[out] : 0;
}

/* ---- checks ---- */

static axn_status check_extents(const axn_fold_args *args, axn_error *error) {
  const struct {
    const char *name;
    int64_t extent;
  } extents[] = {{"out_channels", args->out_channels},
                 {"in_channels", args->in_channels},
                 {"kernel_elements", args->kernel_elements}};
  int64_t product = 1;
  for (int k = 0; k < 3; k++) {
    if (extents[k].extent < 1) {
      return axn_fail(error, AXN_ERROR_SHAPE, "%s: %lld is below 1", extents[k].name,
                      (long long)extents[k].extent);
    }
    if (product > PTRDIFF_MAX / (int64_t)sizeof(float) / extents[k].extent) {
      return axn_fail(error, AXN_ERROR_OVERFLOW, "%s: the number of weights overflows",
                      extents[k].name);
    }
    product *= extents[k].extent;
  }
  if (args->groups < 1 || args->out_channels % args->groups != 0 ||
      args->in_channels % args->groups != 0) {
    return axn_fail(error, AXN_ERROR_GROUPS,
                    "groups: %lld does not divide both out_channels, %lld, and in_channels, %lld",
                    (long long)args->groups, (long long)args->out_channels,
                    (long long)args->in_channels);
  }
  return AXN_OK;
}

static axn_status check_fold_buffers(const axn_fold_args *args, int64_t channels,
                                     axn_error *error) {
  const size_t value = sizeof(float);
  const int64_t out = args->out_channels;
  const int64_t weights = out * (args->in_channels / args->groups) * args->kernel_elements;
  const axn_buffer buffers[] = {
      {"weight", args->weight, weights, value, true, false, NULL, NULL, NULL},
      {"bias", args->bias, out, value, false, false, NULL, NULL, NULL},
      {"running_mean", args->running_mean, channels, value, true, false, NULL, NULL, NULL},
      {"running_variance", args->running_variance, channels, value, true, false, NULL, NULL, NULL},
      {"scale", args->scale, channels, value, false, false, NULL, NULL, NULL},
      {"shift", args->shift, channels, value, false, false, NULL, NULL, NULL},
      {"folded_weight", args->folded_weight, weights, value, true, true, "weight", NULL, NULL},
      {"folded_bias", args->folded_bias, out, value, true, true, "bias", NULL, NULL},
  };
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

static axn_status check_variances(const axn_fold_args *args, int64_t channels, axn_error *error) {
  for (int64_t c = 0; c < channels; c++) {
    if (args->running_variance[c] >= 0) continue;
    return axn_fail(error, AXN_ERROR_STATISTICS, "running_variance[%lld]: %g is not 0 or above",
                    (long long)c, (double)args->running_variance[c]);
  }
  return AXN_OK;
}

/* `after`: the normalization comes after the layer. */
static axn_status read_fold(const axn_fold_args *theirs, axn_fold_args *ours, bool after,
                            axn_error *error) {
  axn_status status = axn_read_struct(ours, sizeof *ours, sizeof *ours, theirs, "args", error);
  if (status == AXN_OK) status = check_extents(ours, error);
  if (status != AXN_OK) return status;
  const int64_t channels = after ? ours->out_channels : ours->in_channels;
  if (!(ours->epsilon > 0) || !isfinite(ours->epsilon)) {
    return axn_fail(error, AXN_ERROR_EPSILON, "epsilon: %g is not a finite number above 0",
                    ours->epsilon);
  }
  status = check_fold_buffers(ours, channels, error);
  if (status == AXN_OK) status = check_variances(ours, channels, error);
  return status;
}

static axn_status check_borders(const axn_fold_args *args, axn_error *error) {
  if (args->transposed) {
    return axn_fail(error, AXN_ERROR_OPTION,
                    "transposed: its outputs near borders and gaps have fewer weights, so a "
                    "normalization before it has no exact fold");
  }
  if (args->padding == AXN_PADDING_ZEROS) {
    return axn_fail(error, AXN_ERROR_OPTION,
                    "padding: with zeros beyond the border, a normalization before the layer has "
                    "no exact fold");
  }
  if (args->padding != AXN_PADDING_NONE && args->padding != AXN_PADDING_INPUT) {
    return axn_fail(error, AXN_ERROR_OPTION, "padding: %d is unknown; say what the layer has",
                    (int)args->padding);
  }
  return AXN_OK;
}

/* ---- folding ---- */

/* Multiplies the weights by their channel's factor: the channel is the outer one, or the inner. */
static void scale_weights(const axn_fold_args *args, const weight_shape *shape, bool by_outer) {
  int64_t at = 0;
  for (int64_t o = 0; o < shape->outer; o++) {
    const int64_t first = o / shape->outer_per_group * shape->inner_per_group;
    for (int64_t i = 0; i < shape->inner_per_group; i++) {
      const double factor = map_of(args, by_outer ? o : first + i).factor;
      for (int64_t k = 0; k < shape->kernel; k++, at++) {
        args->folded_weight[at] = (float)((double)args->weight[at] * factor);
      }
    }
  }
}

static weight_shape shape_of(const axn_fold_args *args) {
  const int64_t out = args->out_channels, in = args->in_channels, groups = args->groups;
  const int64_t outer = args->transposed ? in : out, inner = args->transposed ? out : in;
  return (weight_shape){outer, outer / groups, inner / groups, args->kernel_elements};
}

axn_status axn_fold_after_layer(const axn_fold_args *caller_args, axn_error *error) {
  axn_fold_args args;
  const axn_status status = read_fold(caller_args, &args, true, error);
  if (status != AXN_OK) return status;
  const weight_shape shape = shape_of(&args);
  scale_weights(&args, &shape, !args.transposed);
  for (int64_t o = 0; o < args.out_channels; o++) {
    const channel_map map = map_of(&args, o);
    args.folded_bias[o] = (float)(bias_of(&args, o) * map.factor + map.offset);
  }
  return axn_succeed(error);
}

/* What the offsets of the inputs come to in output `out`. */
static double offset_of_inputs(const axn_fold_args *args, const weight_shape *shape, int64_t out) {
  const int64_t first = out / shape->outer_per_group * shape->inner_per_group;
  const float *weight = args->weight + out * shape->inner_per_group * shape->kernel;
  double offset = 0;
  for (int64_t i = 0; i < shape->inner_per_group; i++) {
    double sum = 0;
    for (int64_t k = 0; k < shape->kernel; k++) sum += (double)weight[i * shape->kernel + k];
    offset += sum * map_of(args, first + i).offset;
  }
  return offset;
}

axn_status axn_fold_before_layer(const axn_fold_args *caller_args, axn_error *error) {
  axn_fold_args args;
  axn_status status = read_fold(caller_args, &args, false, error);
  if (status == AXN_OK) status = check_borders(&args, error);
  if (status != AXN_OK) return status;
  const weight_shape shape = shape_of(&args);
  /* Before the weights, which may be folded in place. */
  for (int64_t o = 0; o < args.out_channels; o++) {
    args.folded_bias[o] = (float)(bias_of(&args, o) + offset_of_inputs(&args, &shape, o));
  }
  scale_weights(&args, &shape, false);
  return axn_succeed(error);
}
