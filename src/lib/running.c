/* SPDX-License-Identifier: MIT */
#include "running.h"

#include "real.h"

double axn_running_factor(axn_running_variance kind, int64_t values) {
  if (kind == AXN_RUNNING_VARIANCE_BIASED) return 1;
  return (double)values / (double)(values - 1);
}

/* The average of some statistics, `channels` apart. */
static double average(const double *values, int64_t channels, int64_t count) {
  double sum = 0;
  for (int64_t r = 0; r < count; r++) sum += values[r * channels];
  return sum / (double)count;
}

/* The `step`-th new value of a channel moves it; cumulative: each so far counts as much. */
static double weight_of(double momentum, const axn_running *running, int64_t step) {
  if (momentum != AXN_MOMENTUM_CUMULATIVE) return momentum;
  return 1 / (double)(*running->batch_count + 1 + step);
}

/* Moves one running statistic through `steps` new values, each the average of `each` statistics. */
static void move(const axn_running *running, void *reals, int64_t channel, const double *values,
                 double factor, double momentum, int64_t steps, int64_t each) {
  const int64_t channels = running->channels;
  double value = axn_real_at(reals, channel, running->doubles);
  for (int64_t s = 0; s < steps; s++) {
    const double weight = weight_of(momentum, running, s);
    const double fresh = average(values + s * each * channels + channel, channels, each) * factor;
    value = (1 - weight) * value + weight * fresh;
  }
  axn_set_real(reals, channel, value, running->doubles);
}

void axn_update_running(axn_running running, const axn_batch_statistics *batch, double momentum) {
  const int64_t steps = running.in_turn ? batch->repeats : 1, each = batch->repeats / steps;
  for (int64_t c = 0; running.mean != NULL && c < running.channels; c++) {
    move(&running, running.mean, c, batch->mean, 1, momentum, steps, each);
    move(&running, running.variance, c, batch->spread, batch->factor, momentum, steps, each);
  }
  if (running.batch_count != NULL) *running.batch_count += steps;
}
