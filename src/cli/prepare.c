/* SPDX-License-Identifier: MIT */
#include "prepare.h"

#include <stdlib.h>
#include <string.h>

int64_t prepare_default_groups(int64_t channels) {
  enum { USUAL = 32 };
  if (channels >= 2 * USUAL && channels % USUAL == 0) return USUAL;
  int64_t groups = channels / 2 < USUAL ? channels / 2 : USUAL;
  while (groups > 1 && channels % groups != 0) groups--;
  return groups > 1 ? groups : 1;
}

int64_t prepare_divisor(int64_t samples, int64_t most) {
  int64_t divisor = most < samples ? most : samples;
  while (divisor > 1 && samples % divisor != 0) divisor--;
  return divisor;
}

/* Not 1 where there is a choice: that would be instance normalization. */
int64_t prepare_default_ghost_batch(int64_t samples) {
  enum { USUAL = 16 };
  int64_t most = samples / 2 < USUAL ? samples / 2 : USUAL;
  int64_t ghost_batch = most > 1 ? prepare_divisor(samples, most) : 1;
  if (ghost_batch > 1) return ghost_batch;
  return samples > 1 ? samples : 1;
}

bool prepare_takes_axis(axn_norm norm) {
  return norm == AXN_LAYER_NORM || norm == AXN_RMS_NORM;
}

int prepare_first_axis(const struct prepared *prepared) {
  const axn_desc *desc = &prepared->desc;
  if (!prepare_takes_axis(desc->norm)) return 1;
  return desc->axis < 0 ? desc->axis + desc->rank : desc->axis;
}

void prepare_shape_from_file(const struct shape *file, axn_layout layout, struct shape *shape) {
  *shape = *file;
  if (layout != AXN_CHANNELS_LAST || file->rank < 3) return;
  shape->extents[1] = file->extents[file->rank - 1];
  for (int k = 2; k < file->rank; k++) shape->extents[k] = file->extents[k - 1];
}

int prepare_axis_at(const axn_desc *desc, int position) {
  if (desc->layout == AXN_CHANNELS_FIRST || position == 0) return position;
  return position == desc->rank - 1 ? 1 : position + 1;
}

bool prepare_shares_samples(const struct prepared *prepared) {
  return (prepared->info.reduced_axes & 1) != 0;
}

bool prepare_needs_running(const struct prepared *prepared) {
  return prepare_shares_samples(prepared) && prepared->info.running_statistics > 0;
}

int64_t prepare_parts(const struct prepared *prepared, int axis) {
  const axn_plan_info *info = &prepared->info;
  if (axis == info->split_axis) return info->split_groups;
  return (info->reduced_axes >> axis & 1) != 0 ? 1 : prepared->desc.shape[axis];
}

void prepare_reduced_shape(const struct prepared *prepared, struct shape *shape) {
  const axn_desc *desc = &prepared->desc;
  shape->rank = 0;
  for (int position = 0; position < desc->rank; position++) {
    int axis = prepare_axis_at(desc, position);
    if ((prepared->info.reduced_axes >> axis & 1) != 0)
      shape->extents[shape->rank++] = desc->shape[axis];
  }
}

void prepare_statistics_shape(const struct prepared *prepared, struct shape *shape) {
  const axn_plan_info *info = &prepared->info;
  shape->rank = 0;
  for (int position = 0; position < prepared->desc.rank; position++) {
    int axis = prepare_axis_at(&prepared->desc, position);
    if (axis == info->split_axis || (info->reduced_axes >> axis & 1) == 0)
      shape->extents[shape->rank++] = prepare_parts(prepared, axis);
  }
}

static bool has_norm(const struct norm_list *list, axn_norm norm) {
  for (int i = 0; i < list->count; i++)
    if (list->values[i] == norm) return true;
  return false;
}

enum outcome prepare_check_options(const struct options *options) {
  if (options->groups != 0 && !has_norm(&options->norms, AXN_GROUP_NORM))
    return message_misused("--groups", "only group normalization has groups");
  if (options->ghost_batch != 0 && !has_norm(&options->norms, AXN_GHOST_BATCH_NORM))
    return message_misused("--ghost-batch", "only ghost normalization has ghost batches");
  if (options->axis_given && !has_norm(&options->norms, AXN_LAYER_NORM) &&
      !has_norm(&options->norms, AXN_RMS_NORM))
    return message_misused("--axis", "only layer and rms normalization start from an axis");
  if (options->slope_given && options->activation != AXN_ACTIVATION_LEAKY_RELU)
    return message_misused("--negative-slope", "only --activation leaky-relu has one");
  return DONE;
}

/* The library's messages begin with its name of the field; the option's name stands for it here. */
static const char *without_field(const char *why) {
  size_t length = strcspn(why, " :");
  return strncmp(why + length, ": ", 2) == 0 ? why + length + 2 : why;
}

/* Null: the shape is at fault, or what stands beside it in a list of shapes. */
static const char *option_at_fault(const struct prepared *prepared, axn_status status) {
  bool listed = prepared->source.line > 0;
  switch (status) {
  case AXN_ERROR_GROUPS:
    if (listed) return NULL;
    return prepared->desc.norm == AXN_GHOST_BATCH_NORM ? "--ghost-batch" : "--groups";
  case AXN_ERROR_AXIS:
    return listed ? NULL : "--axis";
  case AXN_ERROR_EPSILON:
    return "--epsilon";
  case AXN_ERROR_MOMENTUM:
    return "--momentum";
  case AXN_ERROR_THREADS:
    return "--threads";
  case AXN_ERROR_ISA:
    /* --isa was checked when it was read, so only the environment can be at fault. */
    return prepared->desc.isa == AXN_ISA_AUTO ? "AXISNORM_ISA" : "--isa";
  case AXN_ERROR_OPTION:
    return "--negative-slope"; /* every other enum and option was checked when it was read */
  case AXN_ERROR_STATISTICS:
    return "--running-mean";
  default:
    return strcmp(prepared->source.name, "--shape") == 0 ? "--shape" : NULL;
  }
}

enum outcome prepare_failure(const struct prepared *prepared, axn_status status,
                             const axn_error *error) {
  if (status == AXN_ERROR_MEMORY) return message_no_memory();
  const struct shape_source *source = &prepared->source;
  const char *why = error->message[0] != '\0' ? error->message : axn_status_string(status);
  const char *option = option_at_fault(prepared, status);
  if (option != NULL) return message_misused(option, "%s", without_field(why));
  if (source->line > 0) return message_failed(source->name, "line %d: %s", source->line, why);
  return message_failed(source->name, "%s", why);
}

static size_t largest_workspace(const axn_plan_info *info) {
  size_t size = info->training_workspace;
  if (size < info->inference_workspace) size = info->inference_workspace;
  if (size < info->backward_workspace) size = info->backward_workspace;
  return size;
}

static axn_desc desc_of(const struct options *options, const struct wanted *wanted) {
  axn_desc desc = axn_desc_init();
  desc.norm = wanted->norm;
  desc.layout = options->layout;
  desc.rank = wanted->shape.rank;
  for (int k = 0; k < desc.rank; k++) desc.shape[k] = wanted->shape.extents[k];
  if (wanted->norm == AXN_GROUP_NORM) {
    desc.groups = wanted->groups != 0 ? wanted->groups : options->groups;
    if (desc.groups == 0) desc.groups = prepare_default_groups(desc.shape[1]);
  }
  if (wanted->norm == AXN_GHOST_BATCH_NORM) {
    desc.ghost_batch = wanted->ghost_batch != 0 ? wanted->ghost_batch : options->ghost_batch;
    if (desc.ghost_batch == 0) desc.ghost_batch = prepare_default_ghost_batch(desc.shape[0]);
  }
  if (prepare_takes_axis(wanted->norm)) desc.axis = (int)options->axis;
  if (wanted->parameters != 0) desc.parameters = wanted->parameters;
  desc.dtype = wanted->dtype != 0    ? wanted->dtype
               : options->dtype != 0 ? options->dtype
                                     : AXN_FLOAT32;
  desc.parameter_dtype = wanted->parameter_dtype;
  desc.activation = options->activation;
  desc.negative_slope = options->negative_slope;
  desc.epsilon = options->epsilon;
  desc.momentum = options->momentum;
  desc.running_variance = options->running_variance;
  desc.isa = options->isa;
  desc.threads = (int)options->threads;
  return desc;
}

/* From prepared->desc; nothing is left to release where that fails. */
static enum outcome create_plan(struct prepared *prepared) {
  axn_error error = {AXN_OK, ""};
  prepared->info = axn_plan_info_init();
  axn_status status = axn_plan_create(&prepared->plan, &prepared->desc, &error);
  if (status == AXN_OK) status = axn_plan_describe(prepared->plan, &prepared->info, &error);
  if (status == AXN_OK) return DONE;
  prepare_release(prepared);
  return prepare_failure(prepared, status, &error);
}

enum outcome prepare_check_rank(const char *source, int rank) {
  if (rank >= 2 && rank <= 5) return DONE;
  return message_failed(source, "has %d %s, expected N,C and up to 3 spatial axes", rank,
                        rank == 1 ? "axis" : "axes");
}

enum outcome prepare(struct prepared *prepared, const struct options *options,
                     const struct wanted *wanted) {
  *prepared = (struct prepared){.source = wanted->source};
  enum outcome outcome = prepare_check_rank(wanted->source.name, wanted->shape.rank);
  if (outcome != DONE) return outcome;
  prepared->desc = desc_of(options, wanted);
  return create_plan(prepared);
}

enum outcome prepare_workspace(struct prepared *prepared) {
  prepared->workspace_size = largest_workspace(&prepared->info);
  prepared->workspace = malloc(prepared->workspace_size > 0 ? prepared->workspace_size : 1);
  return prepared->workspace != NULL ? DONE : message_no_memory();
}

enum outcome prepare_machine(int64_t threads, axn_isa isa, axn_plan_info *info) {
  enum { LARGE = 1 << 14 };
  struct prepared prepared = {.source = {"the machine", 0}, .desc = axn_desc_init()};
  prepared.desc.rank = 2;
  prepared.desc.shape[0] = prepared.desc.shape[1] = LARGE; /* nothing of that size is allocated */
  prepared.desc.threads = (int)threads;
  prepared.desc.isa = isa;
  enum outcome outcome = create_plan(&prepared);
  *info = prepared.info;
  prepare_release(&prepared);
  return outcome;
}

void prepare_release(struct prepared *prepared) {
  axn_plan_destroy(prepared->plan);
  free(prepared->workspace);
  prepared->plan = NULL;
  prepared->workspace = NULL;
}
