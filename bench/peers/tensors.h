/* SPDX-License-Identifier: MIT */
/* What a layer reads and writes. x, y, the residual and their gradients have the layer's type;
 * scale, shift, their gradients and the statistics are float32 with every type. */
#ifndef AXISNORM_PEERS_TENSORS_H
#define AXISNORM_PEERS_TENSORS_H

#include "layers.h"

/* What every implementation reads. The running statistics are per channel. */
struct inputs {
  axn_dtype dtype;
  int64_t elements, parameters, statistics, channels;
  void *x, *grad_y, *residual; /* the last one null for a layer without */
  float *scale, *shift, *running_mean, *running_variance;
};

/* What each writes into buffers of its own. `argument` is what an activation was applied to, where
 * that is kept; grad_residual is its gradient. `deviation` is 1 / sqrt(variance + epsilon) in one
 * library and the variance in another. Neither `argument` nor that is compared with anything. */
struct outputs {
  void *y, *argument, *grad_x, *grad_residual;
  float *mean, *deviation, *grad_scale, *grad_shift;
};

struct inputs inputs_make(const struct layer *layer);
void inputs_free(struct inputs *inputs);

/* Makes grad_y 0 where `argument` is so close to 0 that rounding decides on which side of ReLU's
 * corner it falls: its derivative there is anyone's. */
void inputs_avoid_corner(struct inputs *inputs, const void *argument);

/* Their contents mean nothing yet. */
struct outputs outputs_make(const struct inputs *inputs);

/* Fills them with NaN: what an implementation leaves unwritten then differs from any result. */
void outputs_clear(const struct inputs *inputs, const struct outputs *outputs);
void outputs_free(struct outputs *outputs);

/* Exits with 1 unless the pass gave the same to both, within the type's tolerance (README.md) times
 * each array's largest magnitude. `what` is said in the message. */
void outputs_compare(const struct inputs *inputs, const struct layer *layer, enum pass pass,
                     const struct outputs *ours, const struct outputs *theirs, const char *what);

#endif
