/* SPDX-License-Identifier: MIT */
/* One norm over the whole input: what every batch is compared with. */
#include "compare.h"

static enum outcome create_tensors(struct population *p, const struct compare_input *input) {
  struct shape statistics = {.rank = 1, .extents = {p->prepared.info.statistics}};
  enum outcome outcome = tensor_create(&p->y, &input->x.shape);
  if (outcome == DONE) outcome = tensor_create(&p->grad_x, &input->x.shape);
  if (outcome == DONE) outcome = tensor_create(&p->mean, &statistics);
  if (outcome == DONE) outcome = tensor_create(&p->rstd, &statistics);
  if (outcome == DONE) outcome = tensor_create(&p->running_variance, &statistics);
  return outcome;
}

static axn_status run(struct population *p, const struct compare_input *input, axn_error *error) {
  axn_training_args forward = axn_training_init();
  forward.x = input->x.data;
  forward.y = p->y.data;
  forward.mean = p->mean.data;
  forward.rstd = p->rstd.data;
  forward.workspace = p->prepared.workspace;
  forward.workspace_size = p->prepared.workspace_size;
  axn_status status = axn_forward_training(p->prepared.plan, &forward, error);
  if (status != AXN_OK) return status;

  axn_backward_args backward = axn_backward_init();
  backward.x = input->x.data;
  backward.grad_y = input->grad_y.data;
  backward.mean = p->mean.data;
  backward.rstd = p->rstd.data;
  backward.grad_x = p->grad_x.data;
  backward.workspace = p->prepared.workspace;
  backward.workspace_size = p->prepared.workspace_size;
  return axn_backward(p->prepared.plan, &backward, error);
}

enum outcome population_create(struct population *p, const struct options *options,
                               const struct compare_input *input, axn_norm norm) {
  *p = (struct population){.usable = false};
  enum outcome outcome = prepare(&p->prepared, options, norm, &input->shape, 0,
                                 AXN_PARAMETERS_PER_CHANNEL, input->shape_source);
  if (outcome == DONE) outcome = create_tensors(p, input);
  if (outcome != DONE) return outcome;
  axn_error error = {AXN_OK, ""};
  axn_status status = run(p, input, &error);
  if (status == AXN_ERROR_TOO_FEW_VALUES) return DONE; /* its rows have no numbers */
  if (status != AXN_OK) return prepare_failure(&p->prepared, status, &error);
  for (int64_t i = 0; i < p->rstd.count; i++) {
    double rstd = p->rstd.data[i], variance = 1 / (rstd * rstd) - options->epsilon;
    p->running_variance.data[i] = variance > 0 ? (float)variance : 0;
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
  prepare_release(&p->prepared);
}
