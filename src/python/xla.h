/* SPDX-License-Identifier: MIT */
/* What the handlers of XLA's custom calls are made of. They run on XLA's threads and know no Python. */
#ifndef AXISNORM_PYTHON_XLA_H
#define AXISNORM_PYTHON_XLA_H

#include <stdbool.h>

#include "axisnorm/axisnorm.h"
#include "xla_ffi.h"

/* Threads of the pool on which XLA runs a computation; 1 where it lends none. */
int xla_threads(const XLA_FFI_CallFrame *frame);

/* An axn_parallel_for on that pool, of the call that xla_enter() named last on this thread. */
void xla_enter(const XLA_FFI_CallFrame *frame);
void xla_parallel_for(void *context, int threads, int64_t count, axn_task task, void *data);

/* A plan in use. */
struct xla_plan {
  axn_plan *plan;
  axn_plan_info info;
  int place; /* in the cache, or -1 */
};

/* A plan for the descriptor, made where none is kept; any thread may ask. To be given back. */
axn_status xla_plan_take(struct xla_plan *taken, const axn_desc *desc, axn_error *error);
void xla_plan_give_back(const struct xla_plan *taken);

XLA_FFI_Error *xla_training(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *xla_inference(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *xla_backward(XLA_FFI_CallFrame *frame);

#endif
