/* SPDX-License-Identifier: MIT */
/* NumPy .npy files: versions 1.0 to 3.0, C order, little-endian, float32. */
#ifndef AXISNORM_NPY_H
#define AXISNORM_NPY_H

#include "output_file.h"
#include "tensor.h"

enum outcome npy_read_file(const char *path, struct tensor *tensor);

/* A whole .npy file that is in memory; `name` for messages. */
enum outcome npy_read_memory(const char *name, const unsigned char *bytes, size_t size,
                             struct tensor *tensor);

enum outcome npy_write(struct output_file *output, const struct tensor *tensor);

#endif
