/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "tensor.h"
#include "element.h"

#include <stdlib.h>
#include <string.h>

/* Passes over memory move whole lines, and streaming stores need them. */
enum { CACHE_LINE = 64 };

enum outcome tensor_create(struct tensor *tensor, const struct shape *shape, axn_dtype dtype) {
  tensor->shape = *shape;
  tensor->dtype = dtype;
  if (!value_shape_elements(shape, &tensor->count)) return message_no_memory();
  size_t lines = (tensor_bytes(tensor) + CACHE_LINE - 1) / CACHE_LINE;
  size_t bytes = (lines > 0 ? lines : 1) * CACHE_LINE;
  void *data;
  if (posix_memalign(&data, CACHE_LINE, bytes) != 0) return message_no_memory();
  tensor->data = memset(data, 0, bytes);
  return DONE;
}

enum outcome tensor_create_vector(struct tensor *tensor, int64_t count, axn_dtype dtype,
                                  double value) {
  struct shape shape = {.rank = 1, .extents = {count}};
  enum outcome outcome = tensor_create(tensor, &shape, dtype);
  for (int64_t i = 0; outcome == DONE && i < count; i++) tensor_set(tensor, i, value);
  return outcome;
}

enum outcome tensor_convert(struct tensor *tensor, axn_dtype dtype) {
  if (tensor->dtype == dtype) return DONE;
  struct tensor converted;
  enum outcome outcome = tensor_create(&converted, &tensor->shape, dtype);
  if (outcome != DONE) return outcome;
  for (int64_t i = 0; i < tensor->count; i++) tensor_set(&converted, i, tensor_get(tensor, i));
  tensor_release(tensor);
  *tensor = converted;
  return DONE;
}

void tensor_release(struct tensor *tensor) {
  free(tensor->data);
  tensor->data = NULL;
}

size_t tensor_bytes(const struct tensor *tensor) {
  return (size_t)tensor->count * axn_dtype_size(tensor->dtype);
}

double tensor_get(const struct tensor *tensor, int64_t at) {
  return element_get(tensor->data, tensor->dtype, at);
}

void tensor_set(struct tensor *tensor, int64_t at, double value) {
  element_set(tensor->data, tensor->dtype, at, value);
}

axn_dtype tensor_statistics_dtype(axn_dtype dtype) {
  return dtype == AXN_FLOAT64 ? AXN_FLOAT64 : AXN_FLOAT32;
}

bool shape_equal(const struct shape *a, const struct shape *b) {
  if (a->rank != b->rank) return false;
  for (int k = 0; k < a->rank; k++)
    if (a->extents[k] != b->extents[k]) return false;
  return true;
}
