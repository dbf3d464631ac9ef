/* SPDX-License-Identifier: MIT */
#include "view.h"

#include "error.h"

/* ---- from a descriptor ---- */

static int64_t extent_of(const axn_desc *desc, int axis) {
  return desc->shape[axis] == 0 ? 1 : desc->shape[axis];
}

/* Strides of a dense tensor, spatial axes from the last to the first; channels before or after them. */
static void fill_dense(const axn_desc *desc, int64_t strides[AXN_MAX_RANK]) {
  const bool last = desc->layout == AXN_CHANNELS_LAST;
  int64_t next = last ? extent_of(desc, 1) : 1;
  for (int k = desc->rank - 1; k >= 2; k--) {
    strides[k] = next;
    next *= extent_of(desc, k);
  }
  strides[1] = last ? 1 : next;
  strides[0] = last ? next : next * extent_of(desc, 1);
}

static bool all_zero(const axn_desc *desc, const int64_t strides[AXN_MAX_RANK]) {
  for (int k = 0; k < desc->rank; k++) {
    if (strides[k] != 0) return false;
  }
  return true;
}

/* Sorts an axis in, the largest stride first. */
static void insert(axn_view *view, int axis, int64_t extent, int64_t stride) {
  int at = view->count++;
  for (; at > 0 && view->stride[at - 1] < stride; at--) {
    view->axis[at] = view->axis[at - 1];
    view->extent[at] = view->extent[at - 1];
    view->stride[at] = view->stride[at - 1];
  }
  view->axis[at] = axis;
  view->extent[at] = extent;
  view->stride[at] = stride;
}

axn_status axn_read_view(const axn_desc *desc, int64_t strides[AXN_MAX_RANK], const char *name,
                         int64_t most, axn_view *view, axn_error *error) {
  *view = (axn_view){.span = 1};
  if (all_zero(desc, strides)) fill_dense(desc, strides);
  for (int k = 0; k < desc->rank; k++) {
    if (desc->shape[k] <= 1) continue;
    if (strides[k] < 1) {
      return axn_fail(error, AXN_ERROR_STRIDES, "%s[%d]: %lld is below 1", name, k,
                      (long long)strides[k]);
    }
    insert(view, k, desc->shape[k], strides[k]);
  }
  for (int i = view->count - 1; i >= 0; i--) {
    const int k = view->axis[i];
    if (view->stride[i] < view->span) {
      return axn_fail(error, AXN_ERROR_STRIDES,
                      "%s[%d]: %lld lets elements overlap; axes of smaller strides span %lld", name,
                      k, (long long)view->stride[i], (long long)view->span);
    }
    if (view->stride[i] > (most - view->span) / (view->extent[i] - 1)) {
      return axn_fail(error, AXN_ERROR_OVERFLOW,
                      "%s[%d]: %lld spans more elements than there can be", name, k,
                      (long long)view->stride[i]);
    }
    view->span += (view->extent[i] - 1) * view->stride[i];
  }
  return AXN_OK;
}

/* ---- where two meet ---- */

static bool same_strides(const axn_view *a, const axn_view *b) {
  if (a->count != b->count) return false;
  for (int i = 0; i < a->count; i++) {
    if (a->extent[i] != b->extent[i] || a->stride[i] != b->stride[i]) return false;
  }
  return true;
}

bool axn_same_view(const axn_view *a, const axn_view *b) {
  if (!same_strides(a, b)) return false;
  for (int i = 0; i < a->count; i++) {
    if (a->axis[i] != b->axis[i]) return false;
  }
  return true;
}

/* Elements between the first and the last that the axes from `axis` on reach. */
static int64_t reach(const axn_view *view, int axis) {
  int64_t sum = 0;
  for (int i = axis; i < view->count; i++) sum += (view->extent[i] - 1) * view->stride[i];
  return sum;
}

/* Whether `distance` is one between two elements of the view, along the axes from `axis` on: a number of
 * steps along each, forward or back. What the axes after the first reach is less than one step of it, so
 * that at most two numbers of steps come close enough. */
static bool is_distance(const axn_view *view, int axis, int64_t distance) {
  if (distance < 0) distance = -distance;
  if (axis == view->count) return distance == 0;
  const int64_t stride = view->stride[axis], steps = distance / stride, rest = distance % stride;
  if (steps < view->extent[axis] && is_distance(view, axis + 1, rest)) return true;
  return steps + 1 < view->extent[axis] && is_distance(view, axis + 1, stride - rest);
}

static int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* What the axes of strides below `limit` reach. */
static int64_t reach_below(const axn_view *view, int64_t limit) {
  int first = 0;
  while (first < view->count && view->stride[first] >= limit) first++;
  return reach(view, first);
}

static int64_t period_from(const axn_view *view, int64_t limit, int64_t period) {
  for (int i = 0; i < view->count; i++) {
    if (view->stride[i] >= limit) period = common_divisor(period, view->stride[i]);
  }
  return period;
}

/* Whether the strides from `limit` on have a period such that all else of each view stays in a part of it of
 * its own. `distance`: from the first element of a to that of b. */
static bool apart_in_period(const axn_view *a, const axn_view *b, int64_t limit, int64_t distance) {
  const int64_t period = period_from(a, limit, period_from(b, limit, 0));
  if (period == 0) return false;
  const int64_t ahead = (distance % period + period) % period;
  return reach_below(a, limit) < ahead && ahead + reach_below(b, limit) < period;
}

static bool is_dense(const axn_view *view) {
  int64_t elements = 1;
  for (int i = 0; i < view->count; i++) elements *= view->extent[i];
  return elements == view->span;
}

bool axn_views_meet(const axn_view *a, const void *at_a, const axn_view *b, const void *at_b,
                    size_t element_size) {
  const uintptr_t start_a = (uintptr_t)at_a, start_b = (uintptr_t)at_b;
  const size_t span_a = (size_t)a->span * element_size, span_b = (size_t)b->span * element_size;
  if (is_dense(a)) return axn_view_meets(b, at_b, element_size, at_a, span_a);
  if (is_dense(b)) return axn_view_meets(a, at_a, element_size, at_b, span_b);
  const int64_t size = (int64_t)element_size;
  const int64_t distance = start_a < start_b ? (int64_t)(start_b - start_a) / size
                                             : -((int64_t)(start_a - start_b) / size);
  if (same_strides(a, b)) return is_distance(a, 0, distance);
  for (int i = 0; i < a->count; i++) {
    if (apart_in_period(a, b, a->stride[i], distance)) return false;
  }
  for (int i = 0; i < b->count; i++) {
    if (apart_in_period(a, b, b->stride[i], distance)) return false;
  }
  return true;
}

/* The first element at offset `from` or after it, an offset; or -1. */
static int64_t next_element(const axn_view *view, int64_t from) {
  int64_t element = 0;
  if (from <= 0) return 0;
  if (from >= view->span) return -1;
  for (int i = 0; i < view->count && element < from; i++) {
    const int64_t left = from - element, steps = left / view->stride[i];
    /* From the end of this step's part it is the next step's first element. */
    if (left - steps * view->stride[i] > reach(view, i + 1)) {
      return element + (steps + 1) * view->stride[i];
    }
    element += steps * view->stride[i];
  }
  return element;
}

bool axn_view_meets(const axn_view *view, const void *at, size_t element_size, const void *start,
                    size_t size) {
  const uintptr_t first = (uintptr_t)at, begin = (uintptr_t)start, end = begin + size;
  if (size == 0 || end <= first) return false;
  /* The first element of which a byte lies behind the beginning. */
  const uintptr_t from = begin < first ? 0 : (begin - first) / element_size;
  if (from >= (uintptr_t)view->span) return false;
  const int64_t element = next_element(view, (int64_t)from);
  return element >= 0 && (uintptr_t)element * element_size < end - first;
}
