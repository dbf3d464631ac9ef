/* SPDX-License-Identifier: MIT */
/* axisnorm apply: one normalization of one file, and its backward pass. */
#define _POSIX_C_SOURCE 200809L
#include "apply.h"
#include "commands.h"
#include "npy.h"
#include "passes.h"
#include "progress.h"
#include "report.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

/* An output that was asked for, and the tensor that goes there. */
struct apply_output {
  const char *path;
  const struct tensor *tensor;
  struct output_file *file;
};
enum { APPLY_OUTPUTS = 9 };

/* Statistics of x are due, rather than running ones that stand for them. */
static bool uses_own_statistics(const struct options *o) {
  return o->mode == MODE_TRAINING || o->running_mean == NULL;
}

static bool activates(const struct options *o) {
  return o->activation != AXN_ACTIVATION_NONE;
}

static enum outcome check_gradient_options(const struct options *o) {
  const char *any = o->grad_input != NULL      ? "--grad-input"
                    : o->grad_scale != NULL    ? "--grad-scale"
                    : o->grad_shift != NULL    ? "--grad-shift"
                    : o->grad_residual != NULL ? "--grad-residual"
                                               : NULL;
  if (o->grad_residual != NULL && o->residual == NULL)
    return message_misused("--grad-residual", "needs --residual too");
  if (any != NULL && !apply_wants_gradient(o))
    return message_misused(any, "needs --grad-output too");
  if (any == NULL && apply_wants_gradient(o))
    return message_misused("--grad-output",
                           "needs one of --grad-input, --grad-scale, --grad-shift, --grad-residual "
                           "too");
  return DONE;
}

static enum outcome check_options(const struct options *o) {
  if (o->norms.count == 0) return message_misused("--norm", "missing; see axisnorm apply --help");
  if (o->input == NULL) return message_misused("--input", "missing; see axisnorm apply --help");
  if (o->output == NULL) return message_misused("--output", "missing; see axisnorm apply --help");
  if ((o->running_mean == NULL) != (o->running_var == NULL))
    return message_misused(o->running_mean == NULL ? "--running-mean" : "--running-var",
                           "missing: running mean and variance go together");
  if (o->mode == MODE_INFERENCE && o->running_mean_output != NULL)
    return message_misused("--running-mean-output", "only training updates running statistics");
  if (o->mode == MODE_INFERENCE && o->running_var_output != NULL)
    return message_misused("--running-var-output", "only training updates running statistics");
  if (apply_wants_statistics(o) && !uses_own_statistics(o))
    return message_misused(o->mean_output != NULL ? "--mean-output" : "--rstd-output",
                           "inference with running statistics computes none of its own");
  enum outcome outcome = check_gradient_options(o);
  return outcome == DONE ? prepare_check_options(o) : outcome;
}

static enum outcome create_statistics(struct apply *a) {
  struct shape shape;
  axn_dtype dtype = tensor_statistics_dtype(a->x.dtype);
  prepare_statistics_shape(&a->prepared, &shape);
  enum outcome outcome = tensor_create(&a->mean, &shape, dtype);
  return outcome == DONE ? tensor_create(&a->rstd, &shape, dtype) : outcome;
}

/* Behind an activation the library keeps a gradient on the way: in that by the residual, else by x. */
static bool needs_grad_input(const struct options *o) {
  return o->grad_input != NULL ||
         (apply_wants_gradient(o) && activates(o) && o->grad_residual == NULL);
}

static enum outcome create_gradients(struct apply *a) {
  const struct options *o = a->options;
  const axn_desc *desc = &a->prepared.desc;
  struct shape parameters = {.rank = 1, .extents = {a->prepared.info.parameters}};
  if (desc->parameters == AXN_PARAMETERS_PER_ELEMENT)
    prepare_reduced_shape(&a->prepared, &parameters);
  axn_dtype dtype = desc->parameter_dtype != 0 ? desc->parameter_dtype : desc->dtype;
  enum outcome outcome = DONE;
  if (needs_grad_input(o)) outcome = tensor_create(&a->grad_input, &a->x.shape, a->x.dtype);
  if (outcome == DONE && o->grad_scale != NULL)
    outcome = tensor_create(&a->grad_scale, &parameters, dtype);
  if (outcome == DONE && o->grad_shift != NULL)
    outcome = tensor_create(&a->grad_shift, &parameters, dtype);
  if (outcome == DONE && o->grad_residual != NULL && activates(o))
    outcome = tensor_create(&a->grad_residual, &a->x.shape, a->x.dtype);
  return outcome;
}

static enum outcome create_outputs(struct apply *a) {
  const struct options *o = a->options;
  enum outcome outcome = tensor_create(&a->y, &a->x.shape, a->x.dtype);
  if (outcome == DONE && uses_own_statistics(o) &&
      (apply_wants_gradient(o) || apply_wants_statistics(o)))
    outcome = create_statistics(a);
  return outcome == DONE ? create_gradients(a) : outcome;
}

/* Where each statistic has one value, that is the mean, and the variance is 0. Training of instance
 * normalization refuses such a tensor, inference gives the shift. Statistics stand as the elements do. */
static void single_value_statistics(struct apply *a) {
  double rstd = 1 / sqrt(a->prepared.desc.epsilon);
  for (int64_t i = 0; i < a->mean.count; i++) {
    double mean = tensor_get(&a->x, i);
    tensor_set(&a->mean, i, mean);
    tensor_set(&a->rstd, i, isfinite(mean) ? rstd : (double)NAN);
  }
}

/* Inference from x is the training formula; only that one also gives the statistics. */
static axn_status run_forward(struct apply *a, struct pass_data data, axn_error *error) {
  const struct options *o = a->options;
  const axn_plan_info *info = &a->prepared.info;
  bool single = info->running_statistics > 0 && info->values_per_statistic == 1;
  if (o->mode == MODE_INFERENCE && (a->mean.data == NULL || single)) {
    if (single && a->mean.data != NULL) single_value_statistics(a);
    return pass_inference(&a->prepared, &data, error);
  }
  if (!apply_updates_running(o)) data.running_mean = data.running_variance = NULL;
  return pass_training(&a->prepared, &data, error);
}

static enum outcome compute(struct apply *a) {
  const struct options *o = a->options;
  const struct pass_data data = {.x = a->x.data,
                                 .scale = a->scale.data,
                                 .shift = a->shift.data,
                                 .residual = a->residual.data,
                                 .grad_y = a->grad_output.data,
                                 .y = a->y.data,
                                 .grad_x = a->grad_input.data,
                                 .grad_scale = a->grad_scale.data,
                                 .grad_shift = a->grad_shift.data,
                                 .grad_residual = a->grad_residual.data,
                                 .mean = a->mean.data,
                                 .rstd = a->rstd.data,
                                 .running_mean = a->running_mean.data,
                                 .running_variance = a->running_var.data};
  axn_error error = {AXN_OK, ""};
  axn_status status = run_forward(a, data, &error);
  progress_step();
  if (status == AXN_OK && apply_wants_gradient(o))
    status = pass_backward(&a->prepared, &data, &error);
  progress_step();
  return status == AXN_OK ? DONE : prepare_failure(&a->prepared, status, &error);
}

static enum outcome open_outputs(struct apply_output *outputs) {
  for (int i = 0; i < APPLY_OUTPUTS; i++) {
    if (outputs[i].path == NULL) continue;
    enum outcome outcome = output_open(outputs[i].path, &outputs[i].file);
    if (outcome != DONE) return outcome;
  }
  return DONE;
}

static enum outcome write_outputs(const struct apply_output *outputs) {
  for (int i = 0; i < APPLY_OUTPUTS; i++) {
    if (outputs[i].path == NULL) continue;
    enum outcome outcome = npy_write(outputs[i].file, outputs[i].tensor);
    if (outcome != DONE) return outcome;
  }
  progress_step();
  return DONE;
}

/* What was done, only where a format for it was asked for. */
static enum outcome report_apply(const struct apply *a) {
  struct row {
    const char *norm, *mode, *dtype, *activation, *residual;
    int64_t groups, ghost_batch, statistics, values;
    struct shape shape;
  };
  static const struct report_column columns[] = {
      {"norm", "norm", REPORT_TEXT, 0, offsetof(struct row, norm)},
      {"groups", "groups", REPORT_INTEGER, 0, offsetof(struct row, groups)},
      {"ghost_batch", "ghost|batch", REPORT_INTEGER, 0, offsetof(struct row, ghost_batch)},
      {"mode", "mode", REPORT_TEXT, 0, offsetof(struct row, mode)},
      {"shape", "shape", REPORT_SHAPE, 0, offsetof(struct row, shape)},
      {"dtype", "dtype", REPORT_TEXT, 0, offsetof(struct row, dtype)},
      {"activation", "activation", REPORT_TEXT, 0, offsetof(struct row, activation)},
      {"residual", "residual", REPORT_TEXT, 0, offsetof(struct row, residual)},
      {"statistics", "statistics", REPORT_INTEGER, 0, offsetof(struct row, statistics)},
      {"values_per_statistic", "values per|statistic", REPORT_INTEGER, 0,
       offsetof(struct row, values)}};
  const axn_plan_info *info = &a->prepared.info;
  bool training = a->options->mode == MODE_TRAINING;
  struct row row = {axn_norm_name(a->prepared.desc.norm),
                    training ? "training" : "inference",
                    axn_dtype_name(a->x.dtype),
                    report_activation(a->options->activation),
                    a->options->residual != NULL ? "yes" : NULL,
                    report_if_any(a->prepared.desc.groups),
                    report_if_any(training ? a->prepared.desc.ghost_batch : 0),
                    info->statistics,
                    info->values_per_statistic,
                    a->x.shape};
  struct report report = {.columns = columns,
                          .column_count = sizeof columns / sizeof columns[0],
                          .rows = &row,
                          .row_size = sizeof row,
                          .row_count = 1,
                          .threads = info->threads,
                          .isa = axn_isa_name(info->isa)};
  return report_write(&report, a->options->format);
}

static void release(struct apply *a) {
  struct tensor *all[] = {
      &a->x,          &a->scale,      &a->shift,    &a->running_mean, &a->running_var,
      &a->y,          &a->mean,       &a->rstd,     &a->grad_output,  &a->grad_input,
      &a->grad_scale, &a->grad_shift, &a->residual, &a->grad_residual};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tensor_release(all[i]);
  prepare_release(&a->prepared);
}

static enum outcome run_apply(struct options *o) {
  enum outcome outcome = check_options(o);
  if (outcome != DONE) return outcome;
  struct apply a = {.options = o};
  struct apply_output outputs[APPLY_OUTPUTS] = {{o->output, &a.y, NULL},
                                                {o->mean_output, &a.mean, NULL},
                                                {o->rstd_output, &a.rstd, NULL},
                                                {o->running_mean_output, &a.running_mean, NULL},
                                                {o->running_var_output, &a.running_var, NULL},
                                                {o->grad_input, &a.grad_input, NULL},
                                                {o->grad_scale, &a.grad_scale, NULL},
                                                {o->grad_shift, &a.grad_shift, NULL},
                                                {o->grad_residual, NULL, NULL}};
  /* Without an activation, the gradient by the residual is that by Y as it stands. */
  outputs[APPLY_OUTPUTS - 1].tensor = activates(o) ? &a.grad_residual : &a.grad_output;
  progress_start("apply", 4);
  outcome = open_outputs(outputs); /* before the work: a missing directory is known at once */
  if (outcome == DONE) outcome = apply_read_inputs(&a);
  progress_step();
  if (outcome == DONE) outcome = create_outputs(&a);
  if (outcome == DONE) outcome = compute(&a);
  if (outcome == DONE) outcome = write_outputs(outputs);
  progress_end();
  if (outcome == DONE && o->format != FORMAT_DEFAULT) outcome = report_apply(&a);
  release(&a);
  return outcome;
}

#define TARGET(field) offsetof(struct options, field)

static const struct option_row files[] = {
    {"input", "X.npy",
     "the tensor to normalize, 2 to 5 axes: float32, float64,\n"
     "float16, or bfloat16 in uint16 with --dtype bf16",
     option_path, TARGET(input)},
    {"output", "Y.npy", "where the result goes", option_path, TARGET(output)},
    {"mode", "training|inference", "default training", option_mode, 0},
    {"scale", "S.npy", "[C]; layer, rms: also the shape of the normalized axes\n(default: 1)",
     option_path, TARGET(scale)},
    {"shift", "B.npy", "the same (default: 0)", option_path, TARGET(shift)},
    {"residual", "R.npy", "added before the activation; X's shape and type", option_path,
     TARGET(residual)},
    {"running-mean", "M.npy",
     "[C], batch, ghost and instance: normalizes in inference, is\n"
     "updated in training",
     option_path, TARGET(running_mean)},
    {"running-var", "V.npy", "[C], goes with --running-mean", option_path, TARGET(running_var)},
    {"momentum", "M|cumulative",
     "weight of the new value in the running statistics (default\n"
     "0.1); cumulative: the average of all batches, of which this\nis the first",
     option_momentum, 0},
    {"running-variance", "unbiased|biased", "divisor of the running variance (default unbiased)",
     option_running_variance, 0},
    {"mean-output", "P", "the means used, one per statistic (rms: 0)", option_path,
     TARGET(mean_output)},
    {"rstd-output", "P",
     "1/sqrt(variance + epsilon), one per statistic; rms: with the\nmean of the squares",
     option_path, TARGET(rstd_output)},
    {"running-mean-output", "P", "the updated running mean (starts from 0 where no file is\ngiven)",
     option_path, TARGET(running_mean_output)},
    {"running-var-output", "P", "the updated running variance (starts from 1)", option_path,
     TARGET(running_var_output)},
    {"grad-output", "DY.npy", "gradient by Y: asks for the backward pass", option_path,
     TARGET(grad_output)},
    {"grad-input", "DX.npy", "where the gradient by X goes", option_path, TARGET(grad_input)},
    {"grad-scale", "P", "the gradient by the scale, also without --scale", option_path,
     TARGET(grad_scale)},
    {"grad-shift", "P", "the gradient by the shift, also without --shift", option_path,
     TARGET(grad_shift)},
    {"grad-residual", "P", "the gradient by the residual", option_path, TARGET(grad_residual)},
    {NULL, NULL, NULL, NULL, 0}};

static const struct option_row *const tables[] = {options_norm, files, options_common, NULL};

const struct command command_apply = {
    "apply",
    "normalize a .npy file, forward and backward",
    "Writes the normalization of X to Y, in X's shape and type; prints nothing unless --format "
    "asks\n"
    "for a summary. --norm, --input and --output are required.",
    "  axisnorm apply --norm group --groups 2 --input x.npy --output y.npy",
    tables,
    run_apply};
