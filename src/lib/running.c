/* SPDX-License-Identifier: MIT */
#include "running.h"

/* Weight of the new value; also counts the batch. */
static double weigh_batch(const axn_desc *desc, int64_t *batch_count) {
  if (batch_count != NULL) ++*batch_count;
  if (desc->momentum != AXN_MOMENTUM_CUMULATIVE) return desc->momentum;
  return 1 / (double)*batch_count;
}

/* What turns the biased variance into the kind that is kept. */
static double variance_factor(const axn_desc *desc, int64_t values) {
  if (desc->running_variance == AXN_RUNNING_VARIANCE_BIASED) return 1;
  return (double)values / (double)(values - 1);
}

void axn_update_running(const axn_desc *desc, axn_running running, const double *mean,
                        const double *variance, int64_t repeats, int64_t values) {
  const double weight = weigh_batch(desc, running.batch_count);
  const double factor = variance_factor(desc, values);
  for (int64_t c = 0; c < running.channels; c++) {
    double mean_sum = 0, variance_sum = 0;
    for (int64_t r = 0; r < repeats; r++) {
      mean_sum += mean[r * running.channels + c];
      variance_sum += variance[r * running.channels + c];
    }
    const double new_mean = mean_sum / (double)repeats;
    const double new_variance = variance_sum / (double)repeats * factor;
    running.mean[c] = (float)((1 - weight) * (double)running.mean[c] + weight * new_mean);
    running.variance[c] =
        (float)((1 - weight) * (double)running.variance[c] + weight * new_variance);
  }
}
