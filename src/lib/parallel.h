/* SPDX-License-Identifier: MIT */
/* Parallel loops: OpenMP's, or the host's. */
#ifndef AXN_LIB_PARALLEL_H
#define AXN_LIB_PARALLEL_H

#include "axisnorm/axisnorm.h"

typedef struct axn_runner {
  int threads; /* at most; what the host was told, 0 where it decides */
  axn_parallel_for host;
  void *context;
} axn_runner;

/* The runner of a call over `elements` values: `threads` where it is above 0, else the plan's.
 * Below some size a team costs more than the work, and the calling thread does it alone. */
axn_runner axn_runner_of(const axn_desc *desc, int threads, int64_t elements);

/* How many threads to plan for, at least 1. */
int axn_runner_width(const axn_runner *runner);

/* Calls `task` on ranges that together cover 0 to count; returns when all are done. */
void axn_run(const axn_runner *runner, int64_t count, axn_task task, void *data);

#endif
