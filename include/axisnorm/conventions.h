/* SPDX-License-Identifier: MIT */
/*
 * Conventions: the same normalization in the terms of other frameworks. Momentum names opposite
 * things, the running variance has two divisors, epsilon many defaults. docs/statistics.md has the
 * table with versions and sources. Inline alone, without state: any thread may call any of it.
 */
#ifndef AXISNORM_CONVENTIONS_H
#define AXISNORM_CONVENTIONS_H

#include "axisnorm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- momentum ---- */

/* axisnorm and PyTorch (`momentum`), and TensorFlow's FusedBatchNorm (`exponential_avg_factor`), give
 * the weight of the new value. ONNX, Keras and Flax (`momentum`) give the weight of the old one, here
 * called decay. */
static inline double axn_momentum_of_decay(double decay) {
  return 1 - decay;
}

static inline double axn_decay_of_momentum(double momentum) {
  return 1 - momentum;
}

/* ---- running variance ---- */

/* From the biased variance of `count` values (divisor count) to the unbiased (divisor count - 1), and
 * back. For a running variance, count is the values per statistic of one batch; the conversion is
 * exact where all batches had the same count and the start value has faded, as (1 - momentum)^steps.
 * With a count of 1 there is no unbiased variance: NaN or infinity. */
static inline double axn_unbiased_variance(double biased, int64_t count) {
  return biased * ((double)count / (double)(count - 1));
}

static inline double axn_biased_variance(double unbiased, int64_t count) {
  return unbiased * ((double)(count - 1) / (double)count);
}

/* ---- defaults ---- */

typedef enum axn_framework {
  AXN_FRAMEWORK_PYTORCH = 1,    /* torch.nn */
  AXN_FRAMEWORK_KERAS = 2,      /* Keras 3 */
  AXN_FRAMEWORK_TENSORFLOW = 3, /* tf.raw_ops.FusedBatchNormV3: batch normalization alone; layers
                                   of tf.keras are Keras's */
  AXN_FRAMEWORK_ONNX = 4,       /* the operators' attributes */
  AXN_FRAMEWORK_FLAX = 5        /* flax.linen, flax.nnx */
} axn_framework;

/* Default epsilon of normalization by the root mean square (torch.nn.RMSNorm on float32: its machine
 * epsilon, 2^-23). */
static inline double axn_framework_rms_epsilon(axn_framework framework) {
  switch (framework) {
  case AXN_FRAMEWORK_PYTORCH:
    return 1.1920928955078125e-7;
  case AXN_FRAMEWORK_ONNX:
    return 1e-5;
  case AXN_FRAMEWORK_KERAS:
  case AXN_FRAMEWORK_FLAX:
    return 1e-6;
  case AXN_FRAMEWORK_TENSORFLOW:
    break;
  }
  return 0;
}

/* The default epsilon of a framework's layer for a norm: ghost as batch, positional as layer. 0, which
 * no plan takes, where the framework has no such layer, or is unknown. */
static inline double axn_framework_epsilon(axn_framework framework, axn_norm norm) {
  if (norm == AXN_RMS_NORM) return axn_framework_rms_epsilon(framework);
  if (norm == AXN_GHOST_BATCH_NORM) norm = AXN_BATCH_NORM;
  if (norm == AXN_POSITIONAL_NORM) norm = AXN_LAYER_NORM;
  if (norm < AXN_BATCH_NORM || norm > AXN_GROUP_NORM) return 0;
  switch (framework) {
  case AXN_FRAMEWORK_PYTORCH:
  case AXN_FRAMEWORK_ONNX:
    return 1e-5;
  case AXN_FRAMEWORK_KERAS: /* instance: GroupNormalization(groups=-1) */
    return 1e-3;
  case AXN_FRAMEWORK_TENSORFLOW:
    return norm == AXN_BATCH_NORM ? 1e-4 : 0;
  case AXN_FRAMEWORK_FLAX:
    return norm == AXN_BATCH_NORM ? 1e-5 : 1e-6;
  }
  return 0;
}

/* The default momentum of batch normalization, as axn_desc has it: the weight of the new value. -2,
 * which no plan takes, where the framework is unknown. */
static inline double axn_framework_momentum(axn_framework framework) {
  switch (framework) {
  case AXN_FRAMEWORK_PYTORCH:
  case AXN_FRAMEWORK_ONNX:
    return 0.1;
  case AXN_FRAMEWORK_KERAS:
  case AXN_FRAMEWORK_FLAX:
    return 0.01;
  case AXN_FRAMEWORK_TENSORFLOW:
    return 1;
  }
  return -2;
}

/* Which variance a framework's batch normalization keeps; biased where it is unknown. */
static inline axn_running_variance axn_framework_running_variance(axn_framework framework) {
  return framework == AXN_FRAMEWORK_PYTORCH || framework == AXN_FRAMEWORK_TENSORFLOW
             ? AXN_RUNNING_VARIANCE_UNBIASED
             : AXN_RUNNING_VARIANCE_BIASED;
}

/* Sets epsilon, momentum and running_variance to a framework's defaults for desc->norm, which has to be
 * set before. Where the framework has no such layer, epsilon becomes 0 and axn_plan_create() fails with
 * AXN_ERROR_EPSILON: set your own. */
static inline void axn_desc_follow(axn_desc *desc, axn_framework framework) {
  desc->epsilon = axn_framework_epsilon(framework, desc->norm);
  desc->momentum = axn_framework_momentum(framework);
  desc->running_variance = axn_framework_running_variance(framework);
}

#ifdef __cplusplus
}
#endif

#endif
