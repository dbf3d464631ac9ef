/* SPDX-License-Identifier: MIT */
/* Batches drawn from the input, and how their results differ from the population's. */
#include "compare.h"
#include "passes.h"
#include "progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A ghost batch keeps its size as the batch grows, as in training. */
int64_t compare_ghost_batch(const struct options *options, int64_t batch) {
  enum { USUAL = 8 };
  return prepare_divisor(batch, options->ghost_batch != 0 ? options->ghost_batch : USUAL);
}

enum outcome batch_create(struct batch *b, const struct compare_input *input,
                          const struct population *population, const struct options *options,
                          axn_norm norm, int64_t size) {
  *b = (struct batch){.input = input, .population = population, .size = size};
  struct shape shape = input->shape, data = input->x.shape;
  shape.extents[0] = data.extents[0] = size;
  struct wanted wanted = {.norm = norm,
                          .shape = shape,
                          .dtype = input->x.dtype,
                          .ghost_batch = compare_ghost_batch(options, size),
                          .source = {input->shape_source, 0}};
  enum outcome outcome = prepare(&b->prepared, options, &wanted);
  if (outcome == DONE) outcome = prepare_workspace(&b->prepared);
  if (outcome == DONE) outcome = moments_create(&b->moments, &b->prepared);
  if (outcome != DONE) return outcome;
  struct shape statistics = {.rank = 1, .extents = {b->prepared.info.statistics}};
  struct tensor *const data_tensors[] = {&b->x, &b->y, &b->grad_y, &b->grad_x};
  axn_dtype dtype = input->x.dtype, real = tensor_statistics_dtype(dtype);
  for (int i = 0; i < 4 && outcome == DONE; i++)
    outcome = tensor_create(data_tensors[i], &data, dtype);
  if (outcome == DONE) outcome = tensor_create(&b->mean, &statistics, real);
  if (outcome == DONE) outcome = tensor_create(&b->rstd, &statistics, real);
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
  moments_release(&b->moments);
  prepare_release(&b->prepared);
}

static struct pass_data data_of(const struct batch *b) {
  return (struct pass_data){.x = b->x.data,
                            .y = b->y.data,
                            .grad_y = b->grad_y.data,
                            .grad_x = b->grad_x.data,
                            .mean = b->mean.data,
                            .rstd = b->rstd.data};
}

void batch_forward(void *context) {
  struct batch *b = context;
  struct pass_data data = data_of(b);
  b->status = pass_training(&b->prepared, &data, &b->error);
}

/* With the population's statistics where the batch's own would mix samples; else from x. */
void batch_inference(void *context) {
  struct batch *b = context;
  struct pass_data data = data_of(b);
  if (prepare_needs_running(&b->prepared)) {
    data.running_mean = b->population->mean.data;
    data.running_variance = b->population->running_variance.data;
  }
  b->status = pass_inference(&b->prepared, &data, &b->error);
}

void batch_backward(void *context) {
  struct batch *b = context;
  struct pass_data data = data_of(b);
  b->status = pass_backward(&b->prepared, &data, &b->error);
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

static void copy_sample(const struct tensor *from, int64_t sample, struct tensor *to, int64_t place,
                        size_t bytes) {
  memcpy((char *)to->data + (size_t)place * bytes,
         (const char *)from->data + (size_t)sample * bytes, bytes);
}

static void gather(struct batch *b) {
  size_t bytes = (size_t)b->input->sample * axn_dtype_size(b->x.dtype);
  for (int64_t i = 0; i < b->size; i++) {
    copy_sample(&b->input->x, b->samples[i], &b->x, i, bytes);
    copy_sample(&b->input->grad_y, b->samples[i], &b->grad_y, i, bytes);
  }
}

/* A statistic stands for the same one over the whole input: the same index where samples share it
 * (within its ghost batch), else the one of the same sample. Without a variance there is no scale to
 * measure by: left out. */
static void add_statistics(struct batch *b, struct sums *sums) {
  const struct moments *batch = &b->moments, *whole = &b->population->moments;
  bool shared = prepare_shares_samples(&b->prepared);
  int64_t per_sample = shared ? 0 : batch->count / b->size;
  moments_compute(&b->moments, &b->prepared, &b->x);
  for (int64_t i = 0; i < batch->count; i++) {
    int64_t j =
        shared ? i % whole->count : b->samples[i / per_sample] * per_sample + i % per_sample;
    if (!(whole->variance[j] > 0)) continue;
    double mean = (batch->mean[i] - whole->mean[j]) / sqrt(whole->variance[j]);
    double ratio = batch->variance[i] / whole->variance[j] - 1;
    sums->mean_difference += mean * mean;
    sums->variance_difference += ratio * ratio;
    sums->statistics++;
  }
}

/* Of one sample: the place it has in the batch, and in the population. */
static void add_differences(const struct tensor *batch, int64_t place, const struct tensor *whole,
                            int64_t sample, int64_t count, double *difference, double *square) {
  for (int64_t i = 0; i < count; i++) {
    double due = tensor_get(whole, sample * count + i);
    double d = tensor_get(batch, place * count + i) - due;
    *difference += d * d;
    *square += due * due;
  }
}

static void add_batch(struct batch *b, struct sums *sums) {
  int64_t sample = b->input->sample;
  add_statistics(b, sums);
  for (int64_t i = 0; i < b->size; i++) {
    add_differences(&b->y, i, &b->population->y, b->samples[i], sample, &sums->y_difference,
                    &sums->y);
    add_differences(&b->grad_x, i, &b->population->grad_x, b->samples[i], sample,
                    &sums->grad_difference, &sums->grad);
  }
}

/* Nothing of nothing is 0 where it could not be otherwise, and unknown where samples are shared. */
static double root_ratio(double part, double whole, bool shared) {
  if (whole > 0) return sqrt(part / whole);
  return !shared && part == 0 && whole == 0 ? 0 : (double)NAN;
}

/* A batch of all samples is always the same one, in whatever order, unless it is cut. */
static bool never_changes(const struct batch *b) {
  const axn_plan_info *info = &b->prepared.info;
  bool cut = info->split_axis == 0 && info->split_groups > 1;
  return b->size == b->input->shape.extents[0] && !cut;
}

/* Whole shuffles of the input, cut into batches, until there are enough; the samples that are left
 * over of a shuffle wait for the next. */
enum outcome compare_noise(struct compare_row *row, struct batch *b, struct random *random) {
  enum { ENOUGH = 64 };
  int64_t population = b->input->shape.extents[0];
  struct sums sums = {0};
  for (int64_t draws = 0; draws < ENOUGH && (draws == 0 || !never_changes(b));) {
    shuffle(b->order, population, random);
    for (int64_t first = 0; first + b->size <= population; first += b->size, draws++) {
      b->samples = b->order + first;
      gather(b);
      batch_forward(b);
      if (b->status == AXN_ERROR_TOO_FEW_VALUES) return DONE;
      if (b->status == AXN_OK) batch_backward(b);
      if (b->status != AXN_OK) return prepare_failure(&b->prepared, b->status, &b->error);
      add_batch(b, &sums);
      progress_within(draws, ENOUGH);
    }
  }
  bool shared = prepare_shares_samples(&b->prepared);
  row->mean_noise = root_ratio(sums.mean_difference, (double)sums.statistics, shared);
  row->variance_noise = root_ratio(sums.variance_difference, (double)sums.statistics, shared);
  row->output_deviation = root_ratio(sums.y_difference, sums.y, shared);
  row->gradient_deviation = root_ratio(sums.grad_difference, sums.grad, shared);
  return DONE;
}
