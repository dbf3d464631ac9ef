/* SPDX-License-Identifier: MIT */
/* The passes as custom calls of XLA: arguments and results in the order in which the passes below take
 * them, then a result for the workspace. axisnorm/jax/_calls.py is the other side. */
#include "xla.h"

#include <stdio.h>

/* Which optional arguments and results a call has. */
enum operand {
  SCALE = 1,
  SHIFT = 2,
  RESIDUAL = 4,
  MEAN = 8,
  RSTD = 16,
  RUNNING = 32,
  COUNT = 64,
  GRAD_SCALE = 128,
  GRAD_SHIFT = 256,
  GRAD_RESIDUAL = 512,
  ALWAYS = 1024
};

/* Attributes, as they are sorted. */
struct attributes {
  XLA_FFI_ByteSpan activation;
  int64_t axis, channels_last;
  double epsilon;
  int64_t ghost_batch, groups;
  double momentum, negative_slope;
  XLA_FFI_ByteSpan norm;
  int64_t operands, per_element, threads, unbiased;
};
enum { TEXT = -1, INTEGER = XLA_FFI_DataType_S64, REAL = XLA_FFI_DataType_F64 };
#define ATTRIBUTE(name, type)                                                                      \
  { #name, offsetof(struct attributes, name), type }
static const struct {
  const char *name;
  size_t offset;
  int type;
} attributes[] = {ATTRIBUTE(activation, TEXT),
                  ATTRIBUTE(axis, INTEGER),
                  ATTRIBUTE(channels_last, INTEGER),
                  ATTRIBUTE(epsilon, REAL),
                  ATTRIBUTE(ghost_batch, INTEGER),
                  ATTRIBUTE(groups, INTEGER),
                  ATTRIBUTE(momentum, REAL),
                  ATTRIBUTE(negative_slope, REAL),
                  ATTRIBUTE(norm, TEXT),
                  ATTRIBUTE(operands, INTEGER),
                  ATTRIBUTE(per_element, INTEGER),
                  ATTRIBUTE(threads, INTEGER),
                  ATTRIBUTE(unbiased, INTEGER)};
enum { ATTRIBUTES = sizeof attributes / sizeof attributes[0] };

/* A call under way. After the first error it goes on without touching anything. */
struct call {
  const XLA_FFI_CallFrame *frame;
  struct attributes attributes;
  axn_dtype dtype, other; /* of x; of parameters and statistics */
  struct xla_plan plan;
  int64_t arguments, results; /* taken so far */
  axn_error error;
};

#define FAIL(call, ...)                                                                            \
  do {                                                                                             \
    if ((call)->error.status == AXN_OK) {                                                          \
      (call)->error.status = AXN_ERROR_OPTION;                                                     \
      snprintf((call)->error.message, sizeof(call)->error.message, __VA_ARGS__);                   \
    }                                                                                              \
  } while (0)

static bool is_named(const XLA_FFI_ByteSpan *span, const char *name) {
  return span->len == strlen(name) && memcmp(span->ptr, name, span->len) == 0;
}

static bool read_attribute(const XLA_FFI_Attrs *given, int64_t i, int type, char *to) {
  if (type == TEXT) {
    if (given->types[i] == XLA_FFI_AttrType_STRING)
      memcpy(to, given->attrs[i], sizeof(XLA_FFI_ByteSpan));
    return given->types[i] == XLA_FFI_AttrType_STRING;
  }
  const XLA_FFI_Scalar *scalar = given->attrs[i];
  if (given->types[i] != XLA_FFI_AttrType_SCALAR || (int)scalar->dtype != type) return false;
  memcpy(to, scalar->value, 8);
  return true;
}

static void read_attributes(struct call *call) {
  const XLA_FFI_Attrs *given = &call->frame->attrs;
  bool read = given->size == ATTRIBUTES;
  for (int i = 0; i < ATTRIBUTES && read; i++)
    read = is_named(given->names[i], attributes[i].name) &&
           read_attribute(given, i, attributes[i].type,
                          (char *)&call->attributes + attributes[i].offset);
  if (!read) FAIL(call, "attributes: not those of this version of axisnorm");
}

static axn_dtype dtype_of(XLA_FFI_DataType type) {
  return type == XLA_FFI_DataType_F32    ? AXN_FLOAT32
         : type == XLA_FFI_DataType_F64  ? AXN_FLOAT64
         : type == XLA_FFI_DataType_BF16 ? AXN_BFLOAT16
         : type == XLA_FFI_DataType_F16  ? AXN_FLOAT16
                                         : (axn_dtype)0;
}

static int64_t size_of(const XLA_FFI_Buffer *buffer) {
  int64_t size = 1;
  for (int64_t i = 0; i < buffer->rank; i++) size *= buffer->dims[i];
  return size;
}

/* An array of no elements may have no address; the library wants one all the same. */
static void *address_of(const XLA_FFI_Buffer *buffer) {
  static char nowhere[64];
  return buffer->data != NULL ? buffer->data : nowhere;
}

static const XLA_FFI_Buffer *next_argument(struct call *call) {
  const XLA_FFI_Args *args = &call->frame->args;
  const int64_t i = call->arguments++;
  if (i < args->size && args->types[i] == XLA_FFI_ArgType_BUFFER) return args->args[i];
  FAIL(call, "argument %d: is missing", (int)i);
  return NULL;
}

static const XLA_FFI_Buffer *next_result(struct call *call) {
  const XLA_FFI_Rets *rets = &call->frame->rets;
  const int64_t i = call->results++;
  if (i < rets->size && rets->types[i] == XLA_FFI_RetType_BUFFER) return rets->rets[i];
  FAIL(call, "result %d: is missing", (int)i);
  return NULL;
}

static bool has(const struct call *call, enum operand operand) {
  return operand == ALWAYS || (call->attributes.operands & operand) != 0;
}

static void *check(struct call *call, const XLA_FFI_Buffer *buffer, const char *name,
                   axn_dtype dtype, int64_t size) {
  if (buffer == NULL || call->error.status != AXN_OK) return NULL;
  if (dtype_of(buffer->dtype) == dtype && size_of(buffer) == size) return address_of(buffer);
  FAIL(call, "%s: %lld elements of type %d where %lld of %s are expected", name,
       (long long)size_of(buffer), (int)buffer->dtype, (long long)size, axn_dtype_name(dtype));
  return NULL;
}

/* What a pass takes next, null where the call has none. */
static void *take(struct call *call, enum operand operand, const char *name, axn_dtype dtype,
                  int64_t size) {
  return has(call, operand) ? check(call, next_argument(call), name, dtype, size) : NULL;
}
static void *give(struct call *call, enum operand operand, const char *name, axn_dtype dtype,
                  int64_t size) {
  return has(call, operand) ? check(call, next_result(call), name, dtype, size) : NULL;
}

static axn_norm norm_of(struct call *call) {
  for (int value = 1; axn_norm_name((axn_norm)value) != NULL; value++)
    if (is_named(&call->attributes.norm, axn_norm_name((axn_norm)value))) return (axn_norm)value;
  FAIL(call, "norm: is none");
  return (axn_norm)0;
}

static axn_activation activation_of(struct call *call) {
  for (int value = 0; axn_activation_name((axn_activation)value) != NULL; value++)
    if (is_named(&call->attributes.activation, axn_activation_name((axn_activation)value)))
      return (axn_activation)value;
  FAIL(call, "activation: is none");
  return AXN_ACTIVATION_NONE;
}

/* The shape of x as the library writes it, with C second. */
static void read_shape(struct call *call, const XLA_FFI_Buffer *x, axn_desc *desc) {
  if (x->rank > AXN_MAX_RANK) {
    FAIL(call, "x: %lld axes, more than any normalization takes", (long long)x->rank);
    return;
  }
  desc->rank = (int)x->rank;
  if (x->rank == 0) return;
  memcpy(desc->shape, x->dims, (size_t)x->rank * sizeof desc->shape[0]);
  if (call->attributes.channels_last == 0 || x->rank < 3) return;
  memcpy(&desc->shape[2], &x->dims[1], (size_t)(x->rank - 2) * sizeof desc->shape[0]);
  desc->shape[1] = x->dims[x->rank - 1];
}

static void find_plan(struct call *call, const XLA_FFI_Buffer *x) {
  const struct attributes *a = &call->attributes;
  axn_desc desc = axn_desc_init();
  call->dtype = dtype_of(x->dtype);
  call->other = call->dtype == AXN_FLOAT64 ? AXN_FLOAT64 : AXN_FLOAT32;
  desc.norm = norm_of(call);
  desc.activation = activation_of(call);
  desc.dtype = call->dtype;
  desc.parameter_dtype = call->other;
  desc.layout = a->channels_last != 0 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
  desc.axis = (int)a->axis;
  desc.groups = a->groups;
  desc.ghost_batch = a->ghost_batch;
  desc.epsilon = a->epsilon;
  desc.momentum = a->momentum;
  desc.negative_slope = a->negative_slope;
  desc.parameters = a->per_element != 0 ? AXN_PARAMETERS_PER_ELEMENT : AXN_PARAMETERS_PER_CHANNEL;
  desc.running_variance =
      a->unbiased != 0 ? AXN_RUNNING_VARIANCE_UNBIASED : AXN_RUNNING_VARIANCE_BIASED;
  /* To plan for, so that workspaces are of the size that was found when the program was traced; how many
   * there are is known when it runs. */
  desc.threads = (int)a->threads;
  desc.parallel_for = xla_parallel_for;
  read_shape(call, x, &desc);
  if (call->error.status == AXN_OK) xla_plan_take(&call->plan, &desc, &call->error);
}

static bool begin(struct call *call) {
  read_attributes(call);
  const XLA_FFI_Buffer *x = call->error.status == AXN_OK ? next_argument(call) : NULL;
  call->arguments = 0;
  if (x != NULL) find_plan(call, x);
  return call->error.status == AXN_OK;
}

/* The last result, and how many threads there are: XLA's own. */
static void begin_run(struct call *call, void **workspace, size_t *size, int *threads) {
  const XLA_FFI_Buffer *buffer = next_result(call);
  if (call->error.status != AXN_OK) return;
  if (buffer->dtype != XLA_FFI_DataType_U8) FAIL(call, "workspace: bytes are expected");
  if (call->arguments != call->frame->args.size || call->results != call->frame->rets.size)
    FAIL(call, "operands: not as many as there are arguments and results");
  *workspace = address_of(buffer);
  *size = (size_t)size_of(buffer);
  *threads = xla_threads(call->frame);
  xla_enter(call->frame);
}

static XLA_FFI_Error *end(struct call *call) {
  if (call->plan.plan != NULL) xla_plan_give_back(&call->plan);
  if (call->error.status == AXN_OK) return NULL;
  XLA_FFI_Error_Create_Args args = {.struct_size = sizeof args,
                                    .message = call->error.message,
                                    .errc = call->error.status == AXN_ERROR_MEMORY
                                                ? XLA_FFI_Error_Code_RESOURCE_EXHAUSTED
                                                : XLA_FFI_Error_Code_INVALID_ARGUMENT};
  return call->frame->api->XLA_FFI_Error_Create(&args);
}

/* XLA asks for the version before it first calls: the newest that both know. */
static bool is_question(const XLA_FFI_CallFrame *frame) {
  const XLA_FFI_Extension_Base *extension = frame->extension_start;
  if (extension == NULL || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata *metadata = ((const XLA_FFI_Metadata_Extension *)extension)->metadata;
  int minor = frame->api != NULL ? frame->api->api_version.minor_version : XLA_FFI_API_OLDEST;
  if (minor > XLA_FFI_API_NEWEST) minor = XLA_FFI_API_NEWEST;
  metadata->api_version.struct_size = sizeof metadata->api_version;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = minor;
  metadata->traits = 0;
  return true;
}

/* Running statistics are updated where the results lie, from a copy of the arguments. */
static void *take_running(struct call *call, const char *name) {
  const int64_t size = call->plan.info.running_statistics;
  const void *old = take(call, RUNNING, name, call->other, size);
  void *updated = give(call, RUNNING, name, call->other, size);
  if (old != NULL && updated != NULL && old != updated)
    memcpy(updated, old, (size_t)size * axn_dtype_size(call->other));
  return updated;
}

/* JAX has no int64 but where it is asked to. */
static bool read_count(const XLA_FFI_Buffer *buffer, int64_t *count) {
  if (buffer->dtype == XLA_FFI_DataType_S64) return *count = *(const int64_t *)buffer->data, true;
  if (buffer->dtype == XLA_FFI_DataType_S32) return *count = *(const int32_t *)buffer->data, true;
  return false;
}

static void write_count(struct call *call, const XLA_FFI_Buffer *buffer, int64_t count) {
  if (buffer->dtype == XLA_FFI_DataType_S64)
    *(int64_t *)buffer->data = count;
  else if (count <= INT32_MAX)
    *(int32_t *)buffer->data = (int32_t)count;
  else
    FAIL(call, "batch_count: %lld does not fit into its 32 bits", (long long)count);
}

static const XLA_FFI_Buffer *take_count(struct call *call, int64_t *count) {
  if (!has(call, COUNT)) return NULL;
  const XLA_FFI_Buffer *old = next_argument(call), *updated = next_result(call);
  if (call->error.status != AXN_OK) return NULL;
  if (size_of(old) != 1 || size_of(updated) != 1 || old->dtype != updated->dtype ||
      !read_count(old, count))
    FAIL(call, "batch_count: one integer is expected");
  return updated;
}

XLA_FFI_Error *xla_training(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  struct call call = {.frame = frame};
  if (!begin(&call)) return end(&call);
  const axn_plan_info *info = &call.plan.info;
  axn_training_args args = axn_training_init();
  args.x = take(&call, ALWAYS, "x", call.dtype, info->elements);
  args.scale = take(&call, SCALE, "scale", call.other, info->parameters);
  args.shift = take(&call, SHIFT, "shift", call.other, info->parameters);
  args.residual = take(&call, RESIDUAL, "residual", call.dtype, info->elements);
  args.y = give(&call, ALWAYS, "y", call.dtype, info->elements);
  args.mean = give(&call, MEAN, "mean", call.other, info->statistics);
  args.rstd = give(&call, RSTD, "rstd", call.other, info->statistics);
  args.running_mean = take_running(&call, "running_mean");
  args.running_variance = take_running(&call, "running_variance");
  /* Of an empty batch the library writes none. */
  const size_t unwritten =
      info->elements == 0 ? (size_t)info->statistics * axn_dtype_size(call.other) : 0;
  if (args.mean != NULL) memset(args.mean, 0, unwritten);
  if (args.rstd != NULL) memset(args.rstd, 0, unwritten);
  int64_t count = 0;
  const XLA_FFI_Buffer *counted = take_count(&call, &count);
  if (counted != NULL) args.batch_count = &count;
  begin_run(&call, &args.workspace, &args.workspace_size, &args.threads);
  if (call.error.status == AXN_OK) axn_forward_training(call.plan.plan, &args, &call.error);
  if (call.error.status == AXN_OK && counted != NULL) write_count(&call, counted, count);
  return end(&call);
}

XLA_FFI_Error *xla_inference(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  struct call call = {.frame = frame};
  if (!begin(&call)) return end(&call);
  const axn_plan_info *info = &call.plan.info;
  axn_inference_args args = axn_inference_init();
  args.x = take(&call, ALWAYS, "x", call.dtype, info->elements);
  args.scale = take(&call, SCALE, "scale", call.other, info->parameters);
  args.shift = take(&call, SHIFT, "shift", call.other, info->parameters);
  args.residual = take(&call, RESIDUAL, "residual", call.dtype, info->elements);
  args.running_mean = take(&call, RUNNING, "running_mean", call.other, info->running_statistics);
  args.running_variance =
      take(&call, RUNNING, "running_variance", call.other, info->running_statistics);
  args.y = give(&call, ALWAYS, "y", call.dtype, info->elements);
  begin_run(&call, &args.workspace, &args.workspace_size, &args.threads);
  if (call.error.status == AXN_OK) axn_forward_inference(call.plan.plan, &args, &call.error);
  return end(&call);
}

XLA_FFI_Error *xla_backward(XLA_FFI_CallFrame *frame) {
  if (is_question(frame)) return NULL;
  struct call call = {.frame = frame};
  if (!begin(&call)) return end(&call);
  const axn_plan_info *info = &call.plan.info;
  axn_backward_args args = axn_backward_init();
  args.grad_y = take(&call, ALWAYS, "grad_y", call.dtype, info->elements);
  args.x = take(&call, ALWAYS, "x", call.dtype, info->elements);
  args.scale = take(&call, SCALE, "scale", call.other, info->parameters);
  args.shift = take(&call, SHIFT, "shift", call.other, info->parameters);
  args.residual = take(&call, RESIDUAL, "residual", call.dtype, info->elements);
  args.mean = take(&call, MEAN, "mean", call.other, info->statistics);
  args.rstd = take(&call, RSTD, "rstd", call.other, info->statistics);
  args.running_mean = take(&call, RUNNING, "running_mean", call.other, info->running_statistics);
  args.running_variance =
      take(&call, RUNNING, "running_variance", call.other, info->running_statistics);
  args.grad_x = give(&call, ALWAYS, "grad_x", call.dtype, info->elements);
  args.grad_scale = give(&call, GRAD_SCALE, "grad_scale", call.other, info->parameters);
  args.grad_shift = give(&call, GRAD_SHIFT, "grad_shift", call.other, info->parameters);
  args.grad_residual = give(&call, GRAD_RESIDUAL, "grad_residual", call.dtype, info->elements);
  begin_run(&call, &args.workspace, &args.workspace_size, &args.threads);
  if (call.error.status == AXN_OK) axn_backward(call.plan.plan, &args, &call.error);
  return end(&call);
}
