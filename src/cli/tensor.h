/* SPDX-License-Identifier: MIT */
/* An array of any element type with its shape, as it stands in a file: C order. */
#ifndef AXISNORM_TENSOR_H
#define AXISNORM_TENSOR_H

#include "message.h"
#include "values.h"

struct tensor {
  struct shape shape;
  int64_t count;
  axn_dtype dtype;
  void *data; /* null: no tensor */
};

/* Zeros of that shape, in whole cache lines of their own. A tensor without elements has data too, so
 * that null means none. */
enum outcome tensor_create(struct tensor *tensor, const struct shape *shape, axn_dtype dtype);

/* A vector of `count` elements that are all `value`. */
enum outcome tensor_create_vector(struct tensor *tensor, int64_t count, axn_dtype dtype,
                                  double value);

/* The same values, rounded, in another type. */
enum outcome tensor_convert(struct tensor *tensor, axn_dtype dtype);

void tensor_release(struct tensor *tensor);

size_t tensor_bytes(const struct tensor *tensor);
double tensor_get(const struct tensor *tensor, int64_t at);
void tensor_set(struct tensor *tensor, int64_t at, double value);

/* Of mean and rstd, the running ones too, of a tensor of type `dtype`. */
axn_dtype tensor_statistics_dtype(axn_dtype dtype);

bool shape_equal(const struct shape *a, const struct shape *b);

#endif
