/* SPDX-License-Identifier: MIT */
/* A float32 array with its shape, as it stands in a file: C order. */
#ifndef AXISNORM_TENSOR_H
#define AXISNORM_TENSOR_H

#include "message.h"
#include "values.h"

struct tensor {
  struct shape shape;
  int64_t count;
  float *data; /* null: no tensor */
};

/* Zeros of that shape, in whole cache lines of their own. A tensor without elements has data too, so
 * that null means none. */
enum outcome tensor_create(struct tensor *tensor, const struct shape *shape);

/* A vector of `count` elements that are all `value`. */
enum outcome tensor_create_vector(struct tensor *tensor, int64_t count, float value);

void tensor_release(struct tensor *tensor);

bool shape_equal(const struct shape *a, const struct shape *b);

#endif
