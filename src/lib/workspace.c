/* SPDX-License-Identifier: MIT */
#include "plan.h"

enum { CACHE_LINE = 64 };

double *axn_workspace_start(void *workspace) {
  const uintptr_t offset = (uintptr_t)workspace % CACHE_LINE;
  return (double *)(void *)((char *)workspace + (offset == 0 ? 0 : CACHE_LINE - offset));
}

size_t axn_workspace_bytes(int64_t doubles) {
  return doubles == 0 ? 0 : (size_t)doubles * sizeof(double) + CACHE_LINE - 1;
}

size_t axn_inference_bytes_with(const axn_plan *plan, bool given) {
  return plan->elements == 0 ? 0 : axn_workspace_bytes(axn_forward_doubles(plan, given));
}

size_t axn_training_bytes(const axn_plan *plan) {
  return axn_inference_bytes_with(plan, false);
}

size_t axn_inference_bytes(const axn_plan *plan) {
  return axn_inference_bytes_with(plan, plan->strategy.inference_needs_running != 0);
}

size_t axn_backward_bytes(const axn_plan *plan) {
  if (plan->elements == 0) return 0;
  const int64_t own = axn_backward_doubles(plan, &plan->own);
  const int64_t given = plan->running > 0 ? axn_backward_doubles(plan, &plan->given) : 0;
  return axn_workspace_bytes(own > given ? own : given);
}
