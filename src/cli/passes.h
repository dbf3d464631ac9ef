/* SPDX-License-Identifier: MIT */
/* The three runs of the library on a plan that is ready. */
#ifndef AXISNORM_PASSES_H
#define AXISNORM_PASSES_H

#include "prepare.h"

/* The data of a run; null where it has none. */
struct pass_data {
  const void *x, *scale, *shift, *residual, *grad_y;
  void *y, *grad_x, *grad_scale, *grad_shift;
  void *grad_residual; /* with an activation; without, it is grad_y */
  void *mean, *rstd;
  void *running_mean, *running_variance; /* updated in training, as by the first batch */
};

axn_status pass_training(const struct prepared *prepared, const struct pass_data *data,
                         axn_error *error);
axn_status pass_inference(const struct prepared *prepared, const struct pass_data *data,
                          axn_error *error);

/* Through mean and rstd where there are any, else with the running statistics. */
axn_status pass_backward(const struct prepared *prepared, const struct pass_data *data,
                         axn_error *error);

#endif
