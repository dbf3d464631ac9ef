/* SPDX-License-Identifier: MIT */
/*
 * Folding: inference batch normalization as part of the convolution or linear layer beside it.
 *
 * With given statistics, batch normalization is one multiplication and one addition per channel,
 *
 *     y = x * factor + offset,   factor = scale / sqrt(running_variance + epsilon),
 *                                offset = shift - running_mean * factor,
 *
 * and so can be made part of a linear map that stands next to it; the normalization is then gone
 * from the network (Jacob et al. 2018, section 3.2, equation 14; the same as PyTorch's
 * fuse_conv_bn_weights). For inference alone: training statistics change with every batch.
 *
 *     layer, then norm:   weight[o]... * factor[o],   bias[o] * factor[o] + offset[o]
 *     norm, then layer:   weight[o][i]... * factor[i],
 *                         bias[o] + sum over i and the kernel of weight[o][i][k] * offset[i]
 *
 * All arrays are float; computed in float64 and rounded once. docs/folding.md has the derivation, what
 * padding does to the second form, and how far the folded layer's results are from those of the two
 * layers.
 *
 * Ownership: all arrays are the caller's; nothing is allocated. Threads: a call is one thread's work
 * and touches its arguments alone. Errors: arguments are checked before anything is written.
 */
#ifndef AXISNORM_FOLD_H
#define AXISNORM_FOLD_H

#include "axisnorm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a layer that comes after the normalization sees beyond the borders of its input. The numbers
 * are part of the ABI. */
typedef enum axn_padding {
  AXN_PADDING_NONE = 1,  /* nothing: a linear layer, a convolution without padding */
  AXN_PADDING_ZEROS = 2, /* zeros */
  AXN_PADDING_INPUT = 3  /* values of the input: replicated, reflected, circular */
} axn_padding;

/* A layer and the normalization beside it. Start from axn_fold_init(). */
typedef struct axn_fold_args {
  size_t struct_size;
  int64_t out_channels;    /* of the layer, in all groups */
  int64_t in_channels;     /* likewise */
  int64_t groups;          /* divides both; 1 by default; in_channels for a depthwise convolution */
  int64_t kernel_elements; /* product of the kernel's extents; 1 by default: a linear layer */
  int transposed;          /* a transposed convolution: layer before the norm only */
  axn_padding padding;     /* layer after the norm only, and required there */
  const float *weight;     /* [out_channels, in_channels / groups, kernel_elements], dense;
                              transposed: [in_channels, out_channels / groups, kernel_elements] */
  const float *bias;       /* [out_channels]; optional: 0 */
  /* The normalization; per channel, of which it has as many as the layer on that side. */
  const float *running_mean;
  const float *running_variance; /* none negative or NaN */
  const float *scale;            /* optional: 1 */
  const float *shift;            /* optional: 0 */
  double epsilon;                /* 1e-5 by default */
  float *folded_weight;          /* output, as weight; may be weight */
  float *folded_bias;            /* output, [out_channels]; may be bias. Required also where the
                                    layer has no bias: it has one now */
} axn_fold_args;

static inline axn_fold_args axn_fold_init(void) {
  axn_fold_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.groups = 1;
  args.kernel_elements = 1;
  args.epsilon = 1e-5;
  return args;
}

/* The layer comes first, then the normalization of its out_channels. Exact in real arithmetic for
 * every convolution, whatever its stride, padding or dilation.
 * Errors: AXN_ERROR_SHAPE, AXN_ERROR_GROUPS, AXN_ERROR_OVERFLOW, AXN_ERROR_EPSILON;
 * AXN_ERROR_STATISTICS for a running variance below 0 or NaN; those of buffers. */
AXN_API axn_status axn_fold_after_layer(const axn_fold_args *args, axn_error *error);

/* The normalization of in_channels comes first, then the layer. `padding` has to be said:
 * AXN_PADDING_ZEROS is refused (AXN_ERROR_OPTION), as is a transposed convolution. A zero beyond the
 * border stands for a normalized value; there is none that stands for it before the normalization, so
 * at the borders no weights and bias give the same results. */
AXN_API axn_status axn_fold_before_layer(const axn_fold_args *args, axn_error *error);

#ifdef __cplusplus
}
#endif

#endif
