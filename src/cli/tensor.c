/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "tensor.h"

#include <stdlib.h>
#include <string.h>

/* Passes over memory move whole lines, and streaming stores need them. */
enum { CACHE_LINE = 64 };

enum outcome tensor_create(struct tensor *tensor, const struct shape *shape) {
  tensor->shape = *shape;
  if (!value_shape_elements(shape, &tensor->count)) return message_no_memory();
  size_t lines = ((size_t)tensor->count * sizeof *tensor->data + CACHE_LINE - 1) / CACHE_LINE;
  size_t bytes = (lines > 0 ? lines : 1) * CACHE_LINE;
  void *data;
  if (posix_memalign(&data, CACHE_LINE, bytes) != 0) return message_no_memory();
  tensor->data = memset(data, 0, bytes);
  return DONE;
}

enum outcome tensor_create_vector(struct tensor *tensor, int64_t count, float value) {
  struct shape shape = {.rank = 1, .extents = {count}};
  enum outcome outcome = tensor_create(tensor, &shape);
  for (int64_t i = 0; outcome == DONE && i < count; i++) tensor->data[i] = value;
  return outcome;
}

void tensor_release(struct tensor *tensor) {
  free(tensor->data);
  tensor->data = NULL;
}

bool shape_equal(const struct shape *a, const struct shape *b) {
  if (a->rank != b->rank) return false;
  for (int k = 0; k < a->rank; k++)
    if (a->extents[k] != b->extents[k]) return false;
  return true;
}
