/* SPDX-License-Identifier: MIT */
/*
 * axisnorm: batch, layer, instance, group, rms, positional and ghost batch normalization, and any of
 * one's own, behind one interface.
 *
 * A normalization is a choice of axes: the elements that share an index along every axis that is
 * not reduced share one mean and one variance, and become
 *
 *     y = activation((x - mean) / sqrt(variance + epsilon) * scale + shift + residual)
 *
 * where scale, shift, residual and activation are each optional.
 *
 *                        reduced axes of N C H W       statistics   running statistics
 *     AXN_BATCH_NORM     N, H, W                       C            [C]
 *     AXN_LAYER_NORM     from `axis` to the last       N (axis 1)   none
 *     AXN_INSTANCE_NORM  H, W                          N*C          [C], averaged over N
 *     AXN_GROUP_NORM     C in `groups`; H, W           N*groups     none
 *     AXN_RMS_NORM       as layer; the mean stays      N (axis 1)   none
 *     AXN_POSITIONAL_NORM   C                          N*H*W        none
 *     AXN_GHOST_BATCH_NORM  N in `ghost_batch`s; H, W  C each       [C], ghost batches in turn
 *     an axn_strategy    what it selects               as selected  by its `running`
 *
 * Sources: Ioffe & Szegedy 2015 (batch), Ba, Kiros & Hinton 2016 (layer), Ulyanov, Vedaldi &
 * Lempitsky 2016 (instance), Wu & He 2018 (group), Zhang & Sennrich 2019 (rms), Li et al. 2019
 * (positional), Hoffer, Hubara & Soudry 2017 (ghost). docs/mathematics.md derives every formula;
 * docs/types-and-activations.md says what types and fused activations take.
 *
 * How to use it: fill an axn_desc, make a plan of it, run the plan on as many buffers as you like.
 *
 *     axn_desc desc = axn_desc_init();
 *     desc.norm = AXN_GROUP_NORM;
 *     desc.groups = 32;
 *     desc.rank = 4;
 *     desc.shape[0] = n;
 *     desc.shape[1] = c;
 *     desc.shape[2] = h;
 *     desc.shape[3] = w;
 *     axn_plan *plan;
 *     axn_status status = axn_plan_create(&plan, &desc, NULL);
 *     axn_plan_info info = axn_plan_info_init();
 *     status = axn_plan_describe(plan, &info, NULL);
 *
 *     axn_training_args args = axn_training_init();
 *     args.x = x;
 *     args.y = y;
 *     args.workspace_size = info.training_workspace;
 *     args.workspace = malloc(info.training_workspace);
 *     status = axn_forward_training(plan, &args, NULL);
 *     ...
 *     axn_plan_destroy(plan);
 *
 * Ownership: the library owns plans alone. Every buffer is the caller's; in a run nothing is
 * allocated, printed or kept. Threads: a plan never changes once made, so any number of threads may
 * run it at the same time, each on outputs and a workspace of its own. The only global state is what
 * the processor can do, found out once. axn_plan_create() reads the environment (AXISNORM_ISA): no
 * other thread may change that meanwhile.
 *
 * Results depend on the shape and the data alone: they are the same bits for every number of
 * threads and every instruction set, and for all norms but batch and ghost (layer and rms with
 * axis >= 1) a sample has the same bits alone and in any batch. (exp and erfc are the C library's
 * where activations are computed in float64: for AXN_FLOAT64, and where float32 has no room.) All this
 * holds in C's default floating-point environment, rounding to nearest and keeping subnormals. A run
 * neither sets nor checks it: where a host flushes subnormals to zero, so do runs on its threads.
 *
 * Errors: a function that can fail returns a status and, if `error` is not null, fills it with a
 * message that names the field at fault. Arguments are checked before anything is written.
 */
#ifndef AXISNORM_AXISNORM_H
#define AXISNORM_AXISNORM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AXN_VERSION_MAJOR 0
#define AXN_VERSION_MINOR 1
#define AXN_VERSION_PATCH 0

/* What is exported. A program that compiles the library's sources into a shared object of its own can
 * define it empty, so that it stays inside. */
#if defined(AXN_API)
#elif defined(__GNUC__)
#define AXN_API __attribute__((visibility("default")))
#else
#define AXN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call came to. The numbers are part of the ABI: they never change meaning. */
typedef enum axn_status {
  AXN_OK = 0,
  AXN_ERROR_NULL = 1,            /* a null pointer where data is required */
  AXN_ERROR_STRUCT_SIZE = 2,     /* a struct not started by its axn_..._init function */
  AXN_ERROR_OPTION = 3,          /* an unknown enum value, or one that this norm does not take; an
                                    option out of range that has no status of its own; an output
                                    that this plan does not have */
  AXN_ERROR_SHAPE = 4,           /* a rank or an extent out of range */
  AXN_ERROR_OVERFLOW = 5,        /* a size in elements or bytes that does not fit */
  AXN_ERROR_GROUPS = 6,          /* groups below 1, or that do not divide the channels; ghost_batch
                                    below 1, or that does not divide the samples */
  AXN_ERROR_AXIS = 7,            /* an axis that the tensor does not have */
  AXN_ERROR_EPSILON = 8,         /* epsilon not a finite number above 0 */
  AXN_ERROR_MOMENTUM = 9,        /* momentum outside 0 to 1 and not AXN_MOMENTUM_CUMULATIVE, or a
                                    batch count that is negative or too large */
  AXN_ERROR_THREADS = 10,        /* a negative thread count */
  AXN_ERROR_ISA = 11,            /* an instruction set that this machine or build lacks */
  AXN_ERROR_MEMORY = 12,         /* the plan could not be allocated */
  AXN_ERROR_TOO_FEW_VALUES = 13, /* training with one value per statistic, where that is an error:
                                    batch, ghost and instance */
  AXN_ERROR_WORKSPACE = 14,      /* a workspace smaller than the plan says */
  AXN_ERROR_ALIGNMENT = 15,      /* a buffer not aligned to its element type */
  AXN_ERROR_OVERLAP = 16,        /* an output that overlaps another buffer, other than in place */
  AXN_ERROR_STATISTICS = 17,     /* statistics given that do not fit together, or are missing */
  AXN_ERROR_STRATEGY = 18,       /* a strategy without a function, or whose axes the tensor lacks */
  AXN_ERROR_STRIDES = 19         /* a stride below 1, or strides that let elements overlap */
} axn_status;

/* A short English text for a status; never null. */
AXN_API const char *axn_status_string(axn_status status);

/* What went wrong, in words: one line that names the field, without a line end. The caller owns it; a
 * call that succeeds leaves AXN_OK and an empty message. */
typedef struct axn_error {
  axn_status status;
  char message[240];
} axn_error;

typedef enum axn_norm {
  AXN_BATCH_NORM = 1,
  AXN_LAYER_NORM = 2,
  AXN_INSTANCE_NORM = 3,
  AXN_GROUP_NORM = 4,
  AXN_RMS_NORM = 5,        /* y = x / sqrt(mean of x^2 + epsilon) * scale + shift, from `axis` on */
  AXN_POSITIONAL_NORM = 6, /* over the channels alone: the layer norm of ConvNeXt, in any layout */
  AXN_GHOST_BATCH_NORM = 7 /* batch normalization of each `ghost_batch` samples by themselves */
} axn_norm;

/* The name of a norm ("batch", "layer", "instance", "group", "rms", "positional", "ghost"); null for
 * an unknown value. Values run from 1 without a gap, so a program can list the norms of the library
 * that it runs with. */
AXN_API const char *axn_norm_name(axn_norm norm);

/* Type of x, y, the residual and their gradients. Statistics (mean, rstd, the running ones) are
 * float, with AXN_FLOAT64 double. The 16-bit types are computed with as float32 and rounded once, to
 * the nearest, ties to even: what rounds beyond the largest number becomes infinity, subnormals are
 * kept, a NaN stays one. Their arrays are of uint16_t, or a compiler's own type of that format. */
typedef enum axn_dtype {
  AXN_FLOAT32 = 1,
  AXN_FLOAT64 = 2,  /* computed with as float64, in plain C: to check against, not made for speed */
  AXN_BFLOAT16 = 3, /* the upper half of a float32 */
  AXN_FLOAT16 = 4   /* IEEE 754 binary16 */
} axn_dtype;

/* Bytes of an element, 0 for an unknown value; "f32", "f64", "bf16", "f16", or null. */
AXN_API size_t axn_dtype_size(axn_dtype dtype);
AXN_API const char *axn_dtype_name(axn_dtype dtype);

/* Order of the axes in memory: dense, or with the strides of a view. Shapes are always written N, C,
 * spatial axes. */
typedef enum axn_layout {
  AXN_CHANNELS_FIRST = 1, /* N C H W */
  AXN_CHANNELS_LAST = 2   /* N H W C */
} axn_layout;

/* What one element of scale and shift belongs to: a channel, [C], with every norm; or one element of
 * the reduced axes, in the layout's order, with layer and rms and with strategies that say so. */
typedef enum axn_parameters {
  AXN_PARAMETERS_PER_CHANNEL = 1,
  AXN_PARAMETERS_PER_ELEMENT = 2
} axn_parameters;

/* What is applied to z, the normalized, scaled and shifted value with the residual added. In backward
 * the derivative at z = 0 is 0 for ReLU, negative_slope for leaky ReLU. */
typedef enum axn_activation {
  AXN_ACTIVATION_NONE = 0,
  AXN_ACTIVATION_RELU = 1,       /* max(z, 0) */
  AXN_ACTIVATION_LEAKY_RELU = 2, /* z, or z * negative_slope below 0 */
  AXN_ACTIVATION_SILU = 3,       /* z / (1 + exp(-z)): swish */
  AXN_ACTIVATION_GELU = 4,       /* z * Phi(z), Phi the normal distribution function */
  AXN_ACTIVATION_GELU_TANH = 5   /* z * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z^3))) / 2 */
} axn_activation;

/* "none", "relu", "leaky-relu", "silu", "gelu", "gelu-tanh"; null for an unknown value. */
AXN_API const char *axn_activation_name(axn_activation activation);

/* The divisor of the variance that goes into the running variance, for n values: n - 1 (PyTorch) or
 * n (ONNX, Keras). The variance that normalizes is always the biased one. */
typedef enum axn_running_variance {
  AXN_RUNNING_VARIANCE_UNBIASED = 1,
  AXN_RUNNING_VARIANCE_BIASED = 2
} axn_running_variance;

/* Instruction set of the kernels. Results are the same bits with each, but for the sign of a NaN. */
typedef enum axn_isa {
  AXN_ISA_AUTO = 0, /* the best here, or the one that the environment's AXISNORM_ISA names; naming
                       one that is not there is an error */
  AXN_ISA_BASELINE = 1,
  AXN_ISA_AVX2 = 2,
  AXN_ISA_AVX512 = 3,
  AXN_ISA_NEON = 4
} axn_isa;

/* "baseline", "avx2", "avx512", "neon"; null for an unknown value. */
AXN_API const char *axn_isa_name(axn_isa isa);

/* 1 where this build has the instruction set and this machine runs it, else 0. */
AXN_API int axn_isa_available(axn_isa isa);

/* A task over the indices from `begin` to just before `end`. */
typedef void (*axn_task)(void *data, int64_t begin, int64_t end);

/* A host's own parallel loop, in place of OpenMP: calls task(data, begin, end) on disjoint ranges
 * that together cover 0 to count, on up to `threads` threads, in any order, and returns when all
 * are done. `threads` is what the plan or the call asked for, but no more than count; 0 where neither
 * asked: the host decides. It is not called where one thread will do, as for tensors of fewer than
 * 32768 elements. */
typedef void (*axn_parallel_for)(void *context, int threads, int64_t count, axn_task task,
                                 void *data);

struct axn_desc;

/* Which elements share a statistic: those with the same index along every axis that is not reduced. */
typedef struct axn_axes {
  uint32_t reduced; /* bit k set: axis k of N, C, spatial is reduced, or a part of it */
  int split_axis;   /* a reduced axis that is cut into groups of neighbours first: the group's index
                      is kept, what is within a group reduced; or -1 */
  int64_t split_groups; /* into how many, a divisor of the extent; 1 where nothing is split */
} axn_axes;

/* What becomes of the statistics of a training pass. */
typedef enum axn_running_rule {
  AXN_RUNNING_NONE = 0,     /* none are kept */
  AXN_RUNNING_AVERAGED = 1, /* their average over all that a channel has is one new value */
  AXN_RUNNING_IN_TURN = 2   /* each counts as a batch of its own, in the layout's order */
} axn_running_rule;

/* A normalization: a name, and a function from a descriptor to axes. The built-in ones are rows of a
 * table of this very struct; a program adds one of its own by pointing desc.strategy to it. Start from
 * axn_strategy_init(). docs/strategies.md has a complete example. */
typedef struct axn_strategy {
  size_t struct_size;
  const char *name; /* for messages; required */
  /* Required. Fills in *axes, of which `reduced` comes as 0, split_axis as -1, split_groups as 1; looks at no
   * more of the descriptor than shape, rank and its own options. It is called by axn_plan_create()
   * alone, on its thread. On failure it returns a status other than AXN_OK, and may say why in *error
   * if that is not null. What it selects is checked: an axis that the tensor does not have is an error
   * of the plan (AXN_ERROR_STRATEGY). */
  axn_status (*select)(const struct axn_strategy *self, const struct axn_desc *desc, axn_axes *axes,
                       axn_error *error);
  const void *context; /* the function's own */
  int second_moment;   /* 1: the mean stays, x is divided by the root of the mean of its squares */
  axn_running_rule running;    /* needs statistics whose last kept axis in the layout is all of C,
                                  and no second_moment */
  int inference_needs_running; /* 1: inference without running statistics is an error */
  int training_needs_values;   /* 1: training with one value per statistic is an error */
  int parameters_per_element;  /* 1: scale and shift may be per element of the reduced axes */
} axn_strategy;

static inline axn_strategy axn_strategy_init(void) {
  axn_strategy strategy;
  memset(&strategy, 0, sizeof strategy);
  strategy.struct_size = sizeof strategy;
  return strategy;
}

#define AXN_MAX_RANK 8                 /* room in the struct; this version takes ranks 2 to 5 */
#define AXN_MOMENTUM_CUMULATIVE (-1.0) /* momentum: plain average over all batches so far */

/* What to normalize. Start from axn_desc_init(), which sets batch normalization of float32, channels
 * first, axis 1, scale and shift per channel, epsilon 1e-5, momentum 0.1, the unbiased running variance
 * and a negative slope of 0.01; then set shape, rank and norm. */
typedef struct axn_desc {
  size_t struct_size;
  axn_norm norm;
  axn_dtype dtype;
  axn_layout layout;
  int rank;                    /* 2 to 5: N, C, then the spatial axes */
  int64_t shape[AXN_MAX_RANK]; /* N >= 0, all others >= 1 */
  int64_t groups;              /* group only, else ignored: divides C; must be set */
  int axis;                    /* layer and rms only, else ignored: the first normalized axis of N,
                                  C, spatial; negative: from the end */
  axn_parameters parameters;
  double epsilon;  /* added to the variance, inside the square root; finite, above 0 */
  double momentum; /* weight of the new value in the running statistics, 0 to 1, or
                      AXN_MOMENTUM_CUMULATIVE; ONNX's and Keras's number is one minus it */
  axn_running_variance running_variance;
  axn_isa isa;
  int threads; /* 0: as many as OpenMP would use; of OpenMP's 1024 at most, or one per processor
                  where these are more */
  axn_parallel_for parallel_for; /* null: OpenMP, or the calling thread where built without */
  void *parallel_context;
  int64_t ghost_batch; /* ghost only, else ignored: samples that share statistics; divides N; must
                          be set */
  /* In place of `norm`, which is then ignored; null: `norm`. Copied; its name must live as long as the
   * plan. */
  const axn_strategy *strategy;
  axn_dtype parameter_dtype; /* of scale, shift and their gradients: dtype or float32; 0: dtype */
  axn_activation activation; /* fused into every pass */
  double negative_slope;     /* leaky ReLU only, else ignored: finite in float32, or in float64
                                with AXN_FLOAT64 */
  /* Views: parts of larger tensors, without a copy. Strides in elements, in the order of shape; all zero:
   * dense, in `layout`. What they take and cost: below. */
  int64_t x_strides[AXN_MAX_RANK]; /* of x and grad_x */
  int64_t y_strides[AXN_MAX_RANK]; /* of y, grad_y, residual and grad_residual */
  /* 0: as where the same memory is worked on again and again, outputs are written to the caches unless a
   * run's tensors exceed the last level. 1: outputs lie in memory that no cache holds, as an allocator hands it
   * out to the layers of a network: they are written past the caches where the tensors exceed the second-level
   * caches of the threads, which so spare the reading of what is about to be overwritten. Bits are the same. */
  int cold_outputs;
} axn_desc;

/*
 * Views. A pointer to x is one to its first element; the element at index (n, c, ...) lies at
 * n * x_strides[0] + c * x_strides[1] + ... from there. So the channels from 64 on of a dense
 * N x 128 x H x W tensor are x + 64 * H * W with strides 128 * H * W, H * W, W, 1; in channels last, where
 * the channels of a pixel are neighbours, they are x + 64 with strides H * W * 128, 1, W * 128, 128.
 * Each side, x's and y's, is dense or a view by itself, and nothing of a view's gaps is read or written.
 *   Strides are positive, and sorted by size each is beyond all that the smaller ones span, so that no two
 * elements can meet: every slice, crop, step or transposition of a dense tensor, no broadcast and no
 * window that slides. Those of axes of extent 1, or 0, are ignored. (AXN_ERROR_STRIDES; AXN_ERROR_OVERFLOW
 * where the whole is too far.)
 *   `layout` says in which order statistics, and parameters per element, stand, whatever the strides.
 *   Speed is that of dense tensors, but for what the gaps take from caches, where the innermost axis of
 * the layout that is longer than 1 has stride 1 on both sides: spatial positions with channels first,
 * channels with channels last. Elsewhere (one channel of many in channels last, every second column, x and
 * y in different layouts) elements are taken one by one, which takes five to fifteen times as long where
 * the data are in cache: there a copy is the faster way.
 *   Bits: forward's are those of the same values in a dense tensor where both sides have that stride 1, and
 * no gap in x's view lies between reduced axes that are neighbours in the layout (an axis of extent 1 does
 * not part neighbours): for batch and instance normalization with channels first a gap between channels or
 * samples changes nothing, for layer normalization over C, H, W one between samples. Elsewhere, and in
 * backward, the same values may be summed in another order, within the same bounds; that order follows
 * from shape and strides alone.
 */

static inline axn_desc axn_desc_init(void) {
  axn_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.struct_size = sizeof desc;
  desc.norm = AXN_BATCH_NORM;
  desc.dtype = AXN_FLOAT32;
  desc.layout = AXN_CHANNELS_FIRST;
  desc.axis = 1;
  desc.parameters = AXN_PARAMETERS_PER_CHANNEL;
  desc.epsilon = 1e-5;
  desc.momentum = 0.1;
  desc.running_variance = AXN_RUNNING_VARIANCE_UNBIASED;
  desc.negative_slope = 0.01;
  return desc;
}

/* A checked descriptor with everything decided that does not depend on data. Immutable. */
typedef struct axn_plan axn_plan;

/* Makes a plan; *plan is null after an error. The descriptor is copied. `error` may be null.
 * Errors: the status of the field at fault, those of a strategy's function among them;
 * AXN_ERROR_STRUCT_SIZE, AXN_ERROR_MEMORY. */
AXN_API axn_status axn_plan_create(axn_plan **plan, const axn_desc *desc, axn_error *error);

/* Frees a plan; null is allowed. No run of it may be under way. */
AXN_API void axn_plan_destroy(axn_plan *plan);

/* What a plan says of itself. Start from axn_plan_info_init(). */
typedef struct axn_plan_info {
  size_t struct_size;
  int64_t elements;   /* of x */
  int64_t statistics; /* (mean, rstd) pairs: the product of the extents that are not reduced, and
                         of the groups of a split axis */
  int64_t values_per_statistic; /* elements of x that share one pair; 0 where N is 0 */
  int64_t parameters;           /* elements of scale and of shift; 0 where N is 0 and reduced axes,
                                   N among them, have one per element */
  int64_t running_statistics;   /* elements of running_mean; 0 where the norm keeps none */
  int64_t values_per_task;      /* elements of a block, the smallest piece of work; it can cover
                                   several statistics side by side */
  uint32_t reduced_axes;        /* bit k set: axis k of N, C, spatial is reduced, or a part of it */
  int split_axis;               /* the axis cut into groups first, or -1 */
  int64_t split_groups;         /* into how many */
  axn_isa isa;                  /* the instruction set chosen */
  int threads;                  /* the most that a run uses, 1 for small tensors; 0 where the
                                   host's loop decides */
  size_t training_workspace;    /* bytes that axn_forward_training needs, and
                                   axn_moments_accumulate (moments.h) */
  size_t inference_workspace;   /* bytes that axn_forward_inference needs */
  size_t backward_workspace;    /* bytes that axn_backward needs */
  /* Elements from the first to the last of a tensor with x's strides, and with y's, both included: what a
   * buffer must have. `elements` where dense. */
  int64_t x_span, y_span;
} axn_plan_info;

static inline axn_plan_info axn_plan_info_init(void) {
  axn_plan_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  return info;
}

/* Fills in *info. Errors: AXN_ERROR_NULL, AXN_ERROR_STRUCT_SIZE. */
AXN_API axn_status axn_plan_describe(const axn_plan *plan, axn_plan_info *info, axn_error *error);

/*
 * Common to the three runs below:
 *   x, y, residual and their gradients hold `elements` values of the plan's dtype, with the strides of
 *   their side; scale, shift and their gradients `parameters`, of its parameter_dtype; mean and rstd
 *   `statistics`, the running ones `running_statistics`, of float, or double where dtype is
 *   AXN_FLOAT64. Each is aligned to its element, no more. Pointers marked optional may be null. rstd is
 *   1 / sqrt(variance + epsilon); for rms, with the mean of the squares in place of the variance, and
 *   the mean is 0. Statistics stand in the order of the layout: what reducing a dense x's array along the
 *   reduced axes leaves. So they are [C] for batch, [N] for layer and rms (axis 1), [N, C] for instance,
 *   [N, groups] for group, [N, spatial] for positional, [N / ghost_batch, C] for ghost; with axis 3 of
 *   N x C x H x W, [N, C, H] with channels first and [N, H, C] with channels last.
 *   Outputs overlap no other buffer, but where it says `may be`: then it is the same address, with the same
 *   strides (AXN_ERROR_OVERLAP). What counts are elements: a view may lie in another's gaps, as two slices of
 *   channels do. Where two views of different strides are woven into each other so that neither a
 *   common period nor a dense stretch tells them apart, they count as overlapping.
 *   workspace: at least the plan's size for this run, of any alignment; its contents mean nothing
 *   before or after. May be null where that size is 0.
 *   threads: for this call in place of the plan's number; 0 leaves the plan's.
 *   N = 0: nothing is written but parameter gradients, which are zero.
 *   NaN or infinity in x reaches the outputs of its own statistic only, and parameter gradients.
 *   Errors: AXN_ERROR_NULL, AXN_ERROR_STRUCT_SIZE, AXN_ERROR_THREADS, AXN_ERROR_WORKSPACE,
 *   AXN_ERROR_ALIGNMENT, AXN_ERROR_OVERLAP, AXN_ERROR_STATISTICS, and what a run says below.
 */

/* Forward in training: statistics from x. */
typedef struct axn_training_args {
  size_t struct_size;
  const void *x;
  void *y;            /* may be x, or residual */
  const void *scale;  /* optional: 1 */
  const void *shift;  /* optional: 0 */
  void *mean;         /* optional output, for axn_backward */
  void *rstd;         /* optional output, for axn_backward */
  void *running_mean; /* optional, updated; batch, instance and ghost only, both or neither */
  void *running_variance;
  int64_t *batch_count; /* optional, batches so far, 0 or above, incremented (by the number of ghost
                           batches); required with running statistics and AXN_MOMENTUM_CUMULATIVE */
  void *workspace;
  size_t workspace_size;
  int threads;
  const void *residual; /* optional: added before the activation; elements, as y */
} axn_training_args;

static inline axn_training_args axn_training_init(void) {
  axn_training_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  return args;
}

/* Running update: new = (1 - momentum) * old + momentum * statistic; for ghost batches once for each,
 * in order (Hoffer, Hubara & Soudry 2017).
 * Fails with AXN_ERROR_TOO_FEW_VALUES for batch, ghost and instance normalization where a statistic has
 * one value (as PyTorch does); layer, group and positional normalization give the shift there, rms
 * x * rstd * scale + shift as ever. AXN_ERROR_MOMENTUM where *batch_count is negative, or 2^62
 * or more. */
AXN_API axn_status axn_forward_training(const axn_plan *plan, const axn_training_args *args,
                                        axn_error *error);

/* Forward in inference. With running_mean and running_variance (batch, ghost and instance) these
 * normalize; batch and ghost must have them. Without, as in training, from x: all others, and instance
 * by choice (where a statistic has one value, that gives the shift). With running statistics, instance
 * normalization may need less workspace than the plan says.
 * Running variances are not checked: where running_variance + epsilon is NaN or not above 0, its channel
 * becomes NaN or infinite, here and in backward, and no other. */
typedef struct axn_inference_args {
  size_t struct_size;
  const void *x;
  void *y;                  /* may be x, or residual */
  const void *scale;        /* optional: 1 */
  const void *shift;        /* optional: 0 */
  const void *running_mean; /* both or neither, see above */
  const void *running_variance;
  void *workspace;
  size_t workspace_size;
  int threads;
  const void *residual; /* optional: added before the activation; elements, as y */
} axn_inference_args;

static inline axn_inference_args axn_inference_init(void) {
  axn_inference_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  return args;
}

AXN_API axn_status axn_forward_inference(const axn_plan *plan, const axn_inference_args *args,
                                         axn_error *error);

/* Backward: gradients of a loss by x, scale, shift and residual, from its gradient by y.
 * Statistics: either mean and rstd as axn_forward_training gave them, through which the gradient
 * then flows; or running_mean and running_variance (batch, ghost and instance), which are constants.
 * rms needs rstd alone.
 * With an activation, its argument z is computed again, from x, the statistics, scale, shift and
 * residual: nothing of z is kept from forward, and y is not needed. The gradient by z,
 * grad_y * activation'(z), is written to grad_residual or, where that is null, to grad_x first, so that
 * one of them is required; the 16-bit types round it there, once. How near that z is to forward's where the
 * mean is large: docs/mathematics.md, section 7.11.
 * Errors besides the common ones: AXN_ERROR_NULL where an activation lacks x, or both grad_x and
 * grad_residual; AXN_ERROR_OPTION where grad_residual is given without an activation. */
typedef struct axn_backward_args {
  size_t struct_size;
  const void *x; /* optional with running statistics, without grad_scale and without activation */
  const void *grad_y;
  const void *scale; /* optional: 1 */
  const void *mean;  /* these two, rms: rstd alone; or */
  const void *rstd;
  const void *running_mean; /* these two */
  const void *running_variance;
  void *grad_x;     /* optional output; may be grad_y */
  void *grad_scale; /* optional output, also where scale is null */
  void *grad_shift; /* optional output, also where shift is null */
  void *workspace;
  size_t workspace_size;
  int threads;
  const void *shift;    /* with an activation, else not read: what forward was given, or null */
  const void *residual; /* likewise */
  void *grad_residual;  /* optional output, only with an activation (without one it is grad_y): the
                           gradient by z, also where residual is null */
} axn_backward_args;

static inline axn_backward_args axn_backward_init(void) {
  axn_backward_args args;
  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  return args;
}

AXN_API axn_status axn_backward(const axn_plan *plan, const axn_backward_args *args,
                                axn_error *error);

/* The version of the library that runs, "MAJOR.MINOR.PATCH". */
AXN_API const char *axn_version(void);

#ifdef __cplusplus
}
#endif

#endif
