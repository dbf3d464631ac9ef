/* SPDX-License-Identifier: MIT */
/* One pass of a layer through oneDNN. */
#ifndef AXISNORM_PEERS_THEIRS_H
#define AXISNORM_PEERS_THEIRS_H

#include "tensors.h"

#include <oneapi/dnnl/dnnl.h>

struct library {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
};

/* How oneDNN comes to the residual and the activation. */
enum fusion {
  SEQUENCE, /* a primitive for each, in place where backward needs nothing from in between */
  FLAG,     /* dnnl_fuse_norm_relu: batch normalization and ReLU. dnnl_fuse_norm_add_relu is
               not there for the CPU */
  POST_OPS, /* inference alone */
  FUSIONS
};

enum { BUFFERS_MOST = 10, STEPS_MOST = 3 };

/* A primitive and its arguments. */
struct step {
  dnnl_primitive_t primitive;
  dnnl_exec_arg_t buffers[BUFFERS_MOST];
  int buffer_count;
};

struct theirs {
  dnnl_stream_t stream;
  struct step steps[STEPS_MOST];
  int step_count;
  void *workspace; /* what FLAG leaves for the backward pass */
  char way[128];   /* the primitives, and oneDNN's name for the code that it chose */
};

struct library library_open(void);
void library_close(struct library *library);

/* "OpenMP", "TBB", "SYCL", …: what runs oneDNN's threads. */
const char *library_runtime(void);

/* What is to be made. */
struct task {
  const struct library *library;
  const struct layer *layer;
  enum pass pass;
  enum fusion fusion;
  const struct inputs *inputs;
  const struct outputs *outputs;
};

/* False where oneDNN has no code for the task, or the fusion is not for it. For the backward pass
 * this runs the forward one, for its statistics. */
int theirs_make(struct theirs *theirs, const struct task *task);
void theirs_run(void *context); /* a struct theirs */
void theirs_free(struct theirs *theirs);

#endif
