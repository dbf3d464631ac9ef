/* SPDX-License-Identifier: MIT */
/* Running statistics, for inference. */
#ifndef AXN_LIB_RUNNING_H
#define AXN_LIB_RUNNING_H

#include "axisnorm/axisnorm.h"

typedef struct axn_running {
  float *mean, *variance; /* [channels], updated */
  int64_t channels;
} axn_running;

/* The statistics of a batch. There may be several per channel, [repeats, channels]: their average
 * counts (as PyTorch's instance normalization does). */
typedef struct axn_batch_statistics {
  const double *mean;
  const double *spread; /* times `factor` it is the variance of the kind that is kept */
  double factor;
  int64_t repeats;
} axn_batch_statistics;

/* What turns the biased variance of so many values into the kind that is kept. */
double axn_running_factor(axn_running_variance kind, int64_t values);

/* Weight of the new value; also counts the batch. */
double axn_weigh_batch(const axn_desc *desc, int64_t *batch_count);

/* Moves the running statistics towards those of a batch, which get this weight. */
void axn_update_running(axn_running running, const axn_batch_statistics *batch, double weight);

#endif
