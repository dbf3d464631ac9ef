/* SPDX-License-Identifier: MIT */
#include "running.h"

#include "real.h"

/* What turns the biased variance into the kind that is kept. */
static double variance_factor(const axn_desc *desc, int64_t values) {
  if (desc->running_variance == AXN_RUNNING_VARIANCE_BIASED) return 1;
  return (double)values / (double)(values - 1);
}

/* The average of some statistics, `channels` apart. */
static double average(const double *values, int64_t channels, int64_t count) {
  double sum = 0;
  for (int64_t r = 0; r < count; r++) sum += values[r * channels];
  return sum / (double)count;
}

/* The `step`-th new value of a channel moves it; cumulative: each so far counts as much. */
static double weight_of(const axn_desc *desc, const axn_running *running, int64_t step) {
  if (desc->momentum != AXN_MOMENTUM_CUMULATIVE) return desc->momentum;
  return 1 / (double)(*running->batch_count + 1 + step);
}

/* Moves one running statistic through `steps` new values, each the average of `each` statistics. */
static double moved(const axn_desc *desc, const axn_running *running, double value,
                    const double *values, int64_t steps, int64_t each, double factor) {
  for (int64_t s = 0; s < steps; s++) {
    const double weight = weight_of(desc, running, s);
    const double fresh =
        average(values + s * each * running->channels, running->channels, each) * factor;
    value = (1 - weight) * value + weight * fresh;
  }
  return value;
}

void axn_update_running(const axn_desc *desc, axn_running running, const double *mean,
                        const double *variance, int64_t repeats, int64_t values) {
  const int64_t steps = running.in_turn ? repeats : 1, each = repeats / steps;
  const double factor = variance_factor(desc, values);
  for (int64_t c = 0; running.mean != NULL && c < running.channels; c++) {
    const double old_mean = axn_real_at(running.mean, c, running.doubles);
    const double old_variance = axn_real_at(running.variance, c, running.doubles);
    axn_set_real(running.mean, c, moved(desc, &running, old_mean, mean + c, steps, each, 1),
                 running.doubles);
    axn_set_real(running.variance, c,
                 moved(desc, &running, old_variance, variance + c, steps, each, factor),
                 running.doubles);
  }
  if (running.batch_count != NULL) *running.batch_count += steps;
}
