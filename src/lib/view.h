/* SPDX-License-Identifier: MIT */
/*
 * Views: where the elements of a tensor lie, dense or with strides. Pure; knows no memory but addresses.
 *
 * Strides are *nested*: sorted by size, each is larger than the distance between the first and the last
 * element that the smaller ones reach. So elements stand in the order of their indices along the sorted
 * axes, and no two of them in the same place.
 */
#ifndef AXN_LIB_VIEW_H
#define AXN_LIB_VIEW_H

#include <stdbool.h>
#include <stddef.h>

#include "axisnorm/axisnorm.h"

typedef struct axn_view {
  int count; /* axes of extents above 1, the largest stride first */
  int64_t extent[AXN_MAX_RANK], stride[AXN_MAX_RANK];
  int axis[AXN_MAX_RANK]; /* of the descriptor */
  int64_t span;           /* elements from the first to the last, both included */
} axn_view;

/* The view of a descriptor whose shape is checked; a batch of no samples counts as one of one. `strides` is a
 * field of the descriptor, `name` its name; where they are all zero, they are filled in. `most`: elements
 * that may be spanned. */
axn_status axn_read_view(const axn_desc *desc, int64_t strides[AXN_MAX_RANK], const char *name,
                         int64_t most, axn_view *view, axn_error *error);

/* Whether elements of two tensors of this element size meet. True, too, where that cannot be told: where
 * two views of different strides are woven into each other without a common period. */
bool axn_views_meet(const axn_view *a, const void *at_a, const axn_view *b, const void *at_b,
                    size_t element_size);

/* Whether an element of a tensor lies in a piece of memory. */
bool axn_view_meets(const axn_view *view, const void *at, size_t element_size, const void *start,
                    size_t size);

/* Whether every element has the same place in both. */
bool axn_same_view(const axn_view *a, const axn_view *b);

#endif
