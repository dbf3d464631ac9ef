/* SPDX-License-Identifier: MIT */
/* The three runs of the library on a plan that is ready. */
#ifndef AXISNORM_PASSES_H
#define AXISNORM_PASSES_H

#include "prepare.h"

/* The data of a run; null where it has none. */
struct pass_data {
  const float *x, *scale, *shift, *grad_y;
  float *y, *grad_x, *grad_scale, *grad_shift;
  float *mean, *rstd;
  float *running_mean, *running_variance; /* updated in training, as by the first batch */
};

axn_status pass_training(const struct prepared *prepared, const struct pass_data *data,
                         axn_error *error);
axn_status pass_inference(const struct prepared *prepared, const struct pass_data *data,
                          axn_error *error);

/* Through mean and rstd where there are any, else with the running statistics. */
axn_status pass_backward(const struct prepared *prepared, const struct pass_data *data,
                         axn_error *error);

#endif
