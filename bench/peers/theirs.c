/* SPDX-License-Identifier: MIT */
#include "theirs.h"

#include <stdio.h>
#include <stdlib.h>

static void check(dnnl_status_t status, const char *what) {
  char why[64];
  snprintf(why, sizeof why, "status %d (dnnl_status_t)", (int)status);
  if (status != dnnl_success) fail(what, why);
}

struct library library_open(void) {
  struct library library;
  check(dnnl_engine_create(&library.engine, dnnl_cpu, 0), "dnnl_engine_create");
  check(dnnl_stream_create(&library.stream, library.engine, dnnl_stream_default_flags),
        "dnnl_stream_create");
  return library;
}

void library_close(struct library *library) {
  dnnl_stream_destroy(library->stream);
  dnnl_engine_destroy(library->engine);
}

const char *library_runtime(void) {
  switch (dnnl_version()->cpu_runtime) {
  case DNNL_RUNTIME_SEQ:
    return "one thread";
  case DNNL_RUNTIME_OMP:
    return "OpenMP";
  case DNNL_RUNTIME_TBB:
    return "TBB";
  case DNNL_RUNTIME_SYCL:
    return "SYCL";
  default:
    return "another";
  }
}

enum kind { BATCH, LAYER, GROUP };

/* Layer normalization over C, H, W is one group of all channels, instance normalization as many
 * groups as channels; oneDNN's layer normalization knows the last axis alone. */
static enum kind kind_of(const axn_desc *desc) {
  if (desc->norm == AXN_BATCH_NORM) return BATCH;
  return desc->norm == AXN_LAYER_NORM && !layer_is_of_images(desc) ? LAYER : GROUP;
}

static int64_t groups_of(const axn_desc *desc) {
  if (desc->norm == AXN_INSTANCE_NORM) return desc->shape[1];
  return desc->norm == AXN_GROUP_NORM ? desc->groups : 1;
}

static const char *name_of(const axn_desc *desc) {
  static const char *const names[] = {"batch_normalization", "layer_normalization",
                                      "group_normalization"};
  return names[kind_of(desc)];
}

static dnnl_memory_desc_t data_desc(const axn_desc *desc) {
  static const dnnl_format_tag_t tags[][2] = {
      {dnnl_ab, dnnl_ab}, {dnnl_abc, dnnl_acb}, {dnnl_abcd, dnnl_acdb}, {dnnl_abcde, dnnl_acdeb}};
  static const dnnl_data_type_t types[] = {
      [AXN_FLOAT32] = dnnl_f32, [AXN_BFLOAT16] = dnnl_bf16, [AXN_FLOAT16] = dnnl_f16};
  dnnl_dims_t extents;
  for (int i = 0; i < desc->rank; i++) extents[i] = desc->shape[i];
  dnnl_memory_desc_t data;
  dnnl_format_tag_t tag = tags[desc->rank - 2][desc->layout == AXN_CHANNELS_LAST];
  check(dnnl_memory_desc_create_with_tag(&data, desc->rank, extents, types[desc->dtype], tag),
        "dnnl_memory_desc_create_with_tag");
  return data;
}

/* ---- the residual and the activation ---- */

static int has_activation(const struct task *task) {
  return task->layer->desc.activation != AXN_ACTIVATION_NONE;
}

/* oneDNN's name for an activation, and its parameter. */
struct eltwise {
  dnnl_alg_kind_t algorithm;
  float alpha;
};

static struct eltwise eltwise_of(const axn_desc *desc) {
  switch (desc->activation) {
  case AXN_ACTIVATION_SILU:
    return (struct eltwise){dnnl_eltwise_swish, 1};
  case AXN_ACTIVATION_GELU:
    return (struct eltwise){dnnl_eltwise_gelu_erf, 0};
  case AXN_ACTIVATION_GELU_TANH:
    return (struct eltwise){dnnl_eltwise_gelu_tanh, 0};
  case AXN_ACTIVATION_LEAKY_RELU:
    return (struct eltwise){dnnl_eltwise_relu, (float)desc->negative_slope};
  default:
    return (struct eltwise){dnnl_eltwise_relu, 0};
  }
}

/* The backward pass of both forms of ReLU finds the sign in the result. */
static int needs_argument(const struct task *task) {
  return task->layer->desc.activation > AXN_ACTIVATION_LEAKY_RELU;
}

/* Where the normalization writes, and the activation reads. */
static void *argument_of(const struct task *task) {
  int is_kept = task->pass != FORWARD_INFERENCE && needs_argument(task);
  return is_kept ? task->outputs->argument : task->outputs->y;
}

static int is_for(enum fusion fusion, const struct task *task) {
  const axn_desc *desc = &task->layer->desc;
  if (fusion == FLAG)
    return kind_of(desc) == BATCH && desc->activation == AXN_ACTIVATION_RELU &&
           !task->layer->with_residual;
  if (fusion == POST_OPS)
    return task->pass == FORWARD_INFERENCE && (has_activation(task) || task->layer->with_residual);
  return 1;
}

static dnnl_primitive_attr_t post_ops_of(const struct task *task, const_dnnl_memory_desc_t data) {
  struct eltwise eltwise = eltwise_of(&task->layer->desc);
  dnnl_post_ops_t post_ops;
  check(dnnl_post_ops_create(&post_ops), "dnnl_post_ops_create");
  if (task->layer->with_residual)
    check(dnnl_post_ops_append_binary(post_ops, dnnl_binary_add, data), "append_binary");
  if (has_activation(task))
    check(dnnl_post_ops_append_eltwise(post_ops, eltwise.algorithm, eltwise.alpha, 0),
          "append_eltwise");
  dnnl_primitive_attr_t attributes;
  check(dnnl_primitive_attr_create(&attributes), "dnnl_primitive_attr_create");
  check(dnnl_primitive_attr_set_post_ops(attributes, post_ops), "set_post_ops");
  dnnl_post_ops_destroy(post_ops);
  return attributes;
}

/* ---- descriptions of primitives ---- */

static unsigned flags_of(const struct task *task) {
  unsigned flags = dnnl_use_scale | dnnl_use_shift;
  if (task->layer->desc.norm == AXN_BATCH_NORM && task->pass == FORWARD_INFERENCE)
    flags |= dnnl_use_global_stats;
  if (task->fusion == FLAG) flags |= dnnl_fuse_norm_relu;
  return flags;
}

static dnnl_status_t describe_forward(dnnl_primitive_desc_t *made, const struct task *task) {
  const axn_desc *desc = &task->layer->desc;
  dnnl_engine_t engine = task->library->engine;
  dnnl_prop_kind_t kind =
      task->pass == FORWARD_INFERENCE ? dnnl_forward_inference : dnnl_forward_training;
  dnnl_memory_desc_t data = data_desc(desc);
  dnnl_primitive_attr_t attributes = task->fusion == POST_OPS ? post_ops_of(task, data) : NULL;
  unsigned flags = flags_of(task);
  float epsilon = (float)desc->epsilon;
  dnnl_status_t status;
  if (kind_of(desc) == BATCH)
    status = dnnl_batch_normalization_forward_primitive_desc_create(made, engine, kind, data, data,
                                                                    epsilon, flags, attributes);
  else if (kind_of(desc) == LAYER)
    status = dnnl_layer_normalization_forward_primitive_desc_create(
        made, engine, kind, data, data, NULL, epsilon, flags, attributes);
  else
    status = dnnl_group_normalization_forward_primitive_desc_create(
        made, engine, kind, data, data, groups_of(desc), epsilon, flags, attributes);
  if (attributes != NULL) dnnl_primitive_attr_destroy(attributes);
  dnnl_memory_desc_destroy(data);
  return status;
}

static dnnl_status_t describe_backward(dnnl_primitive_desc_t *made, const struct task *task,
                                       dnnl_primitive_desc_t forward) {
  const axn_desc *desc = &task->layer->desc;
  dnnl_engine_t engine = task->library->engine;
  dnnl_memory_desc_t data = data_desc(desc);
  unsigned flags = flags_of(task);
  float epsilon = (float)desc->epsilon;
  dnnl_status_t status;
  if (kind_of(desc) == BATCH)
    status = dnnl_batch_normalization_backward_primitive_desc_create(
        made, engine, dnnl_backward, data, data, data, epsilon, flags, forward, NULL);
  else if (kind_of(desc) == LAYER)
    status = dnnl_layer_normalization_backward_primitive_desc_create(
        made, engine, dnnl_backward, data, data, data, NULL, epsilon, flags, forward, NULL);
  else
    status = dnnl_group_normalization_backward_primitive_desc_create(
        made, engine, dnnl_backward, data, data, data, groups_of(desc), epsilon, flags, forward,
        NULL);
  dnnl_memory_desc_destroy(data);
  return status;
}

static int is_described(dnnl_status_t status, const char *what) {
  if (status == dnnl_unimplemented) return 0;
  check(status, what);
  return 1;
}

/* ---- steps ---- */

/* What an argument of a primitive reads or writes. Null values: the primitive takes no such one. */
struct buffer {
  int argument;
  void *values;
};

static void bind(struct step *step, dnnl_engine_t engine, const_dnnl_primitive_desc_t chosen,
                 const struct buffer *buffers) {
  for (; buffers->argument != DNNL_ARG_UNDEF; buffers++) {
    if (buffers->values == NULL) continue;
    const_dnnl_memory_desc_t data =
        dnnl_primitive_desc_query_md(chosen, dnnl_query_exec_arg_md, buffers->argument);
    dnnl_exec_arg_t *bound = &step->buffers[step->buffer_count++];
    bound->arg = buffers->argument;
    check(dnnl_memory_create(&bound->memory, data, engine, buffers->values), "dnnl_memory_create");
  }
}

static void add_step(struct theirs *theirs, const struct task *task,
                     const_dnnl_primitive_desc_t chosen, const struct buffer *buffers) {
  struct step *step = &theirs->steps[theirs->step_count++];
  step->buffer_count = 0;
  check(dnnl_primitive_create(&step->primitive, chosen), "dnnl_primitive_create");
  bind(step, task->library->engine, chosen, buffers);
}

static void add_norm_forward(struct theirs *theirs, const struct task *task,
                             const_dnnl_primitive_desc_t chosen) {
  const struct inputs *inputs = task->inputs;
  const struct outputs *outputs = task->outputs;
  int is_training = task->pass != FORWARD_INFERENCE;
  int has_running = !is_training && task->layer->desc.norm == AXN_BATCH_NORM;
  float *mean = has_running ? inputs->running_mean : outputs->mean;
  float *variance = has_running ? inputs->running_variance : outputs->deviation;
  int takes_statistics = is_training || has_running;
  const struct buffer buffers[] = {{DNNL_ARG_SRC, inputs->x},
                                   {DNNL_ARG_DST, argument_of(task)},
                                   {DNNL_ARG_SCALE, inputs->scale},
                                   {DNNL_ARG_SHIFT, inputs->shift},
                                   {DNNL_ARG_MEAN, takes_statistics ? mean : NULL},
                                   {DNNL_ARG_VARIANCE, takes_statistics ? variance : NULL},
                                   {DNNL_ARG_WORKSPACE, theirs->workspace},
                                   {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                                    task->fusion == POST_OPS ? inputs->residual : NULL},
                                   {DNNL_ARG_UNDEF, NULL}};
  add_step(theirs, task, chosen, buffers);
}

static void add_norm_backward(struct theirs *theirs, const struct task *task,
                              const_dnnl_primitive_desc_t chosen) {
  const struct inputs *inputs = task->inputs;
  const struct outputs *outputs = task->outputs;
  int follows = task->fusion == SEQUENCE && has_activation(task);
  const struct buffer buffers[] = {
      {DNNL_ARG_SRC, inputs->x},
      {DNNL_ARG_DIFF_DST, follows ? outputs->grad_residual : inputs->grad_y},
      {DNNL_ARG_SCALE, inputs->scale},
      {DNNL_ARG_MEAN, outputs->mean},
      {DNNL_ARG_VARIANCE, outputs->deviation},
      {DNNL_ARG_WORKSPACE, theirs->workspace},
      {DNNL_ARG_DIFF_SRC, outputs->grad_x},
      {DNNL_ARG_DIFF_SCALE, outputs->grad_scale},
      {DNNL_ARG_DIFF_SHIFT, outputs->grad_shift},
      {DNNL_ARG_UNDEF, NULL}};
  add_step(theirs, task, chosen, buffers);
}

/* In place. */
static int add_residual(struct theirs *theirs, const struct task *task) {
  dnnl_memory_desc_t data = data_desc(&task->layer->desc);
  dnnl_primitive_desc_t chosen;
  dnnl_status_t status = dnnl_binary_primitive_desc_create(&chosen, task->library->engine,
                                                           dnnl_binary_add, data, data, data, NULL);
  dnnl_memory_desc_destroy(data);
  if (!is_described(status, "binary")) return 0;
  void *sum = argument_of(task);
  const struct buffer buffers[] = {{DNNL_ARG_SRC_0, sum},
                                   {DNNL_ARG_SRC_1, task->inputs->residual},
                                   {DNNL_ARG_DST, sum},
                                   {DNNL_ARG_UNDEF, NULL}};
  add_step(theirs, task, chosen, buffers);
  dnnl_primitive_desc_destroy(chosen);
  return 1;
}

static int describe_eltwise(dnnl_primitive_desc_t *made, const struct task *task) {
  struct eltwise eltwise = eltwise_of(&task->layer->desc);
  dnnl_memory_desc_t data = data_desc(&task->layer->desc);
  dnnl_prop_kind_t kind =
      task->pass == FORWARD_INFERENCE ? dnnl_forward_inference : dnnl_forward_training;
  dnnl_status_t status = dnnl_eltwise_forward_primitive_desc_create(
      made, task->library->engine, kind, eltwise.algorithm, data, data, eltwise.alpha, 0, NULL);
  dnnl_memory_desc_destroy(data);
  return is_described(status, "eltwise");
}

static int add_activation(struct theirs *theirs, const struct task *task) {
  dnnl_primitive_desc_t chosen;
  if (!describe_eltwise(&chosen, task)) return 0;
  const struct buffer buffers[] = {
      {DNNL_ARG_SRC, argument_of(task)}, {DNNL_ARG_DST, task->outputs->y}, {DNNL_ARG_UNDEF, NULL}};
  add_step(theirs, task, chosen, buffers);
  dnnl_primitive_desc_destroy(chosen);
  return 1;
}

static int add_activation_backward(struct theirs *theirs, const struct task *task) {
  struct eltwise eltwise = eltwise_of(&task->layer->desc);
  dnnl_primitive_desc_t forward, chosen;
  if (!describe_eltwise(&forward, task)) return 0;
  dnnl_memory_desc_t data = data_desc(&task->layer->desc);
  dnnl_status_t status = dnnl_eltwise_backward_primitive_desc_create(
      &chosen, task->library->engine, eltwise.algorithm, data, data, data, eltwise.alpha, 0,
      forward, NULL);
  dnnl_memory_desc_destroy(data);
  dnnl_primitive_desc_destroy(forward);
  if (!is_described(status, "eltwise backward")) return 0;
  const struct buffer buffers[] = {{DNNL_ARG_SRC, argument_of(task)},
                                   {DNNL_ARG_DIFF_DST, task->inputs->grad_y},
                                   {DNNL_ARG_DIFF_SRC, task->outputs->grad_residual},
                                   {DNNL_ARG_UNDEF, NULL}};
  add_step(theirs, task, chosen, buffers);
  dnnl_primitive_desc_destroy(chosen);
  return 1;
}

static void free_steps(struct theirs *theirs) {
  for (int s = 0; s < theirs->step_count; s++) {
    struct step *step = &theirs->steps[s];
    for (int i = 0; i < step->buffer_count; i++) dnnl_memory_destroy(step->buffers[i].memory);
    dnnl_primitive_destroy(step->primitive);
  }
  theirs->step_count = 0;
}

/* ---- passes ---- */

static void set_workspace(struct theirs *theirs, const_dnnl_primitive_desc_t chosen) {
  const_dnnl_memory_desc_t kept = dnnl_primitive_desc_query_md(chosen, dnnl_query_workspace_md, 0);
  size_t size = kept == NULL ? 0 : dnnl_memory_desc_get_size(kept);
  if (size == 0) return;
  theirs->workspace = malloc(size);
  if (theirs->workspace == NULL) fail("memory", "there is not enough");
}

static void set_way(struct theirs *theirs, const struct task *task,
                    const_dnnl_primitive_desc_t chosen) {
  const int is_sequence = task->fusion == SEQUENCE, is_backward = task->pass == BACKWARD;
  const char *fused = task->fusion == FLAG ? " fused by flag" : is_sequence ? "" : " with post-ops";
  const char *added = is_sequence && task->layer->with_residual && !is_backward ? ", binary" : "";
  const char *activated = is_sequence && has_activation(task) ? ", eltwise" : "";
  const char *code = "";
  dnnl_primitive_desc_query(chosen, dnnl_query_impl_info_str, 0, &code);
  snprintf(theirs->way, sizeof theirs->way, "%s%s %s%s%s", name_of(&task->layer->desc), fused, code,
           added, activated);
}

static int make_forward(struct theirs *theirs, const struct task *task,
                        const_dnnl_primitive_desc_t chosen) {
  int is_sequence = task->fusion == SEQUENCE;
  set_workspace(theirs, chosen);
  set_way(theirs, task, chosen);
  add_norm_forward(theirs, task, chosen);
  if (is_sequence && task->layer->with_residual && !add_residual(theirs, task)) return 0;
  return !is_sequence || !has_activation(task) || add_activation(theirs, task);
}

static int make_backward(struct theirs *theirs, const struct task *task,
                         dnnl_primitive_desc_t forward) {
  dnnl_primitive_desc_t chosen;
  theirs_run(theirs); /* the forward pass, as it was made */
  free_steps(theirs);
  if (!is_described(describe_backward(&chosen, task, forward), "backward")) return 0;
  set_way(theirs, task, chosen);
  int made =
      task->fusion != SEQUENCE || !has_activation(task) || add_activation_backward(theirs, task);
  if (made) add_norm_backward(theirs, task, chosen);
  dnnl_primitive_desc_destroy(chosen);
  return made;
}

int theirs_make(struct theirs *theirs, const struct task *task) {
  *theirs = (struct theirs){.stream = task->library->stream};
  dnnl_primitive_desc_t forward;
  if (!is_for(task->fusion, task) || !is_described(describe_forward(&forward, task), "forward"))
    return 0;
  int made = make_forward(theirs, task, forward) &&
             (task->pass != BACKWARD || make_backward(theirs, task, forward));
  dnnl_primitive_desc_destroy(forward);
  if (!made) theirs_free(theirs);
  return made;
}

/* Waits, so that the results are there, as they are when axisnorm returns. */
void theirs_run(void *context) {
  const struct theirs *theirs = context;
  for (int i = 0; i < theirs->step_count; i++) {
    const struct step *step = &theirs->steps[i];
    check(
        dnnl_primitive_execute(step->primitive, theirs->stream, step->buffer_count, step->buffers),
        "dnnl_primitive_execute");
  }
  check(dnnl_stream_wait(theirs->stream), "dnnl_stream_wait");
}

void theirs_free(struct theirs *theirs) {
  free_steps(theirs);
  free(theirs->workspace);
}
