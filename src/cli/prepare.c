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

void prepare_shape_from_file(const struct shape *file, axn_layout layout, struct shape *shape) {
  *shape = *file;
  if (layout != AXN_CHANNELS_LAST || file->rank < 3) return;
  shape->extents[1] = file->extents[file->rank - 1];
  for (int k = 2; k < file->rank; k++) shape->extents[k] = file->extents[k - 1];
}

static bool has_norm(const struct norm_list *list, axn_norm norm) {
  for (int i = 0; i < list->count; i++)
    if (list->values[i] == norm) return true;
  return list->count == 0; /* none given: all */
}

enum outcome prepare_check_options(const struct options *options) {
  if (options->groups != 0 && !has_norm(&options->norms, AXN_GROUP_NORM))
    return message_misused("--groups", "only group normalization has groups");
  if (options->axis_given && !has_norm(&options->norms, AXN_LAYER_NORM))
    return message_misused("--axis", "only layer normalization starts from an axis");
  return DONE;
}

/* The library's messages begin with its name of the field; the option's name stands for it here. */
static const char *without_field(const char *why) {
  size_t length = strcspn(why, " :");
  return strncmp(why + length, ": ", 2) == 0 ? why + length + 2 : why;
}

enum outcome prepare_failure(const struct prepared *prepared, axn_status status,
                             const axn_error *error) {
  const char *option = NULL;
  switch (status) {
  case AXN_ERROR_GROUPS:
    option = "--groups";
    break;
  case AXN_ERROR_AXIS:
    option = "--axis";
    break;
  case AXN_ERROR_EPSILON:
    option = "--epsilon";
    break;
  case AXN_ERROR_MOMENTUM:
    option = "--momentum";
    break;
  case AXN_ERROR_THREADS:
    option = "--threads";
    break;
  case AXN_ERROR_ISA:
    /* --isa was checked when it was read, so only the environment can be at fault. */
    option = prepared->desc.isa == AXN_ISA_AUTO ? "AXISNORM_ISA" : "--isa";
    break;
  case AXN_ERROR_OPTION:
    option = prepared->desc.layout == AXN_CHANNELS_LAST ? "--layout" : "--norm";
    break;
  case AXN_ERROR_STATISTICS:
    option = "--running-mean";
    break;
  case AXN_ERROR_MEMORY:
    return message_no_memory();
  default:
    break; /* all the others follow from the shape */
  }
  const char *why = error->message[0] != '\0' ? error->message : axn_status_string(status);
  if (option != NULL) return message_misused(option, "%s", without_field(why));
  if (strcmp(prepared->shape_source, "--shape") == 0)
    return message_misused(prepared->shape_source, "%s", why);
  return message_failed(prepared->shape_source, "%s", why);
}

static size_t largest_workspace(const axn_plan_info *info) {
  size_t size = info->training_workspace;
  if (size < info->inference_workspace) size = info->inference_workspace;
  if (size < info->backward_workspace) size = info->backward_workspace;
  return size;
}

enum outcome prepare(struct prepared *prepared, const struct options *options, axn_norm norm,
                     const struct shape *shape, int64_t groups, axn_parameters parameters,
                     const char *shape_source) {
  *prepared = (struct prepared){.shape_source = shape_source};
  if (shape->rank < 2 || shape->rank > 5)
    return message_failed(shape_source, "has %d %s: N,C and up to 3 spatial axes are due",
                          shape->rank, shape->rank == 1 ? "axis" : "axes");
  axn_desc desc = axn_desc_init();
  desc.norm = norm;
  desc.layout = options->layout;
  desc.rank = shape->rank;
  for (int k = 0; k < shape->rank; k++) desc.shape[k] = shape->extents[k];
  if (norm == AXN_GROUP_NORM) {
    desc.groups = groups != 0 ? groups : options->groups;
    if (desc.groups == 0) desc.groups = prepare_default_groups(shape->extents[1]);
  }
  if (norm == AXN_LAYER_NORM) desc.axis = (int)options->axis;
  desc.parameters = parameters;
  desc.epsilon = options->epsilon;
  desc.momentum = options->momentum;
  desc.running_variance = options->running_variance;
  desc.isa = options->isa;
  desc.threads = (int)options->threads;
  prepared->desc = desc;

  prepared->info = axn_plan_info_init();
  axn_error error = {AXN_OK, ""};
  axn_status status = axn_plan_create(&prepared->plan, &desc, &error);
  if (status == AXN_OK) status = axn_plan_describe(prepared->plan, &prepared->info, &error);
  enum outcome outcome = DONE;
  if (status != AXN_OK) {
    outcome = prepare_failure(prepared, status, &error);
  } else {
    prepared->workspace_size = largest_workspace(&prepared->info);
    prepared->workspace = malloc(prepared->workspace_size > 0 ? prepared->workspace_size : 1);
    if (prepared->workspace == NULL) outcome = message_no_memory();
  }
  if (outcome != DONE) prepare_release(prepared);
  return outcome;
}

void prepare_release(struct prepared *prepared) {
  axn_plan_destroy(prepared->plan);
  free(prepared->workspace);
  prepared->plan = NULL;
  prepared->workspace = NULL;
}
