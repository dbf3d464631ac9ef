/* SPDX-License-Identifier: MIT */
/* Running statistics, for inference. */
#ifndef AXN_LIB_RUNNING_H
#define AXN_LIB_RUNNING_H

#include "axisnorm/axisnorm.h"

typedef struct axn_running {
  float *mean, *variance; /* [channels], updated */
  int64_t *batch_count;   /* may be null */
  int64_t channels;
} axn_running;

/* Moves the running statistics towards the statistics of a batch. There may be several of these per
 * channel, [repeats, channels]: their average counts (as PyTorch's instance normalization does).
 * `values` is how many elements one statistic covers. */
void axn_update_running(const axn_desc *desc, axn_running running, const double *mean,
                        const double *variance, int64_t repeats, int64_t values);

#endif
