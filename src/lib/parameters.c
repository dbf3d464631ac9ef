/* SPDX-License-Identifier: MIT */
/* Scale and shift, read and written in the type that the caller keeps them in. */
#include "plan.h"
#include "real.h"

static bool are_reals(const axn_plan *plan) {
  return plan->parameter_kernels == (plan->doubles ? &axn_wide_float64 : &axn_wide_float32);
}

size_t axn_parameter_size(const axn_plan *plan) {
  const axn_dtype given = plan->desc.parameter_dtype;
  return axn_dtype_size(given != 0 ? given : plan->desc.dtype);
}

int64_t axn_parameter_doubles(const axn_plan *plan) {
  return are_reals(plan) ? 0 : axn_padded(plan->parameters);
}

const void *axn_read_parameters(const axn_plan *plan, const void *parameters, double *room) {
  if (parameters == NULL || are_reals(plan)) return parameters;
  for (int64_t p = 0; p < plan->parameters; p++) {
    axn_set_real(room, p, plan->parameter_kernels->load(parameters, p), plan->doubles);
  }
  return room;
}
