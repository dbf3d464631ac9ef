/* SPDX-License-Identifier: MIT */
#include "plan.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "cpu.h"
#include "error.h"

/* Room for what is kept per element in the worst case, so that no size in bytes can overflow. */
enum { BYTES_PER_ELEMENT = 256 };

const char *axn_version(void) {
  return AXN_VERSION;
}

static axn_status check_shape(const axn_desc *desc, int64_t *elements, axn_error *error) {
  if (desc->rank < 2 || desc->rank > 5) {
    return axn_fail(error, AXN_ERROR_SHAPE, "rank: %d is not 2 to 5", desc->rank);
  }
  int64_t product = 1;
  for (int k = 0; k < desc->rank; k++) {
    const int64_t extent = desc->shape[k];
    if (extent < (k == 0 ? 0 : 1)) {
      return axn_fail(error, AXN_ERROR_SHAPE, "shape[%d]: %lld is below %d", k, (long long)extent,
                      k == 0 ? 0 : 1);
    }
    /* An empty batch must not hide that its samples are too large. */
    if (extent > 0 && product > PTRDIFF_MAX / BYTES_PER_ELEMENT / extent) {
      return axn_fail(error, AXN_ERROR_OVERFLOW, "shape[%d]: the number of elements overflows", k);
    }
    if (extent > 0) product *= extent;
  }
  *elements = desc->shape[0] == 0 ? 0 : product;
  return AXN_OK;
}

static axn_status check_enums(const axn_desc *desc, axn_error *error) {
  if (desc->dtype != AXN_FLOAT32) {
    return axn_fail(error, AXN_ERROR_OPTION, "dtype: %d is unknown", (int)desc->dtype);
  }
  if (desc->layout != AXN_CHANNELS_FIRST && desc->layout != AXN_CHANNELS_LAST) {
    return axn_fail(error, AXN_ERROR_OPTION, "layout: %d is unknown", (int)desc->layout);
  }
  if (desc->parameters != AXN_PARAMETERS_PER_CHANNEL &&
      desc->parameters != AXN_PARAMETERS_PER_ELEMENT) {
    return axn_fail(error, AXN_ERROR_OPTION, "parameters: %d is unknown", (int)desc->parameters);
  }
  if (desc->running_variance != AXN_RUNNING_VARIANCE_UNBIASED &&
      desc->running_variance != AXN_RUNNING_VARIANCE_BIASED) {
    return axn_fail(error, AXN_ERROR_OPTION, "running_variance: %d is unknown",
                    (int)desc->running_variance);
  }
  return AXN_OK;
}

static axn_status check_numbers(const axn_desc *desc, axn_error *error) {
  if (!(desc->epsilon > 0) || !isfinite(desc->epsilon)) {
    return axn_fail(error, AXN_ERROR_EPSILON, "epsilon: %g is not a finite number above 0",
                    desc->epsilon);
  }
  if (!(desc->momentum >= 0 && desc->momentum <= 1) && desc->momentum != AXN_MOMENTUM_CUMULATIVE) {
    return axn_fail(error, AXN_ERROR_MOMENTUM,
                    "momentum: %g is not 0 to 1, nor AXN_MOMENTUM_CUMULATIVE", desc->momentum);
  }
  return axn_check_threads(desc->threads, error);
}

static axn_status choose_strategy(axn_plan *plan, axn_error *error) {
  const axn_desc *desc = &plan->desc;
  plan->strategy = axn_strategy_of(desc->norm);
  if (plan->strategy == NULL) {
    return axn_fail(error, AXN_ERROR_OPTION, "norm: %d is unknown", (int)desc->norm);
  }
  if (desc->parameters == AXN_PARAMETERS_PER_ELEMENT && !plan->strategy->parameters_per_element) {
    return axn_fail(error, AXN_ERROR_OPTION, "parameters: %s normalization takes them per channel",
                    plan->strategy->name);
  }
  plan->axes = (axn_axes){.split_axis = -1, .split_groups = 1};
  return plan->strategy->select(desc, &plan->axes, error);
}

static void lay_out(axn_plan *plan) {
  axn_desc desc = plan->desc;
  if (desc.shape[0] == 0) desc.shape[0] = 1;
  const axn_runner runner = axn_runner_of(&desc, 0, plan->elements);
  const int64_t threads = axn_runner_width(&runner);
  const axn_axis_list axes = axn_list_axes(&desc, &plan->axes);
  plan->own = axn_geometry_of(&axes, threads, true);
  plan->parameters =
      desc.parameters == AXN_PARAMETERS_PER_CHANNEL ? desc.shape[1] : plan->own.partition.values;
  const bool samples_reduced = (plan->axes.reduced & 1) != 0;
  if (plan->elements == 0 && samples_reduced && desc.parameters == AXN_PARAMETERS_PER_ELEMENT) {
    plan->parameters = 0;
  }
  if (plan->own.lines.form == AXN_FORM_WEIGHTED) plan->columns = axn_parameter_geometry(&axes);
  plan->bands = axn_bands_of(plan);
  if (!plan->strategy->running_statistics) return;
  const axn_axis_list per_channel = axn_cell_per_parameter(&axes);
  plan->given = axn_geometry_of(&per_channel, threads, false);
  plan->running = plan->given.partition.cells;
}

static axn_status fill_plan(axn_plan *plan, axn_error *error) {
  axn_status status = check_enums(&plan->desc, error);
  if (status == AXN_OK) status = check_shape(&plan->desc, &plan->elements, error);
  if (status == AXN_OK) status = check_numbers(&plan->desc, error);
  if (status == AXN_OK) status = choose_strategy(plan, error);
  if (status == AXN_OK) {
    status = axn_choose_isa(plan->desc.isa, &plan->isa, &plan->kernels, error);
  }
  if (status != AXN_OK) return status;
  plan->cache_bytes = axn_shared_cache_bytes();
  lay_out(plan);
  return AXN_OK;
}

axn_status axn_plan_create(axn_plan **plan, const axn_desc *desc, axn_error *error) {
  axn_plan filled = {.elements = 0};
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  *plan = NULL;
  axn_status status =
      axn_read_struct(&filled.desc, sizeof filled.desc, sizeof filled.desc, desc, "desc", error);
  if (status == AXN_OK) status = fill_plan(&filled, error);
  if (status != AXN_OK) return status;
  *plan = malloc(sizeof **plan);
  if (*plan == NULL) return axn_fail(error, AXN_ERROR_MEMORY, "plan: out of memory");
  **plan = filled;
  return axn_succeed(error);
}

void axn_plan_destroy(axn_plan *plan) {
  free(plan);
}

int64_t axn_statistics(const axn_plan *plan) {
  const bool one_per_sample = (plan->axes.reduced & 1) == 0;
  return plan->elements == 0 && one_per_sample ? 0 : plan->own.partition.cells;
}

bool axn_split_units(const axn_runner *runner, const axn_partition *partition, int64_t pieces) {
  const int64_t width = axn_runner_width(runner);
  if (width == 1 || pieces == 1) return false;
  return partition->units < 4 * width && partition->units % width != 0;
}

bool axn_streams_output(const axn_plan *plan, int tensors, bool in_place) {
  return !in_place && plan->elements > plan->cache_bytes / (tensors * (int)sizeof(float));
}

axn_status axn_plan_describe(const axn_plan *plan, axn_plan_info *info, axn_error *error) {
  axn_plan_info filled;
  if (plan == NULL) return axn_fail(error, AXN_ERROR_NULL, "plan: is null");
  const axn_status status =
      axn_read_struct(&filled, sizeof filled, sizeof filled, info, "info", error);
  if (status != AXN_OK) return status;
  const axn_runner runner = axn_runner_of(&plan->desc, 0, plan->elements);
  const axn_nest *sums = &plan->own.sums;
  const int64_t task = sums->block_rows * sums->block_length * sums->block_lines * sums->fold;
  const size_t stated = filled.struct_size;
  filled = (axn_plan_info){
      .struct_size = stated,
      .elements = plan->elements,
      .statistics = axn_statistics(plan),
      .values_per_statistic = plan->elements == 0 ? 0 : plan->own.partition.values,
      .parameters = plan->parameters,
      .running_statistics = plan->running,
      .values_per_task = plan->elements == 0 ? 0 : task,
      .reduced_axes = plan->axes.reduced,
      .split_axis = plan->axes.split_axis,
      .split_groups = plan->axes.split_groups,
      .isa = plan->isa,
      .threads = runner.threads,
      .training_workspace = axn_training_bytes(plan),
      .inference_workspace = axn_inference_bytes(plan),
      .backward_workspace = axn_backward_bytes(plan),
  };
  *info = filled;
  return axn_succeed(error);
}
