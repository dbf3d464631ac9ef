/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "tensor.h"

#include <stdlib.h>
#include <string.h>

/* Cache lines: streaming stores need whole ones. */
enum { TENSOR_ALIGNMENT = 64 };

enum outcome tensor_create(struct tensor *tensor, const struct shape *shape) {
  tensor->shape = *shape;
  if (!value_shape_elements(shape, &tensor->count)) return message_no_memory();
  size_t bytes = (tensor->count > 0 ? (size_t)tensor->count : 1) * sizeof *tensor->data;
  void *data;
  if (posix_memalign(&data, TENSOR_ALIGNMENT, bytes) != 0) return message_no_memory();
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
