/* SPDX-License-Identifier: MIT */
#include "strategy.h"

#include "error.h"

enum { AXIS_N = 0, AXIS_C = 1, AXIS_SPATIAL = 2 };

/* Axes from `first` to the last of the tensor. */
static uint32_t axes_from(const axn_desc *desc, int first) {
  return (UINT32_C(1) << desc->rank) - (UINT32_C(1) << first);
}

/* Ioffe & Szegedy 2015, algorithm 1, and section 3.2 for feature maps. */
static axn_status select_batch(const axn_desc *desc, axn_axes *axes, axn_error *error) {
  (void)error;
  axes->reduced = axes_from(desc, AXIS_SPATIAL) | UINT32_C(1) << AXIS_N;
  return AXN_OK;
}

/* Ba, Kiros & Hinton 2016, equation 3. */
static axn_status select_layer(const axn_desc *desc, axn_axes *axes, axn_error *error) {
  const int first = desc->axis < 0 ? desc->axis + desc->rank : desc->axis;
  if (first < 0 || first >= desc->rank) {
    return axn_fail(error, AXN_ERROR_AXIS, "axis: %d is out of range for rank %d", desc->axis,
                    desc->rank);
  }
  axes->reduced = axes_from(desc, first);
  return AXN_OK;
}

/* Ulyanov, Vedaldi & Lempitsky 2016. */
static axn_status select_instance(const axn_desc *desc, axn_axes *axes, axn_error *error) {
  (void)error;
  axes->reduced = axes_from(desc, AXIS_SPATIAL);
  return AXN_OK;
}

/* Wu & He 2018, equation 7. */
static axn_status select_group(const axn_desc *desc, axn_axes *axes, axn_error *error) {
  const int64_t channels = desc->shape[AXIS_C];
  if (desc->groups < 1 || channels % desc->groups != 0) {
    return axn_fail(error, AXN_ERROR_GROUPS, "groups: %lld does not divide the %lld channels",
                    (long long)desc->groups, (long long)channels);
  }
  axes->reduced = axes_from(desc, AXIS_C);
  axes->split_axis = AXIS_C;
  axes->split_groups = desc->groups;
  return AXN_OK;
}

static const axn_strategy strategies[] = {
    [AXN_BATCH_NORM] = {.name = "batch",
                        .select = select_batch,
                        .running_statistics = true,
                        .inference_needs_running = true,
                        .training_needs_values = true},
    [AXN_LAYER_NORM] = {.name = "layer", .select = select_layer, .parameters_per_element = true},
    [AXN_INSTANCE_NORM] = {.name = "instance",
                           .select = select_instance,
                           .running_statistics = true,
                           .training_needs_values = true},
    [AXN_GROUP_NORM] = {.name = "group", .select = select_group},
};

const axn_strategy *axn_strategy_of(axn_norm norm) {
  const size_t count = sizeof strategies / sizeof *strategies;
  return (size_t)norm < count && strategies[norm].name != NULL ? &strategies[norm] : NULL;
}

const char *axn_norm_name(axn_norm norm) {
  const axn_strategy *strategy = axn_strategy_of(norm);
  return strategy != NULL ? strategy->name : NULL;
}
