/* SPDX-License-Identifier: MIT */
#include "plan.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "cpu.h"
#include "error.h"

/* Room for what is kept per element in the worst case, so that no size in bytes can overflow. */
enum { BYTES_PER_ELEMENT = 256 };

#define TEXT(number) #number
#define VERSION(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *axn_version(void) {
  return VERSION(AXN_VERSION_MAJOR, AXN_VERSION_MINOR, AXN_VERSION_PATCH);
}

size_t axn_dtype_size(axn_dtype dtype) {
  static const size_t sizes[] = {
      [AXN_FLOAT32] = 4, [AXN_FLOAT64] = 8, [AXN_BFLOAT16] = 2, [AXN_FLOAT16] = 2};
  return (size_t)dtype < sizeof sizes / sizeof *sizes ? sizes[dtype] : 0;
}

const char *axn_dtype_name(axn_dtype dtype) {
  static const char *const names[] = {
      [AXN_FLOAT32] = "f32", [AXN_FLOAT64] = "f64", [AXN_BFLOAT16] = "bf16", [AXN_FLOAT16] = "f16"};
  return (size_t)dtype < sizeof names / sizeof *names ? names[dtype] : NULL;
}

const char *axn_activation_name(axn_activation activation) {
  static const char *const names[] = {[AXN_ACTIVATION_NONE] = "none",
                                      [AXN_ACTIVATION_RELU] = "relu",
                                      [AXN_ACTIVATION_LEAKY_RELU] = "leaky-relu",
                                      [AXN_ACTIVATION_SILU] = "silu",
                                      [AXN_ACTIVATION_GELU] = "gelu",
                                      [AXN_ACTIVATION_GELU_TANH] = "gelu-tanh"};
  return (size_t)activation < sizeof names / sizeof *names ? names[activation] : NULL;
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

static axn_status read_views(axn_plan *plan, axn_error *error) {
  const int64_t most = PTRDIFF_MAX / BYTES_PER_ELEMENT;
  axn_desc *desc = &plan->desc;
  const axn_status status =
      axn_read_view(desc, desc->x_strides, "x_strides", most, &plan->views[AXN_SIDE_X], error);
  if (status != AXN_OK) return status;
  return axn_read_view(desc, desc->y_strides, "y_strides", most, &plan->views[AXN_SIDE_Y], error);
}

static axn_status check_enums(const axn_desc *desc, axn_error *error) {
  if (axn_dtype_size(desc->dtype) == 0) {
    return axn_fail(error, AXN_ERROR_OPTION, "dtype: %d is unknown", (int)desc->dtype);
  }
  if (desc->parameter_dtype != 0 && desc->parameter_dtype != desc->dtype &&
      desc->parameter_dtype != AXN_FLOAT32) {
    return axn_fail(error, AXN_ERROR_OPTION, "parameter_dtype: %d is neither dtype nor float32",
                    (int)desc->parameter_dtype);
  }
  if (desc->layout != AXN_CHANNELS_FIRST && desc->layout != AXN_CHANNELS_LAST) {
    return axn_fail(error, AXN_ERROR_OPTION, "layout: %d is unknown", (int)desc->layout);
  }
  if (axn_activation_name(desc->activation) == NULL) {
    return axn_fail(error, AXN_ERROR_OPTION, "activation: %d is unknown", (int)desc->activation);
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
  if (desc->cold_outputs != 0 && desc->cold_outputs != 1) {
    return axn_fail(error, AXN_ERROR_OPTION, "cold_outputs: %d is neither 0 nor 1",
                    desc->cold_outputs);
  }
  return AXN_OK;
}

static axn_status check_numbers(const axn_desc *desc, axn_error *error) {
  const bool wide = desc->dtype == AXN_FLOAT64;
  const double slope = wide ? desc->negative_slope : (double)(float)desc->negative_slope;
  if (desc->activation == AXN_ACTIVATION_LEAKY_RELU && !isfinite(slope)) {
    return axn_fail(error, AXN_ERROR_OPTION, "negative_slope: %g is not a finite %s",
                    desc->negative_slope, wide ? "double" : "float");
  }
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

/* Of scale and of shift; an empty batch whose samples are normalized too has none per element. */
static int64_t parameters_of(const axn_plan *plan, int64_t split_groups) {
  if (plan->desc.parameters == AXN_PARAMETERS_PER_CHANNEL) return plan->desc.shape[1];
  if (plan->elements == 0 && (plan->axes.reduced & 1) != 0) return 0;
  return plan->own.partition.values * split_groups;
}

/* Tensors that exceed it leave nothing in cache for whoever comes next; where outputs are cold, those that exceed what
 * the threads have for themselves. */
static int64_t cache_bytes_for(const axn_desc *desc, int64_t threads) {
  const int64_t shared = axn_shared_cache_bytes();
  return desc->cold_outputs ? axn_smaller(axn_private_cache_bytes() * threads, shared) : shared;
}

static void lay_out(axn_plan *plan) {
  axn_desc desc = plan->desc;
  if (desc.shape[0] == 0) desc.shape[0] = 1;
  const axn_runner runner = axn_runner_of(&desc, 0, plan->elements);
  const int64_t threads = axn_runner_width(&runner);
  plan->cache_bytes = cache_bytes_for(&desc, threads);
  axn_axes selected = plan->axes;
  if (plan->desc.shape[0] == 0 && selected.split_axis == 0) selected.split_groups = 1;
  const axn_axis_list axes = axn_list_axes(&desc, &selected);
  plan->own = axn_geometry_of(&axes, threads, true);
  plan->parameters = parameters_of(plan, selected.split_groups);
  if (plan->own.lines.weighted) {
    plan->by_parameter = plan->own.lines.form == AXN_FORM_WEIGHTED
                             ? axn_parameter_geometry(&axes)
                             : axn_row_parameter_geometry(&axes);
  }
  plan->bands = axn_bands_of(plan);
  if (plan->strategy.running == AXN_RUNNING_NONE) return;
  const axn_axis_list per_channel = axn_cell_per_parameter(&axes);
  plan->given = axn_geometry_of(&per_channel, threads, false);
  plan->running = plan->given.partition.cells;
}

static const axn_wide_kernels *wide_kernels_of(axn_dtype dtype) {
  return dtype == AXN_FLOAT64    ? &axn_wide_float64
         : dtype == AXN_BFLOAT16 ? &axn_wide_bfloat16
         : dtype == AXN_FLOAT16  ? &axn_wide_float16
                                 : &axn_wide_float32;
}

/* Of float64, all that works on elements is the same on every instruction set; what is used of the others
 * knows statistics alone. */
static void choose_kernels(axn_plan *plan, const axn_kernel_set *set) {
  const axn_dtype dtype = plan->desc.dtype, given = plan->desc.parameter_dtype;
  plan->element_size = axn_dtype_size(dtype);
  plan->doubles = dtype == AXN_FLOAT64;
  plan->kernels = dtype == AXN_BFLOAT16  ? set->bfloat16
                  : dtype == AXN_FLOAT16 ? set->float16
                                         : set->float32;
  plan->moments = plan->doubles ? axn_float64_moments : plan->kernels->moments;
  plan->wide = wide_kernels_of(dtype);
  plan->parameter_kernels = wide_kernels_of(given != 0 ? given : dtype);
}

static axn_status fill_plan(axn_plan *plan, axn_error *error) {
  const axn_kernel_set *kernels = NULL;
  axn_status status = check_enums(&plan->desc, error);
  if (status == AXN_OK) status = check_shape(&plan->desc, &plan->elements, error);
  if (status == AXN_OK) status = read_views(plan, error);
  if (status == AXN_OK) status = check_numbers(&plan->desc, error);
  if (status == AXN_OK) status = axn_select(&plan->strategy, &plan->desc, &plan->axes, error);
  if (status == AXN_OK) {
    status = axn_choose_isa(plan->desc.isa, &plan->isa, &kernels, error);
  }
  if (status != AXN_OK) return status;
  choose_kernels(plan, kernels);
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
  const bool one_per_sample = (plan->axes.reduced & 1) == 0 || plan->axes.split_axis == 0;
  return plan->elements == 0 && one_per_sample ? 0 : plan->own.partition.cells;
}

bool axn_split_units(const axn_runner *runner, const axn_partition *partition, int64_t pieces) {
  const int64_t width = axn_runner_width(runner);
  if (width == 1 || pieces == 1) return false;
  return (partition->abreast && !partition->whole) ||
         (partition->units < 4 * width && partition->units % width != 0);
}

bool axn_streams_output(const axn_plan *plan, int tensors, bool in_place) {
  return !in_place && plan->elements > plan->cache_bytes / (tensors * (int64_t)plan->element_size);
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
      .x_span = plan->elements == 0 ? 0 : plan->views[AXN_SIDE_X].span,
      .y_span = plan->elements == 0 ? 0 : plan->views[AXN_SIDE_Y].span,
  };
  *info = filled;
  return axn_succeed(error);
}
