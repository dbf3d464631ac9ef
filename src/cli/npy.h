/* SPDX-License-Identifier: MIT */
/* NumPy .npy files: versions 1.0 to 3.0, C order, little-endian; bfloat16 as uint16, which NumPy lacks. */
#ifndef AXISNORM_NPY_H
#define AXISNORM_NPY_H

#include "output_file.h"
#include "tensor.h"

/* The types that a file may have, and why, for the message: ", as the input has". */
struct npy_due {
  unsigned types; /* bits 1 << dtype */
  const char *reason;
};

/* Any that NumPy has, or that one where it is not 0. */
struct npy_due npy_due_input(axn_dtype dtype);

enum outcome npy_read_file(const char *path, struct npy_due due, struct tensor *tensor);

/* A whole .npy file that is in memory; `name` for messages. */
enum outcome npy_read_memory(const char *name, const unsigned char *bytes, size_t size,
                             struct npy_due due, struct tensor *tensor);

enum outcome npy_write(struct output_file *output, const struct tensor *tensor);

#endif
