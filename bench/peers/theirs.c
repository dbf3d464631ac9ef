/* SPDX-License-Identifier: MIT */
#include "theirs.h"

#include <stdio.h>

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

const char *theirs_primitive(const axn_desc *desc) {
  static const char *const names[] = {"batch_normalization", "layer_normalization",
                                      "group_normalization"};
  return names[kind_of(desc)];
}

static dnnl_memory_desc_t data_desc(const axn_desc *desc) {
  static const dnnl_format_tag_t tags[][2] = {
      {dnnl_ab, dnnl_ab}, {dnnl_abc, dnnl_acb}, {dnnl_abcd, dnnl_acdb}, {dnnl_abcde, dnnl_acdeb}};
  dnnl_dims_t extents;
  for (int i = 0; i < desc->rank; i++) extents[i] = desc->shape[i];
  dnnl_memory_desc_t data;
  dnnl_format_tag_t tag = tags[desc->rank - 2][desc->layout == AXN_CHANNELS_LAST];
  check(dnnl_memory_desc_create_with_tag(&data, desc->rank, extents, dnnl_f32, tag),
        "dnnl_memory_desc_create_with_tag");
  return data;
}

static unsigned flags_of(const axn_desc *desc, dnnl_prop_kind_t kind) {
  unsigned flags = dnnl_use_scale | dnnl_use_shift;
  if (desc->norm == AXN_BATCH_NORM && kind == dnnl_forward_inference)
    flags |= dnnl_use_global_stats;
  return flags;
}

static dnnl_status_t describe_forward(dnnl_primitive_desc_t *made, dnnl_engine_t engine,
                                      const axn_desc *desc, dnnl_prop_kind_t kind) {
  dnnl_memory_desc_t data = data_desc(desc);
  unsigned flags = flags_of(desc, kind);
  float epsilon = (float)desc->epsilon;
  dnnl_status_t status;
  if (kind_of(desc) == BATCH)
    status = dnnl_batch_normalization_forward_primitive_desc_create(made, engine, kind, data, data,
                                                                    epsilon, flags, NULL);
  else if (kind_of(desc) == LAYER)
    status = dnnl_layer_normalization_forward_primitive_desc_create(made, engine, kind, data, data,
                                                                    NULL, epsilon, flags, NULL);
  else
    status = dnnl_group_normalization_forward_primitive_desc_create(
        made, engine, kind, data, data, groups_of(desc), epsilon, flags, NULL);
  dnnl_memory_desc_destroy(data);
  return status;
}

static dnnl_status_t describe_backward(dnnl_primitive_desc_t *made, dnnl_engine_t engine,
                                       const axn_desc *desc, dnnl_primitive_desc_t forward) {
  dnnl_memory_desc_t data = data_desc(desc);
  unsigned flags = flags_of(desc, dnnl_backward);
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

/* What an argument of a primitive reads or writes. */
struct buffer {
  int argument;
  float *values;
};

static void bind(struct theirs *theirs, dnnl_engine_t engine, const_dnnl_primitive_desc_t chosen,
                 const struct buffer *buffers) {
  for (; buffers->values != NULL; buffers++) {
    const_dnnl_memory_desc_t data =
        dnnl_primitive_desc_query_md(chosen, dnnl_query_exec_arg_md, buffers->argument);
    dnnl_exec_arg_t *bound = &theirs->buffers[theirs->buffer_count++];
    bound->arg = buffers->argument;
    check(dnnl_memory_create(&bound->memory, data, engine, buffers->values), "dnnl_memory_create");
  }
}

static void bind_forward(struct theirs *theirs, dnnl_engine_t engine,
                         const_dnnl_primitive_desc_t chosen, const struct inputs *inputs,
                         const struct outputs *outputs, float *mean, float *variance) {
  const struct buffer common[] = {{DNNL_ARG_SRC, inputs->x},
                                  {DNNL_ARG_DST, outputs->y},
                                  {DNNL_ARG_SCALE, inputs->scale},
                                  {DNNL_ARG_SHIFT, inputs->shift},
                                  {DNNL_ARG_UNDEF, NULL}};
  const struct buffer statistics[] = {
      {DNNL_ARG_MEAN, mean}, {DNNL_ARG_VARIANCE, variance}, {DNNL_ARG_UNDEF, NULL}};
  bind(theirs, engine, chosen, common);
  bind(theirs, engine, chosen, statistics);
}

static void bind_backward(struct theirs *theirs, dnnl_engine_t engine,
                          const_dnnl_primitive_desc_t chosen, const struct inputs *inputs,
                          const struct outputs *outputs) {
  const struct buffer buffers[] = {{DNNL_ARG_SRC, inputs->x},
                                   {DNNL_ARG_DIFF_DST, inputs->grad_y},
                                   {DNNL_ARG_SCALE, inputs->scale},
                                   {DNNL_ARG_MEAN, outputs->mean},
                                   {DNNL_ARG_VARIANCE, outputs->deviation},
                                   {DNNL_ARG_DIFF_SRC, outputs->grad_x},
                                   {DNNL_ARG_DIFF_SCALE, outputs->grad_scale},
                                   {DNNL_ARG_DIFF_SHIFT, outputs->grad_shift},
                                   {DNNL_ARG_UNDEF, NULL}};
  bind(theirs, engine, chosen, buffers);
}

static void create(struct theirs *theirs, const struct library *library,
                   const_dnnl_primitive_desc_t chosen) {
  *theirs = (struct theirs){.stream = library->stream};
  const char *name = "";
  dnnl_primitive_desc_query(chosen, dnnl_query_impl_info_str, 0, &name);
  snprintf(theirs->implementation, sizeof theirs->implementation, "%s", name);
  check(dnnl_primitive_create(&theirs->primitive, chosen), "dnnl_primitive_create");
}

static int is_described(dnnl_status_t status, const char *what) {
  if (status == dnnl_unimplemented) return 0;
  check(status, what);
  return 1;
}

static int make_inference(struct theirs *theirs, const struct library *library,
                          const axn_desc *desc, const struct inputs *inputs,
                          const struct outputs *outputs) {
  dnnl_primitive_desc_t chosen;
  if (!is_described(describe_forward(&chosen, library->engine, desc, dnnl_forward_inference),
                    "forward inference"))
    return 0;
  int is_batch = desc->norm == AXN_BATCH_NORM;
  create(theirs, library, chosen);
  bind_forward(theirs, library->engine, chosen, inputs, outputs,
               is_batch ? inputs->running_mean : NULL, is_batch ? inputs->running_variance : NULL);
  dnnl_primitive_desc_destroy(chosen);
  return 1;
}

/* Leaves the description to the caller. */
static int make_training(struct theirs *theirs, const struct library *library, const axn_desc *desc,
                         const struct inputs *inputs, const struct outputs *outputs,
                         dnnl_primitive_desc_t *chosen) {
  if (!is_described(describe_forward(chosen, library->engine, desc, dnnl_forward_training),
                    "forward training"))
    return 0;
  create(theirs, library, *chosen);
  bind_forward(theirs, library->engine, *chosen, inputs, outputs, outputs->mean,
               outputs->deviation);
  return 1;
}

static int make_backward(struct theirs *theirs, const struct library *library, const axn_desc *desc,
                         const struct inputs *inputs, const struct outputs *outputs,
                         dnnl_primitive_desc_t forward) {
  dnnl_primitive_desc_t chosen;
  theirs_run(theirs); /* the forward pass, as it was made */
  theirs_free(theirs);
  if (!is_described(describe_backward(&chosen, library->engine, desc, forward), "backward"))
    return 0;
  create(theirs, library, chosen);
  bind_backward(theirs, library->engine, chosen, inputs, outputs);
  dnnl_primitive_desc_destroy(chosen);
  return 1;
}

int theirs_make(struct theirs *theirs, const struct library *library, const axn_desc *desc,
                enum pass pass, const struct inputs *inputs, const struct outputs *outputs) {
  if (pass == FORWARD_INFERENCE) return make_inference(theirs, library, desc, inputs, outputs);
  dnnl_primitive_desc_t forward;
  if (!make_training(theirs, library, desc, inputs, outputs, &forward)) return 0;
  int made =
      pass == FORWARD_TRAINING || make_backward(theirs, library, desc, inputs, outputs, forward);
  dnnl_primitive_desc_destroy(forward);
  return made;
}

/* Waits, so that the results are there, as they are when axisnorm returns. */
void theirs_run(void *context) {
  const struct theirs *theirs = context;
  check(dnnl_primitive_execute(theirs->primitive, theirs->stream, theirs->buffer_count,
                               theirs->buffers),
        "dnnl_primitive_execute");
  check(dnnl_stream_wait(theirs->stream), "dnnl_stream_wait");
}

void theirs_free(struct theirs *theirs) {
  for (int i = 0; i < theirs->buffer_count; i++) dnnl_memory_destroy(theirs->buffers[i].memory);
  dnnl_primitive_destroy(theirs->primitive);
}
