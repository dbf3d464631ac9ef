/* SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void *zeroed(int64_t count, size_t size) {
  void *memory = calloc(count > 0 ? (size_t)count : 1, size);
  if (!memory) {
    fprintf(stderr, "oracle: out of memory\n");
    abort();
  }
  return memory;
}

static double *doubles(int64_t count) {
  return zeroed(count, sizeof(double));
}

/* What a strategy of the test's own selects; null for a norm. */
static const axn_axes *own_axes(const axn_desc *desc) {
  return desc->strategy ? desc->strategy->context : NULL;
}

static int takes_mean(const axn_desc *desc) {
  return desc->strategy ? !desc->strategy->second_moment : desc->norm != AXN_RMS_NORM;
}

static int in_turn(const axn_desc *desc) {
  return desc->strategy ? desc->strategy->running == AXN_RUNNING_IN_TURN
                        : desc->norm == AXN_GHOST_BATCH_NORM;
}

static int has_running(const axn_desc *desc) {
  if (desc->strategy) return desc->strategy->running != AXN_RUNNING_NONE;
  return desc->norm == AXN_BATCH_NORM || desc->norm == AXN_INSTANCE_NORM || in_turn(desc);
}

/* Which axes of N, C, spatial are reduced, as one flag each; a split axis counts. */
static void find_reduced_axes(const axn_desc *desc, int reduced[5]) {
  const axn_axes *own = own_axes(desc);
  for (int k = 0; own && k < desc->rank; k++) reduced[k] = (int)(own->reduced >> k & 1);
  if (own) return;
  int axis = desc->axis < 0 ? desc->axis + desc->rank : desc->axis;
  for (int k = 0; k < desc->rank; k++) {
    int spatial = k >= 2;
    switch (desc->norm) {
    case AXN_BATCH_NORM:
    case AXN_GHOST_BATCH_NORM:
      reduced[k] = k == 0 || spatial;
      break;
    case AXN_POSITIONAL_NORM:
      reduced[k] = k == 1;
      break;
    case AXN_RMS_NORM:
    case AXN_LAYER_NORM:
      reduced[k] = k >= axis;
      break;
    case AXN_INSTANCE_NORM:
      reduced[k] = spatial;
      break;
    case AXN_GROUP_NORM:
      reduced[k] = k >= 1;
      break;
    }
  }
}

/* The axes from slowest to fastest in memory. */
static void find_memory_order(const axn_desc *desc, int order[5]) {
  int place = 0;
  order[place++] = 0;
  if (desc->layout == AXN_CHANNELS_FIRST) order[place++] = 1;
  for (int k = 2; k < desc->rank; k++) order[place++] = k;
  if (desc->layout == AXN_CHANNELS_LAST) order[place] = 1;
}

/* How many neighbours along axis k share a statistic where the axis is cut into groups; 0 where not. */
static int64_t group_size(const axn_desc *desc, int k) {
  const axn_axes *own = own_axes(desc);
  if (own) return k == own->split_axis ? desc->shape[k] / own->split_groups : 0;
  if (k == 1 && desc->norm == AXN_GROUP_NORM) return desc->shape[1] / desc->groups;
  if (k == 0 && desc->norm == AXN_GHOST_BATCH_NORM) return desc->ghost_batch;
  return 0;
}

/* Number of a statistic: the kept axes in memory order; a group, of group_size(), in the place of its axis. */
static int64_t number_statistic(const axn_desc *desc, const int reduced[5], const int order[5],
                                const int64_t sizes[5], const int64_t index[5]) {
  int64_t number = 0;
  for (int place = 0; place < desc->rank; place++) {
    int k = order[place];
    if (sizes[k] > 0) {
      number = number * (desc->shape[k] / sizes[k]) + index[k] / sizes[k];
    } else if (!reduced[k]) {
      number = number * desc->shape[k] + index[k];
    }
  }
  return number;
}

/* Number of a parameter: the channel, or the normalized axes in memory order. */
static int64_t number_parameter(const axn_desc *desc, const int reduced[5], const int order[5],
                                const int64_t index[5]) {
  if (desc->parameters == AXN_PARAMETERS_PER_CHANNEL) return index[1];
  int64_t number = 0;
  for (int place = 0; place < desc->rank; place++) {
    int k = order[place];
    if (reduced[k]) number = number * desc->shape[k] + index[k];
  }
  return number;
}

static void advance(const axn_desc *desc, const int order[5], int64_t index[5]) {
  for (int place = desc->rank - 1; place >= 0; place--) {
    int k = order[place];
    if (++index[k] < desc->shape[k]) return;
    index[k] = 0;
  }
}

static void measure(oracle *self, const int reduced[5]) {
  const axn_desc *desc = &self->desc;
  uint32_t bit = 1;
  self->elements = self->statistics = self->values = self->parameters = 1;
  self->split_axis = -1;
  self->split_groups = 1;
  for (int k = 0; k < desc->rank; k++) {
    int64_t extent = desc->shape[k];
    self->elements *= extent;
    if (reduced[k]) self->reduced_axes += bit;
    bit *= 2;
    *(reduced[k] ? &self->values : &self->statistics) *= extent;
    if (reduced[k]) self->parameters *= extent;
  }
  for (int k = 0; k < desc->rank; k++) {
    if (group_size(desc, k) == 0) continue;
    self->split_axis = k;
    self->split_groups = desc->shape[k] / group_size(desc, k);
  }
  self->statistics *= self->split_groups;
  self->values /= self->split_groups;
  if (desc->parameters == AXN_PARAMETERS_PER_CHANNEL) self->parameters = desc->shape[1];
  self->running = has_running(desc) ? desc->shape[1] : 0;
  self->batches = in_turn(desc) ? self->statistics / self->running : 1;
}

oracle oracle_make(const axn_desc *desc) {
  oracle self = {0};
  self.desc = *desc;
  int reduced[5] = {0};
  int order[5] = {0};
  find_reduced_axes(desc, reduced);
  find_memory_order(desc, order);
  measure(&self, reduced);
  self.statistic_of = zeroed(self.elements, sizeof(int64_t));
  self.parameter_of = zeroed(self.elements, sizeof(int64_t));
  self.channel_of = zeroed(self.elements, sizeof(int64_t));
  int64_t index[5] = {0}, sizes[5] = {0};
  for (int k = 0; k < desc->rank; k++) sizes[k] = group_size(desc, k);
  for (int64_t e = 0; e < self.elements; e++) {
    self.statistic_of[e] = number_statistic(desc, reduced, order, sizes, index);
    self.parameter_of[e] = number_parameter(desc, reduced, order, index);
    self.channel_of[e] = index[1];
    advance(desc, order, index);
  }
  return self;
}

void oracle_free(oracle *self) {
  free(self->statistic_of);
  free(self->parameter_of);
  free(self->channel_of);
  *self = (oracle){0};
}

double *oracle_widen(const float *values, int64_t count) {
  if (!values) return NULL;
  double *wide = doubles(count);
  for (int64_t i = 0; i < count; i++) wide[i] = (double)values[i];
  return wide;
}

/* ---- forward ---- */

/* Two passes, each summed in long double: mean first, then the squares of the differences; rms knows no
 * mean, so that its variance is the second moment. */
static void find_statistics(const oracle *self, const double *x, oracle_forward *forward) {
  long double *sum = zeroed(self->statistics, sizeof(long double));
  long double n = (long double)self->values;
  for (int64_t e = 0; e < self->elements; e++) sum[self->statistic_of[e]] += x[e];
  for (int64_t s = 0; s < self->statistics; s++) {
    forward->mean[s] = takes_mean(&self->desc) ? (double)(sum[s] / n) : 0.0;
    sum[s] = 0;
  }
  for (int64_t e = 0; e < self->elements; e++) {
    long double difference = x[e] - (long double)forward->mean[self->statistic_of[e]];
    sum[self->statistic_of[e]] += difference * difference;
  }
  for (int64_t s = 0; s < self->statistics; s++) {
    forward->variance[s] = (double)(sum[s] / n);
    forward->rstd[s] = 1.0 / sqrt(forward->variance[s] + self->desc.epsilon);
  }
  free(sum);
}

static double scaled(const oracle *self, int64_t e, double normalized, const double *scale,
                     const double *shift) {
  int64_t p = self->parameter_of[e];
  return normalized * (scale ? scale[p] : 1.0) + (shift ? shift[p] : 0.0);
}

oracle_forward oracle_from_x(const oracle *self, const double *x, const double *scale,
                             const double *shift) {
  oracle_forward forward = {doubles(self->elements), doubles(self->statistics),
                            doubles(self->statistics), doubles(self->statistics)};
  find_statistics(self, x, &forward);
  for (int64_t e = 0; e < self->elements; e++) {
    int64_t s = self->statistic_of[e];
    forward.y[e] = scaled(self, e, (x[e] - forward.mean[s]) * forward.rstd[s], scale, shift);
  }
  return forward;
}

oracle_forward oracle_from_running(const oracle *self, const double *x, const double *scale,
                                   const double *shift, const double *running_mean,
                                   const double *running_variance) {
  oracle_forward forward = {doubles(self->elements), NULL, NULL, NULL};
  for (int64_t e = 0; e < self->elements; e++) {
    int64_t c = self->channel_of[e];
    double normalized = (x[e] - running_mean[c]) / sqrt(running_variance[c] + self->desc.epsilon);
    forward.y[e] = scaled(self, e, normalized, scale, shift);
  }
  return forward;
}

void oracle_forward_free(oracle_forward *forward) {
  free(forward->y);
  free(forward->mean);
  free(forward->variance);
  free(forward->rstd);
  *forward = (oracle_forward){0};
}

static double weight_of_batch(const axn_desc *desc, int64_t count) {
  return desc->momentum == AXN_MOMENTUM_CUMULATIVE ? 1.0 / (double)count : desc->momentum;
}

/* Hoffer, Hubara & Soudry 2017, algorithm 1, with its powers written out as steps. `count` includes all
 * ghost batches of this pass. */
static void update_in_turn(const oracle *self, const oracle_forward *forward, int64_t count,
                           double unbias, double *running_mean, double *running_variance) {
  int64_t channels = self->running, ghosts = self->batches;
  for (int64_t i = 0; i < ghosts; i++) {
    double weight = weight_of_batch(&self->desc, count - ghosts + 1 + i);
    for (int64_t c = 0; c < channels; c++) {
      double mean = forward->mean[i * channels + c];
      double variance = forward->variance[i * channels + c] * unbias;
      running_mean[c] += weight * (mean - running_mean[c]);
      running_variance[c] += weight * (variance - running_variance[c]);
    }
  }
}

void oracle_update_running(const oracle *self, const oracle_forward *forward, int64_t count,
                           double *running_mean, double *running_variance) {
  const axn_desc *desc = &self->desc;
  int64_t channels = self->running;
  int64_t samples = self->statistics / channels; /* 1 for batch, N for instance */
  double n = (double)self->values;
  double unbias = desc->running_variance == AXN_RUNNING_VARIANCE_UNBIASED ? n / (n - 1.0) : 1.0;
  if (in_turn(desc)) {
    update_in_turn(self, forward, count, unbias, running_mean, running_variance);
    return;
  }
  double weight = weight_of_batch(desc, count);
  for (int64_t c = 0; c < channels; c++) {
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < samples; i++) {
      mean += forward->mean[i * channels + c] / (double)samples;
      variance += forward->variance[i * channels + c] * unbias / (double)samples;
    }
    running_mean[c] = (1.0 - weight) * running_mean[c] + weight * mean;
    running_variance[c] = (1.0 - weight) * running_variance[c] + weight * variance;
  }
}

/* ---- backward ---- */

/* Parameter gradients and the size of their terms, from normalized values. */
static void sum_parameters(const oracle *self, const double *normalized, const double *grad_y,
                           oracle_backward *backward) {
  long double *sums = zeroed(4 * self->parameters, sizeof(long double));
  for (int64_t e = 0; e < self->elements; e++) {
    long double *sum = sums + 4 * self->parameter_of[e];
    long double term = (long double)grad_y[e] * normalized[e];
    sum[0] += term;
    sum[1] += term * term;
    sum[2] += grad_y[e];
    sum[3] += (long double)grad_y[e] * grad_y[e];
  }
  for (int64_t p = 0; p < self->parameters; p++) {
    backward->grad_scale[p] = (double)sums[4 * p];
    backward->scale_terms[p] = (double)sqrtl(sums[4 * p + 1]);
    backward->grad_shift[p] = (double)sums[4 * p + 2];
    backward->shift_terms[p] = (double)sqrtl(sums[4 * p + 3]);
  }
  free(sums);
}

static oracle_backward make_backward(const oracle *self) {
  return (oracle_backward){doubles(self->elements),   doubles(self->parameters),
                           doubles(self->parameters), doubles(self->parameters),
                           doubles(self->parameters), 0.0};
}

static void keep_largest(double *largest, double value) {
  if (fabs(value) > *largest) *largest = fabs(value);
}

/* Ioffe & Szegedy 2015, section 3, put together: with g = grad_y * scale and h = normalized x,
 * grad_x = rstd * (g - mean(g) - h * mean(g * h)), means over one statistic's elements; for rms, whose h
 * has no mean taken out, without mean(g). */
static void flow_through_statistics(const oracle *self, const double *normalized,
                                    const double *rstd, const double *grad_y, const double *scale,
                                    oracle_backward *backward) {
  long double *sum_g = zeroed(self->statistics, sizeof(long double));
  long double *sum_gh = zeroed(self->statistics, sizeof(long double));
  for (int64_t e = 0; e < self->elements; e++) {
    int64_t s = self->statistic_of[e];
    double g = grad_y[e] * (scale ? scale[self->parameter_of[e]] : 1.0);
    sum_g[s] += g;
    sum_gh[s] += (long double)g * normalized[e];
  }
  for (int64_t e = 0; e < self->elements; e++) {
    int64_t s = self->statistic_of[e];
    double g = grad_y[e] * (scale ? scale[self->parameter_of[e]] : 1.0);
    long double n = (long double)self->values;
    long double centre = takes_mean(&self->desc) ? sum_g[s] / n : 0.0L;
    long double inner = g - centre - normalized[e] * (sum_gh[s] / n);
    backward->grad_x[e] = (double)(rstd[s] * inner);
    keep_largest(&backward->uncancelled, rstd[s] * g);
  }
  free(sum_g);
  free(sum_gh);
}

oracle_backward oracle_gradients(const oracle *self, const double *x, const double *grad_y,
                                 const double *scale) {
  oracle_backward backward = make_backward(self);
  oracle_forward forward = oracle_from_x(self, x, NULL, NULL);
  sum_parameters(self, forward.y, grad_y, &backward);
  flow_through_statistics(self, forward.y, forward.rstd, grad_y, scale, &backward);
  oracle_forward_free(&forward);
  return backward;
}

oracle_backward oracle_frozen_gradients(const oracle *self, const double *x, const double *grad_y,
                                        const double *scale, const double *running_mean,
                                        const double *running_variance) {
  oracle_backward backward = make_backward(self);
  oracle_forward forward = oracle_from_running(self, x, NULL, NULL, running_mean, running_variance);
  sum_parameters(self, forward.y, grad_y, &backward);
  for (int64_t e = 0; e < self->elements; e++) {
    double g = grad_y[e] * (scale ? scale[self->parameter_of[e]] : 1.0);
    backward.grad_x[e] = g / sqrt(running_variance[self->channel_of[e]] + self->desc.epsilon);
    keep_largest(&backward.uncancelled, backward.grad_x[e]);
  }
  oracle_forward_free(&forward);
  return backward;
}

void oracle_backward_free(oracle_backward *backward) {
  free(backward->grad_x);
  free(backward->grad_scale);
  free(backward->grad_shift);
  free(backward->scale_terms);
  free(backward->shift_terms);
  *backward = (oracle_backward){0};
}
