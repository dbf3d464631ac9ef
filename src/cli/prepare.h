/* SPDX-License-Identifier: MIT */
/* From options and a shape to a plan that is ready to run. */
#ifndef AXISNORM_PREPARE_H
#define AXISNORM_PREPARE_H

#include "options.h"
#include "tensor.h"

/* Where a shape came from, for messages. */
struct shape_source {
  const char *name; /* a file or an option */
  int line;         /* of a list of shapes; 0: the name says all */
};

struct prepared {
  axn_desc desc;
  axn_plan *plan;
  axn_plan_info info;
  void *workspace; /* enough for each of the three runs; null before prepare_workspace */
  size_t workspace_size;
  struct shape_source source;
};

/* The groups that a norm gets where none are asked for; the help of --groups states the rule. */
int64_t prepare_default_groups(int64_t channels);

/* The largest divisor of a number of samples that is at most `most`; both at least 1. */
int64_t prepare_divisor(int64_t samples, int64_t most);

/* The ghost batch where none is asked for; the help of --ghost-batch states the rule. */
int64_t prepare_default_ghost_batch(int64_t samples);

/* Whether a norm starts from an axis, and takes scale and shift per element. */
bool prepare_takes_axis(axn_norm norm);

/* What is wanted; zeros where the options or the library say. */
struct wanted {
  axn_norm norm;
  struct shape shape; /* N, C, spatial */
  int64_t groups, ghost_batch;
  axn_parameters parameters;
  axn_dtype dtype, parameter_dtype;
  struct shape_source source;
};

/* An error that names the source where it is no rank of a tensor. */
enum outcome prepare_check_rank(const char *source, int rank);

/* Makes the plan. */
enum outcome prepare(struct prepared *prepared, const struct options *options,
                     const struct wanted *wanted);

/* Allocates what a run needs, which merely to look at the plan takes not. */
enum outcome prepare_workspace(struct prepared *prepared);

/* The threads and the instruction set of a tensor that is large enough for all of them. */
enum outcome prepare_machine(int64_t threads, axn_isa isa, axn_plan_info *info);

void prepare_release(struct prepared *prepared);

/* The message for a status of the library: names the option or file at fault. */
enum outcome prepare_failure(const struct prepared *prepared, axn_status status,
                             const axn_error *error);

/* Whether other samples reach a sample's statistics. */
bool prepare_shares_samples(const struct prepared *prepared);

/* Whether inference needs running statistics, in place of statistics that samples share. */
bool prepare_needs_running(const struct prepared *prepared);

/* Into how many parts an axis is cut, each within one statistic: its extent where it is kept. */
int64_t prepare_parts(const struct prepared *prepared, int axis);

/* The first normalized axis of layer and rms, from 0; 1, as is usual, for all others. */
int prepare_first_axis(const struct prepared *prepared);

/* An option that no norm in the list has is a mistake. */
enum outcome prepare_check_options(const struct options *options);

/* The axis, of N, C, spatial, that stands at a position of memory and of a file's shape. */
int prepare_axis_at(const axn_desc *desc, int position);

/* The extents, in the order of the file, of the axes that the plan reduces. */
void prepare_reduced_shape(const struct prepared *prepared, struct shape *shape);

/* Those of the axes that are kept, a split axis as its groups: what statistics have. */
void prepare_statistics_shape(const struct prepared *prepared, struct shape *shape);

/* The shape of a file as N, C, spatial, by the layout. */
void prepare_shape_from_file(const struct shape *file, axn_layout layout, struct shape *shape);

#endif
