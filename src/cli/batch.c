/* SPDX-License-Identifier: MIT */
/* Batches drawn from the input, and how their results differ from the population's. */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum outcome batch_create(struct batch *b, const struct compare_input *input,
                          const struct population *population, const struct options *options,
                          axn_norm norm, int64_t size) {
  *b = (struct batch){.input = input, .population = population, .size = size};
  struct shape shape = input->shape, data = input->x.shape;
  shape.extents[0] = data.extents[0] = size;
  enum outcome outcome = prepare(&b->prepared, options, norm, &shape, 0, AXN_PARAMETERS_PER_CHANNEL,
                                 input->shape_source);
  if (outcome != DONE) return outcome;
  struct shape statistics = {.rank = 1, .extents = {b->prepared.info.statistics}};
  struct tensor *const data_tensors[] = {&b->x, &b->y, &b->grad_y, &b->grad_x};
  for (int i = 0; i < 4 && outcome == DONE; i++) outcome = tensor_create(data_tensors[i], &data);
  if (outcome == DONE) outcome = tensor_create(&b->mean, &statistics);
  if (outcome == DONE) outcome = tensor_create(&b->rstd, &statistics);
  if (outcome != DONE) return outcome;
  b->order = malloc((size_t)input->shape.extents[0] * sizeof *b->order);
  if (b->order == NULL) return message_no_memory();
  for (int64_t i = 0; i < input->shape.extents[0]; i++) b->order[i] = i;
  return DONE;
}

void batch_release(struct batch *b) {
  struct tensor *const tensors[] = {&b->x, &b->y, &b->grad_y, &b->grad_x, &b->mean, &b->rstd};
  for (int i = 0; i < 6; i++) tensor_release(tensors[i]);
  free(b->order);
  prepare_release(&b->prepared);
}

void batch_forward(void *context) {
  struct batch *b = context;
  axn_training_args args = axn_training_init();
  args.x = b->x.data;
  args.y = b->y.data;
  args.mean = b->mean.data;
  args.rstd = b->rstd.data;
  args.workspace = b->prepared.workspace;
  args.workspace_size = b->prepared.workspace_size;
  b->status = axn_forward_training(b->prepared.plan, &args, &b->error);
}

/* With the population's statistics where the batch's own would mix samples; else from x. */
void batch_inference(void *context) {
  struct batch *b = context;
  axn_inference_args args = axn_inference_init();
  args.x = b->x.data;
  args.y = b->y.data;
  if ((b->prepared.info.reduced_axes & 1) != 0 && b->prepared.info.running_statistics > 0) {
    args.running_mean = b->population->mean.data;
    args.running_variance = b->population->running_variance.data;
  }
  args.workspace = b->prepared.workspace;
  args.workspace_size = b->prepared.workspace_size;
  b->status = axn_forward_inference(b->prepared.plan, &args, &b->error);
}

void batch_backward(void *context) {
  struct batch *b = context;
  axn_backward_args args = axn_backward_init();
  args.x = b->x.data;
  args.grad_y = b->grad_y.data;
  args.mean = b->mean.data;
  args.rstd = b->rstd.data;
  args.grad_x = b->grad_x.data;
  args.workspace = b->prepared.workspace;
  args.workspace_size = b->prepared.workspace_size;
  b->status = axn_backward(b->prepared.plan, &args, &b->error);
}

/* Sums of squares, and of how many. */
struct sums {
  double mean_difference, variance_difference;
  int64_t statistics;
  double y_difference, y, grad_difference, grad;
};

static void shuffle(int64_t *order, int64_t count, struct random *random) {
  for (int64_t i = count - 1; i > 0; i--) {
    int64_t j = (int64_t)random_below(random, (uint64_t)i + 1), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
}

static void gather(struct batch *b) {
  int64_t sample = b->input->sample;
  size_t bytes = (size_t)sample * sizeof(float);
  for (int64_t i = 0; i < b->size; i++) {
    memcpy(b->x.data + i * sample, b->input->x.data + b->samples[i] * sample, bytes);
    memcpy(b->grad_y.data + i * sample, b->input->grad_y.data + b->samples[i] * sample, bytes);
  }
}

/* A statistic stands for the same one over the whole input: the same index where samples share it,
 * else the one of the same sample. */
static void add_statistics(const struct batch *b, struct sums *sums) {
  const struct population *p = b->population;
  const double epsilon = b->prepared.desc.epsilon;
  /* Below this the float32 rstd holds no digits of the variance: a dead channel, left out. */
  const double dead = epsilon * 1e-3;
  bool shared = (b->prepared.info.reduced_axes & 1) != 0;
  int64_t per_sample = shared ? 0 : b->mean.count / b->size;
  for (int64_t i = 0; i < b->mean.count; i++) {
    int64_t j = shared ? i : b->samples[i / per_sample] * per_sample + i % per_sample;
    double batch_rstd = b->rstd.data[i], whole_rstd = p->rstd.data[j];
    double variance = 1 / (batch_rstd * batch_rstd) - epsilon;
    double whole = 1 / (whole_rstd * whole_rstd) - epsilon;
    if (!(whole > dead)) continue;
    double mean = ((double)b->mean.data[i] - (double)p->mean.data[j]) / sqrt(whole);
    double ratio = variance / whole - 1;
    sums->mean_difference += mean * mean;
    sums->variance_difference += ratio * ratio;
    sums->statistics++;
  }
}

static void add_differences(const float *batch, const float *whole, int64_t count,
                            double *difference, double *square) {
  for (int64_t i = 0; i < count; i++) {
    double d = (double)batch[i] - (double)whole[i];
    *difference += d * d;
    *square += (double)whole[i] * (double)whole[i];
  }
}

static void add_batch(const struct batch *b, struct sums *sums) {
  int64_t sample = b->input->sample;
  add_statistics(b, sums);
  for (int64_t i = 0; i < b->size; i++) {
    int64_t from = b->samples[i] * sample;
    add_differences(b->y.data + i * sample, b->population->y.data + from, sample,
                    &sums->y_difference, &sums->y);
    add_differences(b->grad_x.data + i * sample, b->population->grad_x.data + from, sample,
                    &sums->grad_difference, &sums->grad);
  }
}

static double root_ratio(double part, double whole) {
  return whole > 0 ? sqrt(part / whole) : (double)NAN;
}

/* Whole shuffles of the input, cut into batches, until there are enough; the samples that are left
 * over of a shuffle wait for the next. A batch of all samples is always the same one. */
enum outcome compare_noise(struct compare_row *row, struct batch *b, struct random *random) {
  enum { ENOUGH = 64 };
  int64_t population = b->input->shape.extents[0];
  struct sums sums = {0};
  for (int64_t draws = 0; draws < ENOUGH && (draws == 0 || b->size < population);) {
    shuffle(b->order, population, random);
    for (int64_t first = 0; first + b->size <= population; first += b->size, draws++) {
      b->samples = b->order + first;
      gather(b);
      batch_forward(b);
      if (b->status == AXN_ERROR_TOO_FEW_VALUES) return DONE;
      if (b->status == AXN_OK) batch_backward(b);
      if (b->status != AXN_OK) return prepare_failure(&b->prepared, b->status, &b->error);
      add_batch(b, &sums);
    }
  }
  row->mean_noise = root_ratio(sums.mean_difference, (double)sums.statistics);
  row->variance_noise = root_ratio(sums.variance_difference, (double)sums.statistics);
  row->output_deviation = root_ratio(sums.y_difference, sums.y);
  row->gradient_deviation = root_ratio(sums.grad_difference, sums.grad);
  return DONE;
}
