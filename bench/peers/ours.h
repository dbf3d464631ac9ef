/* SPDX-License-Identifier: MIT */
/* One pass of a layer through axisnorm. */
#ifndef AXISNORM_PEERS_OURS_H
#define AXISNORM_PEERS_OURS_H

#include "tensors.h"

struct ours {
  enum pass pass;
  axn_plan *plan;
  void *workspace;
  axn_isa isa;
  axn_training_args training;
  axn_inference_args inference;
  axn_backward_args backward;
};

/* For the backward pass this runs the forward one, for its statistics. */
struct ours ours_make(const struct layer *layer, enum pass pass, const struct inputs *inputs,
                      const struct outputs *outputs);
void ours_run(void *context); /* a struct ours */
void ours_free(struct ours *ours);

/* For the layer without its activation: into outputs->y, what that would be applied to. */
void ours_find_argument(const struct layer *layer, const struct inputs *inputs,
                        const struct outputs *outputs);

#endif
