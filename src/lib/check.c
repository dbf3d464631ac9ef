/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <string.h>

#include "error.h"

axn_status axn_read_struct(void *ours, size_t size, size_t first, const void *theirs,
                           const char *name, axn_error *error) {
  size_t stated;
  if (theirs == NULL) return axn_fail(error, AXN_ERROR_NULL, "%s: is null", name);
  memcpy(&stated, theirs, sizeof stated);
  /* The upper bound keeps a struct that was never started from being read far beyond its end. */
  if (stated < first || stated > 16 * size) {
    return axn_fail(error, AXN_ERROR_STRUCT_SIZE,
                    "%s: struct_size is %zu; start the struct with its init function", name,
                    stated);
  }
  for (size_t i = size; i < stated; i++) {
    if (((const unsigned char *)theirs)[i] == 0) continue;
    return axn_fail(error, AXN_ERROR_STRUCT_SIZE,
                    "%s: has a field set that this version of the library does not know", name);
  }
  memset(ours, 0, size);
  memcpy(ours, theirs, stated < size ? stated : size);
  return AXN_OK;
}

static axn_status check_buffer(const axn_buffer *buffer, axn_error *error) {
  if (buffer->start == NULL) {
    if (!buffer->required || buffer->count == 0) return AXN_OK;
    return axn_fail(error, AXN_ERROR_NULL, "%s: is null", buffer->name);
  }
  if ((uintptr_t)buffer->start % buffer->element_size != 0) {
    return axn_fail(error, AXN_ERROR_ALIGNMENT, "%s: is not aligned to its elements of %zu bytes",
                    buffer->name, buffer->element_size);
  }
  return AXN_OK;
}

/* Addresses from the first byte to behind the last; of what has none, none that any other could have. */
typedef struct range {
  uintptr_t begin, end;
} range;

static range range_of(const axn_buffer *buffer) {
  const bool strided = buffer->view != NULL && buffer->count > 0;
  const int64_t count = strided ? buffer->view->span : buffer->count;
  const uintptr_t begin = (uintptr_t)buffer->start;
  if (buffer->start == NULL || count == 0) return (range){0, 0};
  return (range){begin, begin + (size_t)count * buffer->element_size};
}

/* Of two whose ranges do. */
static bool overlap(const axn_buffer *a, const axn_buffer *b) {
  if (a->view != NULL && b->view != NULL) {
    return axn_views_meet(a->view, a->start, b->view, b->start, a->element_size);
  }
  if (a->view == NULL && b->view == NULL) return true;
  const axn_buffer *strided = a->view != NULL ? a : b, *other = a->view != NULL ? b : a;
  return axn_view_meets(strided->view, strided->start, strided->element_size, other->start,
                        (size_t)other->count * other->element_size);
}

static bool is_named(const char *name, const axn_buffer *buffer) {
  return name != NULL && strcmp(name, buffer->name) == 0;
}

static bool same_place(const axn_buffer *a, const axn_buffer *b) {
  if (a->start != b->start) return false;
  return a->view == b->view ||
         (a->view != NULL && b->view != NULL && axn_same_view(a->view, b->view));
}

static bool in_place(const axn_buffer *written, const axn_buffer *other) {
  return same_place(written, other) &&
         (is_named(written->in_place_of, other) || is_named(written->or_of, other));
}

static axn_status check_overlap(const axn_buffer *written, const axn_buffer *other,
                                axn_error *error) {
  if (!overlap(written, other) || in_place(written, other)) return AXN_OK;
  return axn_fail(error, AXN_ERROR_OVERLAP, "%s: overlaps %s", written->name, other->name);
}

axn_status axn_check_buffers(const axn_buffer *buffers, int count, axn_error *error) {
  range ranges[AXN_MOST_BUFFERS];
  axn_status status = AXN_OK;
  for (int i = 0; i < count; i++) {
    status = check_buffer(&buffers[i], error);
    if (status != AXN_OK) return status;
    ranges[i] = range_of(&buffers[i]);
  }
  for (int i = 0; i < count; i++) {
    if (!buffers[i].written || ranges[i].end == 0) continue;
    for (int j = 0; j < count && status == AXN_OK; j++) {
      /* Of two that are written, the first speaks for both. */
      if (j == i || (buffers[j].written && j < i)) continue;
      if (ranges[i].end <= ranges[j].begin || ranges[j].end <= ranges[i].begin) continue;
      status = check_overlap(&buffers[i], &buffers[j], error);
    }
  }
  return status;
}

axn_status axn_check_workspace(const void *workspace, size_t size, size_t needed,
                               axn_error *error) {
  if (needed == 0) return AXN_OK;
  if (workspace == NULL) {
    return axn_fail(error, AXN_ERROR_NULL, "workspace: is null; %zu bytes are needed", needed);
  }
  if (size < needed) {
    return axn_fail(error, AXN_ERROR_WORKSPACE, "workspace_size: %zu bytes; %zu are needed", size,
                    needed);
  }
  return AXN_OK;
}

axn_status axn_check_threads(int threads, axn_error *error) {
  if (threads >= 0) return AXN_OK;
  return axn_fail(error, AXN_ERROR_THREADS, "threads: %d is negative", threads);
}

axn_status axn_check_batch_count(const int64_t *count, axn_error *error) {
  if (count == NULL || (*count >= 0 && *count <= INT64_MAX / 2)) return AXN_OK;
  return axn_fail(error, AXN_ERROR_MOMENTUM, "batch_count: %lld is %s", (long long)*count,
                  *count < 0 ? "negative" : "too large");
}
