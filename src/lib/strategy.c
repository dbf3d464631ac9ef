/* SPDX-License-Identifier: MIT */
#include "strategy.h"

#include "check.h"
#include "error.h"

enum { AXIS_N = 0, AXIS_C = 1, AXIS_SPATIAL = 2 };

/* Axes from `first` to the last of the tensor. */
static uint32_t axes_from(const axn_desc *desc, int first) {
  return (UINT32_C(1) << desc->rank) - (UINT32_C(1) << first);
}

/* Ioffe & Szegedy 2015, algorithm 1, and section 3.2 for feature maps. */
static axn_status select_batch(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  (void)self;
  (void)error;
  axes->reduced = axes_from(desc, AXIS_SPATIAL) | UINT32_C(1) << AXIS_N;
  return AXN_OK;
}

/* Ba, Kiros & Hinton 2016, equation 3. */
static axn_status select_layer(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  (void)self;
  const int first = desc->axis < 0 ? desc->axis + desc->rank : desc->axis;
  if (first < 0 || first >= desc->rank) {
    return axn_fail(error, AXN_ERROR_AXIS, "axis: %d is out of range for rank %d", desc->axis,
                    desc->rank);
  }
  axes->reduced = axes_from(desc, first);
  return AXN_OK;
}

/* Ulyanov, Vedaldi & Lempitsky 2016. */
static axn_status select_instance(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                                  axn_error *error) {
  (void)self;
  (void)error;
  axes->reduced = axes_from(desc, AXIS_SPATIAL);
  return AXN_OK;
}

/* Wu & He 2018, equation 7. */
static axn_status select_group(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  (void)self;
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

/* Li, Wu, Weinberger & Belongie 2019. */
static axn_status select_positional(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                                    axn_error *error) {
  (void)self;
  (void)desc;
  (void)error;
  axes->reduced = UINT32_C(1) << AXIS_C;
  return AXN_OK;
}

/* Hoffer, Hubara & Soudry 2017. */
static axn_status select_ghost(const axn_strategy *self, const axn_desc *desc, axn_axes *axes,
                               axn_error *error) {
  const int64_t samples = desc->shape[AXIS_N];
  const axn_status status = select_batch(self, desc, axes, error);
  if (desc->ghost_batch < 1 || samples % desc->ghost_batch != 0) {
    return axn_fail(error, AXN_ERROR_GROUPS, "ghost_batch: %lld does not divide the %lld samples",
                    (long long)desc->ghost_batch, (long long)samples);
  }
  axes->split_axis = AXIS_N;
  axes->split_groups = samples > 0 ? samples / desc->ghost_batch : 1;
  return status;
}

static const axn_strategy strategies[] = {
    [AXN_BATCH_NORM] = {.name = "batch",
                        .select = select_batch,
                        .running = AXN_RUNNING_AVERAGED,
                        .inference_needs_running = 1,
                        .training_needs_values = 1},
    [AXN_LAYER_NORM] = {.name = "layer", .select = select_layer, .parameters_per_element = 1},
    [AXN_INSTANCE_NORM] = {.name = "instance",
                           .select = select_instance,
                           .running = AXN_RUNNING_AVERAGED,
                           .training_needs_values = 1},
    [AXN_GROUP_NORM] = {.name = "group", .select = select_group},
    /* Zhang & Sennrich 2019. */
    [AXN_RMS_NORM] = {.name = "rms",
                      .select = select_layer,
                      .second_moment = 1,
                      .parameters_per_element = 1},
    [AXN_POSITIONAL_NORM] = {.name = "positional", .select = select_positional},
    [AXN_GHOST_BATCH_NORM] = {.name = "ghost",
                              .select = select_ghost,
                              .running = AXN_RUNNING_IN_TURN,
                              .inference_needs_running = 1,
                              .training_needs_values = 1},
};

static const axn_strategy *built_in(axn_norm norm) {
  const size_t count = sizeof strategies / sizeof *strategies;
  return (size_t)norm < count && strategies[norm].name != NULL ? &strategies[norm] : NULL;
}

const char *axn_norm_name(axn_norm norm) {
  const axn_strategy *strategy = built_in(norm);
  return strategy != NULL ? strategy->name : NULL;
}

static axn_status read_strategy(axn_strategy *strategy, const axn_desc *desc, axn_error *error) {
  if (desc->strategy == NULL) {
    const axn_strategy *known = built_in(desc->norm);
    if (known == NULL) {
      return axn_fail(error, AXN_ERROR_OPTION, "norm: %d is unknown", (int)desc->norm);
    }
    *strategy = *known;
    return AXN_OK;
  }
  const axn_status status = axn_read_struct(strategy, sizeof *strategy, sizeof *strategy,
                                            desc->strategy, "strategy", error);
  if (status != AXN_OK) return status;
  if (strategy->name == NULL || strategy->select == NULL) {
    return axn_fail(error, AXN_ERROR_STRATEGY, "strategy: has no %s",
                    strategy->name == NULL ? "name" : "function");
  }
  if (strategy->running < AXN_RUNNING_NONE || strategy->running > AXN_RUNNING_IN_TURN) {
    return axn_fail(error, AXN_ERROR_STRATEGY, "strategy: %s: running: %d is unknown",
                    strategy->name, (int)strategy->running);
  }
  return AXN_OK;
}

/* Running statistics are per channel: the statistics of a channel must be all that there is between one
 * value of C and the next. */
static bool ends_with_channels(const axn_desc *desc, const axn_axes *axes) {
  if ((axes->reduced >> AXIS_C & 1) != 0) return false;
  if (desc->layout == AXN_CHANNELS_LAST) return true;
  return (axes->split_axis < AXIS_SPATIAL || axes->split_groups == 1) &&
         (axes->reduced & axes_from(desc, AXIS_SPATIAL)) == axes_from(desc, AXIS_SPATIAL);
}

/* What a function outside the library may have got wrong. */
static axn_status check_axes(const axn_strategy *strategy, const axn_desc *desc,
                             const axn_axes *axes, axn_error *error) {
  const char *name = strategy->name;
  if (axes->reduced > axes_from(desc, 0)) {
    return axn_fail(error, AXN_ERROR_STRATEGY, "strategy: %s: axes 0x%x reduced, of rank %d", name,
                    (unsigned)axes->reduced, desc->rank);
  }
  if (axes->split_axis >= 0) {
    const int axis = axes->split_axis;
    const bool reduced = axis < desc->rank && (axes->reduced >> axis & 1) != 0;
    if (!reduced || axes->split_groups < 1 || desc->shape[axis] % axes->split_groups != 0) {
      return axn_fail(error, AXN_ERROR_STRATEGY,
                      "strategy: %s: axis %d cannot be split into %lld groups", name, axis,
                      (long long)axes->split_groups);
    }
  } else if (axes->split_axis != -1 || axes->split_groups != 1) {
    return axn_fail(error, AXN_ERROR_STRATEGY, "strategy: %s: split_axis %d, %lld groups", name,
                    axes->split_axis, (long long)axes->split_groups);
  }
  if (strategy->running != AXN_RUNNING_NONE && !ends_with_channels(desc, axes)) {
    return axn_fail(error, AXN_ERROR_STRATEGY,
                    "strategy: %s: running statistics of channels that it does not keep last",
                    name);
  }
  if (strategy->running != AXN_RUNNING_NONE && strategy->second_moment != 0) {
    return axn_fail(error, AXN_ERROR_STRATEGY, "strategy: %s: running statistics without means",
                    name);
  }
  return AXN_OK;
}

axn_status axn_select(axn_strategy *strategy, const axn_desc *desc, axn_axes *axes,
                      axn_error *error) {
  axn_status status = read_strategy(strategy, desc, error);
  if (status != AXN_OK) return status;
  if (desc->parameters == AXN_PARAMETERS_PER_ELEMENT && strategy->parameters_per_element == 0) {
    return axn_fail(error, AXN_ERROR_OPTION, "parameters: %s normalization takes them per channel",
                    strategy->name);
  }
  *axes = (axn_axes){.split_axis = -1, .split_groups = 1};
  if (error != NULL) error->message[0] = '\0';
  status = strategy->select(strategy, desc, axes, error);
  if (status == AXN_OK) return check_axes(strategy, desc, axes, error);
  /* A function that said nothing. */
  if (error == NULL) return status;
  error->status = status;
  if (error->message[0] != '\0') return status;
  return axn_fail(error, status, "strategy: %s: refuses this descriptor", strategy->name);
}
