/* SPDX-License-Identifier: MIT */
/*
 * Batch renormalization (Ioffe 2017, arXiv:1702.03275, algorithm 1): training that normalizes, within
 * bounds, with the running statistics that inference will use.
 *
 *     y = ((x - mean) * rstd * r + d) * scale + shift
 *     r = clip(1 / (rstd * running_deviation),             1 / r_max, r_max)
 *     d = clip((mean - running_mean) / running_deviation,  -d_max,    d_max)
 *     running_deviation = sqrt(running_variance + epsilon)
 *
 * where r and d count as constants in the gradient. So it is batch normalization with
 *
 *     effective_scale = scale * r,   effective_shift = shift + scale * d
 *
 * and needs no pass of its own. A training step, per layer:
 *
 *     axn_moments_reset, axn_moments_accumulate, axn_moments_finish    mean and rstd of the batch
 *     axn_renorm_parameters                                           r, d, effective parameters
 *     axn_forward_training with the effective parameters              y; running statistics, if given,
 *                                                                     are updated after r and d
 *     ...
 *     axn_backward with scale = effective_scale                       grad_x; grad_shift is right;
 *     axn_renorm_grad_scale                                           grad_scale by the real scale
 *
 * With r_max = 1 and d_max = 0 it is batch normalization, bit by bit; without bounds (infinity) the
 * outputs are, but for rounding, those of inference with the running statistics. The paper starts with
 * the former and relaxes to r_max = 3 and d_max = 5. docs/statistics.md says more.
 *
 * Parameters and statistics are float here: plans of float32, and of the 16-bit types with
 * parameter_dtype = AXN_FLOAT32, take them as they are; for AXN_FLOAT64 convert them. With an
 * activation, axn_backward takes shift = effective_shift as well.
 *
 * Ownership: all arrays are the caller's. Threads: a call is one thread's work, on its arguments
 * alone. Errors: arguments are checked before anything is written.
 */
#ifndef AXISNORM_RENORM_H
#define AXISNORM_RENORM_H

#include "axisnorm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Start from axn_renorm_init(). Arrays are [channels]. */
typedef struct axn_renorm_args {
  size_t struct_size;
  int64_t channels;
  const float *mean;             /* of the batch */
  const float *rstd;             /* of the batch, with the same epsilon */
  const float *running_mean;     /* before this batch */
  const float *running_variance; /* before this batch */
  const float *scale;            /* optional: 1 */
  const float *shift;            /* optional: 0 */
  double epsilon;                /* 1e-5 by default */
  double r_max;                  /* 1 or above, 1 by default; infinity: no bound */
  double d_max;                  /* 0 or above, 0 by default; infinity: no bound */
  float *r;                      /* output, for axn_renorm_grad_scale */
  float *d;                      /* output, for axn_renorm_grad_scale */
  float *effective_scale;        /* output */
  float *effective_shift;        /* output */
} axn_renorm_args;

static inline axn_renorm_args axn_renorm_init(void) {
  axn_renorm_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.epsilon = 1e-5;
  args.r_max = 1;
  return args;
}

/* The factors of a batch, and the parameters to normalize it with. r and d are rounded to float
 * first, so that forward and backward see the same constants. A NaN among the statistics of a channel
 * reaches that channel's outputs; so does one that comes of a running_variance + epsilon below 0.
 * Errors: AXN_ERROR_SHAPE where channels is below 1, AXN_ERROR_OVERFLOW, AXN_ERROR_EPSILON,
 * AXN_ERROR_OPTION where r_max or d_max is out of range; those of buffers. */
AXN_API axn_status axn_renorm_parameters(const axn_renorm_args *args, axn_error *error);

/* From gradients by the effective parameters, as axn_backward() gives them, to the gradient by scale:
 * grad_scale = grad_scale * r + grad_shift * d, in place. The gradient by shift is that by the
 * effective shift, as it stands. Arrays are [channels]; grad_scale overlaps none of the others. */
AXN_API axn_status axn_renorm_grad_scale(int64_t channels, const float *r, const float *d,
                                         const float *grad_shift, float *grad_scale,
                                         axn_error *error);

#ifdef __cplusplus
}
#endif

#endif
