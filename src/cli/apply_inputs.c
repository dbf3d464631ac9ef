/* SPDX-License-Identifier: MIT */
/* What axisnorm apply reads, checked against the plan before anything is computed. */
#define _POSIX_C_SOURCE 200809L
#include "apply.h"
#include "element.h"
#include "npy.h"

#include <inttypes.h>

/* Finds out whether scale and shift are per channel or per normalized element. Where their shape
 * allows both, the one per element is meant, as in PyTorch's LayerNorm. Their type is settled too. */
static enum outcome settle_parameters(struct apply *a) {
  const struct options *o = a->options;
  const axn_desc desc = a->prepared.desc;
  struct shape channels = {.rank = 1, .extents = {desc.shape[1]}}, elements;
  prepare_reduced_shape(&a->prepared, &elements);
  bool both = prepare_takes_axis(desc.norm);
  bool per_channel = true, per_element = both;
  const struct tensor *tensors[] = {&a->scale, &a->shift};
  const char *paths[] = {o->scale, o->shift};
  for (int i = 0; i < 2; i++) {
    if (tensors[i]->data == NULL) continue;
    per_channel = per_channel && shape_equal(&tensors[i]->shape, &channels);
    per_element = per_element && shape_equal(&tensors[i]->shape, &elements);
    if (per_channel || per_element) continue;
    char has[SHAPE_TEXT_LIMIT], due[SHAPE_TEXT_LIMIT];
    value_shape_text(&tensors[i]->shape, has);
    if (i == 1 && a->scale.data != NULL) {
      value_shape_text(&a->scale.shape, due);
      return message_failed(paths[i], "shape [%s], expected [%s], as the scale has", has, due);
    }
    value_shape_text(&elements, due);
    return message_failed(paths[i], "shape [%s], expected [%" PRId64 "]%s%s%s", has, desc.shape[1],
                          both ? " or [" : "", both ? due : "", both ? "]" : "");
  }
  bool given = a->scale.data != NULL || a->shift.data != NULL;
  if (!given) return DONE;
  prepare_release(&a->prepared);
  if (per_element) a->wanted.parameters = AXN_PARAMETERS_PER_ELEMENT;
  a->wanted.parameter_dtype = a->scale.data != NULL ? a->scale.dtype : a->shift.dtype;
  return prepare(&a->prepared, o, &a->wanted);
}

static enum outcome read_shaped(const char *path, const struct shape *due, struct npy_due type,
                                struct tensor *tensor) {
  enum outcome outcome = npy_read_file(path, type, tensor);
  if (outcome != DONE || shape_equal(&tensor->shape, due)) return outcome;
  char has[SHAPE_TEXT_LIMIT], wanted[SHAPE_TEXT_LIMIT];
  value_shape_text(&tensor->shape, has);
  value_shape_text(due, wanted);
  return message_failed(path, "shape [%s], expected [%s]", has, wanted);
}

/* The library takes them as they are, and gives NaNs: so would mean and variance the wrong way round. */
static enum outcome check_variances(const char *path, const struct tensor *variances) {
  for (int64_t i = 0; i < variances->count; i++) {
    double variance = element_get(variances->data, variances->dtype, i);
    if (variance < 0)
      return message_failed(path, "%g at index %" PRId64 ": a variance cannot be negative",
                            variance, i);
  }
  return DONE;
}

/* Running statistics: from files, or 0 and 1 where only updated ones are asked for. */
static enum outcome read_running(struct apply *a) {
  const struct options *o = a->options;
  int64_t count = a->prepared.info.running_statistics;
  axn_dtype dtype = tensor_statistics_dtype(a->x.dtype);
  bool asked = o->running_mean != NULL || apply_updates_running(o);
  if (asked && count == 0)
    return message_misused(o->running_mean != NULL          ? "--running-mean"
                           : o->running_mean_output != NULL ? "--running-mean-output"
                                                            : "--running-var-output",
                           "%s normalization keeps no running statistics",
                           axn_norm_name(a->prepared.desc.norm));
  if (o->running_mean != NULL) {
    struct shape shape = {.rank = 1, .extents = {count}};
    struct npy_due due = {1u << dtype, " for the statistics of this input"};
    enum outcome outcome = read_shaped(o->running_mean, &shape, due, &a->running_mean);
    if (outcome == DONE) outcome = read_shaped(o->running_var, &shape, due, &a->running_var);
    return outcome == DONE ? check_variances(o->running_var, &a->running_var) : outcome;
  }
  if (!asked) return DONE;
  enum outcome outcome = tensor_create_vector(&a->running_mean, count, dtype, 0);
  return outcome == DONE ? tensor_create_vector(&a->running_var, count, dtype, 1) : outcome;
}

/* What the mode and the input leave nothing to compute from. */
static enum outcome check_computable(const struct options *o, const struct prepared *prepared) {
  const axn_plan_info *info = &prepared->info;
  if (o->mode == MODE_INFERENCE && o->running_mean == NULL && prepare_needs_running(prepared))
    return message_misused("--running-mean", "missing: %s normalization in inference needs it",
                           axn_norm_name(prepared->desc.norm));
  if (apply_wants_statistics(o) && info->elements == 0 && info->statistics > 0)
    return message_failed(o->mean_output != NULL ? "--mean-output" : "--rstd-output",
                          "the input has no samples, so its statistics have no values");
  return DONE;
}

/* Of x's type or float32, both alike. */
static enum outcome read_parameters(struct apply *a) {
  const struct options *o = a->options;
  struct npy_due due = {1u << a->x.dtype | 1u << AXN_FLOAT32, " for this input"};
  enum outcome outcome = DONE;
  if (o->scale != NULL) {
    outcome = npy_read_file(o->scale, due, &a->scale);
    due = (struct npy_due){1u << a->scale.dtype, ", as the scale has"};
  }
  if (outcome == DONE && o->shift != NULL) outcome = npy_read_file(o->shift, due, &a->shift);
  return outcome == DONE ? settle_parameters(a) : outcome;
}

enum outcome apply_read_inputs(struct apply *a) {
  const struct options *o = a->options;
  enum outcome outcome = npy_read_file(o->input, npy_due_input(o->dtype), &a->x);
  if (outcome != DONE) return outcome;
  a->wanted =
      (struct wanted){.norm = o->norms.values[0], .dtype = a->x.dtype, .source = {o->input, 0}};
  const struct npy_due same = {1u << a->x.dtype, ", as the input has"};
  prepare_shape_from_file(&a->x.shape, o->layout, &a->wanted.shape);
  if (o->mode == MODE_INFERENCE) /* a ghost batch has no influence then, and need not divide N */
    a->wanted.ghost_batch = a->wanted.shape.extents[0];
  outcome = prepare(&a->prepared, o, &a->wanted);
  if (outcome == DONE) outcome = check_computable(o, &a->prepared);
  if (outcome == DONE) outcome = read_parameters(a);
  if (outcome == DONE) outcome = prepare_workspace(&a->prepared);
  if (outcome == DONE) outcome = read_running(a);
  if (outcome == DONE && o->residual != NULL)
    outcome = read_shaped(o->residual, &a->x.shape, same, &a->residual);
  if (outcome == DONE && apply_wants_gradient(o))
    outcome = read_shaped(o->grad_output, &a->x.shape, same, &a->grad_output);
  return outcome;
}
