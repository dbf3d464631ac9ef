/* SPDX-License-Identifier: MIT */
/* The parts of axisnorm compare. */
#ifndef AXISNORM_COMPARE_H
#define AXISNORM_COMPARE_H

#include "compare_moments.h"
#include "prepare.h"
#include "random.h"

/* A row of the result: one norm at one batch size. Numbers that are not defined are NaN. */
struct compare_row {
  const char *norm, *activation;
  int64_t groups, batch, ghost_batch, values_per_statistic, statistics;
  double mean_noise, variance_noise, output_deviation, gradient_deviation;
  double forward_seconds, inference_seconds, backward_seconds, copy_seconds;
  double forward_ratio, inference_ratio, backward_ratio; /* medians of round-by-round ratios */
};

/* The input: whose samples are the population that batches are drawn from. */
struct compare_input {
  struct tensor x;
  struct tensor grad_y; /* the one upstream gradient, for the whole input */
  struct shape shape;   /* N, C, spatial */
  int64_t sample;       /* elements of one sample; samples lie one after the other */
  const char *source;
  const char *shape_source; /* for messages */
};

/* One norm over the whole input; ghost as a single batch. `usable` is false where a statistic has a single value. */
struct population {
  struct prepared prepared;
  struct tensor y, grad_x, mean, rstd, running_variance;
  struct moments moments;
  bool usable;
};

enum outcome population_create(struct population *population, const struct options *options,
                               const struct compare_input *input, axn_norm norm);
void population_release(struct population *population);

/* Measures one row. */
enum outcome compare_measure(struct compare_row *row, const struct population *population,
                             const struct options *options, const struct compare_input *input,
                             axn_norm norm, int64_t batch);

/* The ghost batch of a batch: what was asked for, or the largest divisor of the batch below it. */
int64_t compare_ghost_batch(const struct options *options, int64_t batch);

/* One batch of samples, and everything that runs on it. */
struct batch {
  const struct compare_input *input;
  const struct population *population;
  struct prepared prepared;
  int64_t size;
  int64_t *order, *samples; /* a shuffle of the input's samples; where in it this batch lies */
  struct tensor x, y, grad_y, grad_x, mean, rstd;
  struct moments moments;
  axn_status status; /* of the last run */
  axn_error error;
};

enum outcome batch_create(struct batch *batch, const struct compare_input *input,
                          const struct population *population, const struct options *options,
                          axn_norm norm, int64_t size);
void batch_release(struct batch *batch);

/* The runs, as work that can be timed: the context is a struct batch. */
void batch_forward(void *context);
void batch_inference(void *context);
void batch_backward(void *context);

/* Draws batches and compares each with the population: the four measures of noise. Shows progress
 * within the step at hand. */
enum outcome compare_noise(struct compare_row *row, struct batch *batch, struct random *random);

#endif
