/* SPDX-License-Identifier: MIT */
#include "running.h"

double axn_weigh_batch(const axn_desc *desc, int64_t *batch_count) {
  if (batch_count != NULL) ++*batch_count;
  if (desc->momentum != AXN_MOMENTUM_CUMULATIVE) return desc->momentum;
  return 1 / (double)*batch_count;
}

double axn_running_factor(axn_running_variance kind, int64_t values) {
  if (kind == AXN_RUNNING_VARIANCE_BIASED) return 1;
  return (double)values / (double)(values - 1);
}

void axn_update_running(axn_running running, const axn_batch_statistics *batch, double weight) {
  for (int64_t c = 0; c < running.channels; c++) {
    double mean_sum = 0, spread_sum = 0;
    for (int64_t r = 0; r < batch->repeats; r++) {
      mean_sum += batch->mean[r * running.channels + c];
      spread_sum += batch->spread[r * running.channels + c];
    }
    const double new_mean = mean_sum / (double)batch->repeats;
    const double new_variance = spread_sum / (double)batch->repeats * batch->factor;
    running.mean[c] = (float)((1 - weight) * (double)running.mean[c] + weight * new_mean);
    running.variance[c] =
        (float)((1 - weight) * (double)running.variance[c] + weight * new_variance);
  }
}
