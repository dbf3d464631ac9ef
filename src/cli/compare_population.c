/* SPDX-License-Identifier: MIT */
/* One norm over the whole input: what every batch is compared with. */
#include "compare.h"
#include "passes.h"

static enum outcome create_tensors(struct population *p, const struct compare_input *input) {
  struct shape statistics = {.rank = 1, .extents = {p->prepared.info.statistics}};
  axn_dtype dtype = input->x.dtype, real = tensor_statistics_dtype(dtype);
  enum outcome outcome = tensor_create(&p->y, &input->x.shape, dtype);
  if (outcome == DONE) outcome = tensor_create(&p->grad_x, &input->x.shape, dtype);
  if (outcome == DONE) outcome = tensor_create(&p->mean, &statistics, real);
  if (outcome == DONE) outcome = tensor_create(&p->rstd, &statistics, real);
  if (outcome == DONE) outcome = tensor_create(&p->running_variance, &statistics, real);
  return outcome;
}

static axn_status run(struct population *p, const struct compare_input *input, axn_error *error) {
  const struct pass_data data = {.x = input->x.data,
                                 .grad_y = input->grad_y.data,
                                 .y = p->y.data,
                                 .grad_x = p->grad_x.data,
                                 .mean = p->mean.data,
                                 .rstd = p->rstd.data};
  axn_status status = pass_training(&p->prepared, &data, error);
  return status == AXN_OK ? pass_backward(&p->prepared, &data, error) : status;
}

enum outcome population_create(struct population *p, const struct options *options,
                               const struct compare_input *input, axn_norm norm) {
  *p = (struct population){.usable = false};
  struct wanted wanted = {.norm = norm,
                          .shape = input->shape,
                          .dtype = input->x.dtype,
                          .ghost_batch = input->shape.extents[0],
                          .source = {input->shape_source, 0}};
  enum outcome outcome = prepare(&p->prepared, options, &wanted);
  if (outcome == DONE) outcome = prepare_workspace(&p->prepared);
  if (outcome == DONE) outcome = create_tensors(p, input);
  if (outcome == DONE) outcome = moments_create(&p->moments, &p->prepared);
  if (outcome != DONE) return outcome;
  axn_error error = {AXN_OK, ""};
  axn_status status = run(p, input, &error);
  if (status == AXN_ERROR_TOO_FEW_VALUES) return DONE; /* its rows have no numbers */
  if (status != AXN_OK) return prepare_failure(&p->prepared, status, &error);
  moments_compute(&p->moments, &p->prepared, &input->x);
  for (int64_t i = 0; i < p->moments.count; i++) {
    double variance = p->moments.variance[i];
    tensor_set(&p->running_variance, i, variance > 0 ? variance : 0);
  }
  p->usable = true;
  return DONE;
}

void population_release(struct population *p) {
  tensor_release(&p->y);
  tensor_release(&p->grad_x);
  tensor_release(&p->mean);
  tensor_release(&p->rstd);
  tensor_release(&p->running_variance);
  moments_release(&p->moments);
  prepare_release(&p->prepared);
}
