/* SPDX-License-Identifier: MIT */
/* One pass of a layer through oneDNN. */
#ifndef AXISNORM_PEERS_THEIRS_H
#define AXISNORM_PEERS_THEIRS_H

#include "layers.h"

#include <oneapi/dnnl/dnnl.h>

struct library {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
};

enum { BUFFERS_MOST = 8 };

struct theirs {
  dnnl_stream_t stream;
  dnnl_primitive_t primitive;
  dnnl_exec_arg_t buffers[BUFFERS_MOST];
  int buffer_count;
  char implementation[64]; /* oneDNN's name for the code that it chose */
};

struct library library_open(void);
void library_close(struct library *library);

/* "OpenMP", "TBB", "SYCL", …: what runs oneDNN's threads. */
const char *library_runtime(void);

/* The name of the primitive that computes the layer. */
const char *theirs_primitive(const axn_desc *desc);

/* False where oneDNN has no code for the layer. For the backward pass this runs the forward one,
 * for its statistics. */
int theirs_make(struct theirs *theirs, const struct library *library, const axn_desc *desc,
                enum pass pass, const struct inputs *inputs, const struct outputs *outputs);
void theirs_run(void *context); /* a struct theirs */
void theirs_free(struct theirs *theirs);

#endif
