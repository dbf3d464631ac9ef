/* SPDX-License-Identifier: MIT */
/* The parts of axisnorm apply. */
#ifndef AXISNORM_APPLY_H
#define AXISNORM_APPLY_H

#include "prepare.h"

/* The tensors of a call. Those whose data stay null are not part of it. */
struct apply {
  const struct options *options;
  struct wanted wanted;
  struct prepared prepared;
  struct tensor x, scale, shift, residual, running_mean, running_var, grad_output;
  struct tensor y, mean, rstd, grad_input, grad_scale, grad_shift, grad_residual;
};

/* Reads the files, each with the shape and the type that the plan wants of it, and makes the plan. */
enum outcome apply_read_inputs(struct apply *a);

/* What a call asks for. */
static inline bool apply_wants_gradient(const struct options *o) {
  return o->grad_output != NULL;
}

static inline bool apply_wants_statistics(const struct options *o) {
  return o->mean_output != NULL || o->rstd_output != NULL;
}

static inline bool apply_updates_running(const struct options *o) {
  return o->mode == MODE_TRAINING && (o->running_mean != NULL || o->running_mean_output != NULL ||
                                      o->running_var_output != NULL);
}

#endif
