/* SPDX-License-Identifier: MIT */
/* Running statistics, for inference. */
#ifndef AXN_LIB_RUNNING_H
#define AXN_LIB_RUNNING_H

#include <stdbool.h>

#include "axisnorm/axisnorm.h"

typedef struct axn_running {
  void *mean, *variance; /* reals, [channels], updated; may be null */
  bool doubles;          /* what reals are */
  int64_t *batch_count;  /* counted up; may be null but for a cumulative average */
  int64_t channels;
  bool in_turn; /* each statistic of a channel counts as a batch; else their average does */
} axn_running;

/* The statistics of a batch. There may be several per channel, [repeats, channels]. */
typedef struct axn_batch_statistics {
  const double *mean;
  const double *spread; /* times `factor` it is the variance of the kind that is kept */
  double factor;
  int64_t repeats;
} axn_batch_statistics;

/* What turns the biased variance of so many values into the kind that is kept. */
double axn_running_factor(axn_running_variance kind, int64_t values);

/* Moves the running statistics towards those of a batch, with a momentum. Of several per channel the
 * average counts (as PyTorch's instance normalization does), or each by itself, in order (Hoffer, Hubara &
 * Soudry 2017). */
void axn_update_running(axn_running running, const axn_batch_statistics *batch, double momentum);

#endif
