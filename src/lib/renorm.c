/* SPDX-License-Identifier: MIT */
/* Batch renormalization, as parameters for batch normalization. */
#include "axisnorm/renorm.h"

#include <math.h>

#include "check.h"
#include "error.h"

static axn_status check_channels(int64_t channels, axn_error *error) {
  if (channels < 1) {
    return axn_fail(error, AXN_ERROR_SHAPE, "channels: %lld is below 1", (long long)channels);
  }
  if (channels > PTRDIFF_MAX / (int64_t)sizeof(float)) {
    return axn_fail(error, AXN_ERROR_OVERFLOW, "channels: %lld are too many for memory",
                    (long long)channels);
  }
  return AXN_OK;
}

static axn_status check_numbers(const axn_renorm_args *args, axn_error *error) {
  if (!(args->epsilon > 0) || !isfinite(args->epsilon)) {
    return axn_fail(error, AXN_ERROR_EPSILON, "epsilon: %g is not a finite number above 0",
                    args->epsilon);
  }
  if (!(args->r_max >= 1)) {
    return axn_fail(error, AXN_ERROR_OPTION, "r_max: %g is not 1 or above", args->r_max);
  }
  if (!(args->d_max >= 0)) {
    return axn_fail(error, AXN_ERROR_OPTION, "d_max: %g is not 0 or above", args->d_max);
  }
  return AXN_OK;
}

static axn_status check_renorm_buffers(const axn_renorm_args *args, axn_error *error) {
  const size_t value = sizeof(float);
  const int64_t channels = args->channels;
  const axn_buffer buffers[] = {
      {"mean", args->mean, channels, value, true, false, NULL, NULL, NULL},
      {"rstd", args->rstd, channels, value, true, false, NULL, NULL, NULL},
      {"running_mean", args->running_mean, channels, value, true, false, NULL, NULL, NULL},
      {"running_variance", args->running_variance, channels, value, true, false, NULL, NULL, NULL},
      {"scale", args->scale, channels, value, false, false, NULL, NULL, NULL},
      {"shift", args->shift, channels, value, false, false, NULL, NULL, NULL},
      {"r", args->r, channels, value, true, true, NULL, NULL, NULL},
      {"d", args->d, channels, value, true, true, NULL, NULL, NULL},
      {"effective_scale", args->effective_scale, channels, value, true, true, NULL, NULL, NULL},
      {"effective_shift", args->effective_shift, channels, value, true, true, NULL, NULL, NULL},
  };
  return axn_check_buffers(buffers, sizeof buffers / sizeof *buffers, error);
}

/* A NaN stays one. */
static double clip(double value, double low, double high) {
  return value < low ? low : value > high ? high : value;
}

axn_status axn_renorm_parameters(const axn_renorm_args *caller_args, axn_error *error) {
  axn_renorm_args args;
  axn_status status = axn_read_struct(&args, sizeof args, sizeof args, caller_args, "args", error);
  if (status == AXN_OK) status = check_channels(args.channels, error);
  if (status == AXN_OK) status = check_numbers(&args, error);
  if (status == AXN_OK) status = check_renorm_buffers(&args, error);
  if (status != AXN_OK) return status;
  for (int64_t c = 0; c < args.channels; c++) {
    const double deviation = sqrt((double)args.running_variance[c] + args.epsilon);
    const double distance = (double)args.mean[c] - (double)args.running_mean[c];
    const double scale = args.scale != NULL ? (double)args.scale[c] : 1;
    const double shift = args.shift != NULL ? (double)args.shift[c] : 0;
    args.r[c] = (float)clip(1 / ((double)args.rstd[c] * deviation), 1 / args.r_max, args.r_max);
    args.d[c] = (float)clip(distance / deviation, -args.d_max, args.d_max);
    args.effective_scale[c] = (float)(scale * (double)args.r[c]);
    args.effective_shift[c] = (float)(shift + scale * (double)args.d[c]);
  }
  return axn_succeed(error);
}

axn_status axn_renorm_grad_scale(int64_t channels, const float *r, const float *d,
                                 const float *grad_shift, float *grad_scale, axn_error *error) {
  const size_t value = sizeof(float);
  const axn_buffer buffers[] = {
      {"r", r, channels, value, true, false, NULL, NULL, NULL},
      {"d", d, channels, value, true, false, NULL, NULL, NULL},
      {"grad_shift", grad_shift, channels, value, true, false, NULL, NULL, NULL},
      {"grad_scale", grad_scale, channels, value, true, true, NULL, NULL, NULL},
  };
  axn_status status = check_channels(channels, error);
  if (status == AXN_OK) status = axn_check_buffers(buffers, 4, error);
  if (status != AXN_OK) return status;
  for (int64_t c = 0; c < channels; c++) {
    grad_scale[c] =
        (float)((double)grad_scale[c] * (double)r[c] + (double)grad_shift[c] * (double)d[c]);
  }
  return axn_succeed(error);
}
