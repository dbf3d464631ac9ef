/* SPDX-License-Identifier: MIT */
/* Strategies: from a descriptor to the axes that share statistics. Pure shape algebra; the one room
 * that knows normalizations by name. */
#ifndef AXN_LIB_STRATEGY_H
#define AXN_LIB_STRATEGY_H

#include <stdbool.h>

#include "axisnorm/axisnorm.h"

/* Which axes are reduced. Axis k is bit k, in the order N, C, spatial. */
typedef struct axn_axes {
  uint32_t reduced;
  int split_axis; /* cut into groups first: the group index is kept, the rest is reduced; or -1 */
  int64_t split_groups; /* 1 where nothing is split */
} axn_axes;

typedef struct axn_strategy {
  const char *name;
  axn_status (*select)(const axn_desc *desc, axn_axes *axes, axn_error *error);
  bool running_statistics;      /* keeps a mean and a variance per channel for inference */
  bool inference_needs_running; /* has no inference without them */
  bool training_needs_values;   /* one value per statistic is an error in training */
  bool parameters_per_element;  /* takes scale and shift per normalized element */
} axn_strategy;

/* Null for a value that is no norm. */
const axn_strategy *axn_strategy_of(axn_norm norm);

#endif
