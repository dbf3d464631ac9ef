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

/* Moves the running statistics towards the statistics of a batch. There may be several of these per
 * channel, [repeats, channels]: their average counts (as PyTorch's instance normalization does), or each
 * by itself (Hoffer, Hubara & Soudry 2017, algorithm 1). `values` is how many elements one covers. */
void axn_update_running(const axn_desc *desc, axn_running running, const double *mean,
                        const double *variance, int64_t repeats, int64_t values);

#endif
