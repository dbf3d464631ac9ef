/* SPDX-License-Identifier: MIT */
/* The layers that are compared, from a CSV file, and tensors for them. */
#ifndef AXISNORM_PEERS_LAYERS_H
#define AXISNORM_PEERS_LAYERS_H

#include <axisnorm/axisnorm.h>

struct layer {
  char model[64];
  axn_desc desc; /* says everything but the data */
};

enum pass { FORWARD_TRAINING, FORWARD_INFERENCE, BACKWARD, PASSES };
extern const char *const pass_names[PASSES];

/* What every implementation reads. The running statistics are per channel. */
struct inputs {
  int64_t elements, parameters, statistics, channels;
  float *x, *grad_y, *scale, *shift, *running_mean, *running_variance;
};

/* What each writes into buffers of its own. `deviation` is 1 / sqrt(variance + epsilon) in one
 * library and the variance in another, so it is compared with nothing. */
struct outputs {
  float *y, *mean, *deviation, *grad_x, *grad_scale, *grad_shift;
};

/* Prints "onednn: WHAT: WHY" and exits with 1. */
void fail(const char *what, const char *why);

/* Shapes with h = w = 1 become matrices; layer normalization of these has a scale and shift per
 * element, as in transformers, and per channel otherwise. The caller frees the array. */
struct layer *layers_read(const char *path, axn_layout layout, int threads, int *count);

/* Normalizes over all channels and all of space, with a scale and shift per channel. */
int layer_is_of_images(const axn_desc *desc);

struct inputs inputs_make(const axn_desc *desc);
void inputs_free(struct inputs *inputs);

struct outputs outputs_make(const struct inputs *inputs);
void outputs_free(struct outputs *outputs);

/* Exits with 1 unless the pass gave the same to both, within 1e-4 of each array's largest
 * magnitude. `what` is said in the message. */
void outputs_compare(const struct inputs *inputs, enum pass pass, const struct outputs *ours,
                     const struct outputs *theirs, const char *what);

#endif
