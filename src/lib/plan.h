/* SPDX-License-Identifier: MIT */
/* The plan: everything decided before data is there. */
#ifndef AXN_LIB_PLAN_H
#define AXN_LIB_PLAN_H

#include "kernels/kernels.h"
#include "kernels/wide.h"
#include "parallel.h"
#include "partition.h"
#include "view.h"

struct axn_plan {
  axn_desc desc; /* with all strides filled in */
  axn_strategy strategy;
  axn_axes axes;
  axn_isa isa;
  size_t element_size;
  bool doubles; /* the tensors' type is float64: all goes the way of float64 */
  const axn_kernels *kernels;
  const axn_wide_kernels *wide;
  const axn_wide_kernels *parameter_kernels; /* to load and store parameters */
  axn_moments_kernel *const *moments;        /* per form */
  int64_t cache_bytes;                       /* beyond which outputs go past the caches */
  int64_t elements;                          /* 0 where N is 0; all below is then for N = 1 */
  axn_view views[AXN_SIDES];                 /* where the elements of the tensors lie */
  int64_t parameters;                        /* of scale and of shift */
  int64_t running;                           /* 0 where the norm keeps no running statistics */
  axn_geometry own;                          /* cells are the statistics of x */
  axn_geometry given;                        /* cells are channels; only where `running` is not 0 */
  axn_geometry
      by_parameter; /* cells are parameters, for their gradients where parameters meet elements
                                and not lines */
  int64_t bands;    /* of units, for backward in one go; 0 where that is not the way */
};

/* Statistics that the tensor really has: none where N is 0 and a sample has its own. */
int64_t axn_statistics(const axn_plan *plan);

/* Whether a pass is worth cutting inside its units, which costs a second visit to memory: only
 * where whole units do not keep all threads busy, or would have them write side by side. */
bool axn_split_units(const axn_runner *runner, const axn_partition *partition, int64_t pieces);

/* Whether a run over so many tensors is too large for any cache, so that its output may as well go
 * past them. `in_place`: it is there already. */
bool axn_streams_output(const axn_plan *plan, int tensors, bool in_place);

/* Workspaces hold doubles, from a cache line's start. */
double *axn_workspace_start(void *workspace);
size_t axn_workspace_bytes(int64_t doubles);

/* Doubles that a run over this geometry needs. */
int64_t axn_forward_doubles(const axn_plan *plan, bool given);
int64_t axn_backward_doubles(const axn_plan *plan, const axn_geometry *geometry);

/* Parameters whose type in memory is not that of reals are converted first: the doubles that scale or
 * shift then take, 0 where they are taken as they are. */
int64_t axn_parameter_doubles(const axn_plan *plan);

size_t axn_parameter_size(const axn_plan *plan); /* of one, in the caller's memory */

/* Scale or shift as reals: themselves, or converted into `room`. Null stays null. */
const void *axn_read_parameters(const axn_plan *plan, const void *parameters, double *room);

/* Sums alone, by the forward schedule: the moments of the plan's statistics, in the workspace of a
 * training run, for a plan with elements. */
axn_moments axn_sum_moments(const axn_plan *plan, const axn_runner *runner, const void *x,
                            void *workspace);

/* What the plan's passes end with. */
static inline axn_ending axn_ending_of(const axn_plan *plan, const void *residual) {
  return (axn_ending){.clamps = plan->desc.activation == AXN_ACTIVATION_RELU && residual == NULL,
                      .activation = plan->desc.activation,
                      .slope = plan->desc.negative_slope,
                      .residual = residual};
}

/* How many bands backward is cut into; see backward_bands.c. */
int64_t axn_bands_of(const axn_plan *plan);

/* Bytes that the public functions ask for; inference: at most, and with or without given statistics. */
size_t axn_training_bytes(const axn_plan *plan);
size_t axn_inference_bytes(const axn_plan *plan);
size_t axn_inference_bytes_with(const axn_plan *plan, bool given);
size_t axn_backward_bytes(const axn_plan *plan);

#endif
