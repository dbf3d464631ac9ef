/* SPDX-License-Identifier: MIT */
/* From options and a shape to a plan that is ready to run. */
#ifndef AXISNORM_PREPARE_H
#define AXISNORM_PREPARE_H

#include "options.h"
#include "tensor.h"

struct prepared {
  axn_desc desc;
  axn_plan *plan;
  axn_plan_info info;
  void *workspace; /* enough for each of the three runs */
  size_t workspace_size;
  const char *shape_source; /* the file or option that the shape came from */
};

/* The groups that a norm gets where none are asked for; the help of --groups states the rule. */
int64_t prepare_default_groups(int64_t channels);

/* `groups` 0: as options say. The shape is N, C, spatial. */
enum outcome prepare(struct prepared *prepared, const struct options *options, axn_norm norm,
                     const struct shape *shape, int64_t groups, axn_parameters parameters,
                     const char *shape_source);
void prepare_release(struct prepared *prepared);

/* The message for a status of the library: names the option or file at fault. */
enum outcome prepare_failure(const struct prepared *prepared, axn_status status,
                             const axn_error *error);

/* An option that no norm in the list has is a mistake. */
enum outcome prepare_check_options(const struct options *options);

/* Shapes of files to shapes of the library and back, by the layout. */
void prepare_shape_from_file(const struct shape *file, axn_layout layout, struct shape *shape);

#endif
