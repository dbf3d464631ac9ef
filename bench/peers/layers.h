/* SPDX-License-Identifier: MIT */
/* The layers that are compared, from a CSV file. */
#ifndef AXISNORM_PEERS_LAYERS_H
#define AXISNORM_PEERS_LAYERS_H

#include <axisnorm/axisnorm.h>

struct layer {
  char model[64];
  axn_desc desc;     /* says everything but the data */
  int with_residual; /* one is added before the activation */
};

enum pass { FORWARD_TRAINING, FORWARD_INFERENCE, BACKWARD, PASSES };
extern const char *const pass_names[PASSES];

/* Prints "onednn: WHAT: WHY" and exits with 1. */
void fail(const char *what, const char *why);

/* `common` says what the file does not: layout, threads, types, activation, residual. Shapes with
 * h = w = 1 become matrices; layer normalization of these has a scale and shift per element, as in
 * transformers, and per channel otherwise. The caller frees the array. */
struct layer *layers_read(const char *path, const struct layer *common, int *count);

/* Normalizes over all channels and all of space, with a scale and shift per channel. */
int layer_is_of_images(const axn_desc *desc);

#endif
