/* SPDX-License-Identifier: MIT */
/* Checks of what a caller hands over, before anything is written. */
#ifndef AXN_LIB_CHECK_H
#define AXN_LIB_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "axisnorm/axisnorm.h"
#include "view.h"

/* Copies a caller's struct, which may come from an older or a newer header, into ours of `size`
 * bytes. An older one ends earlier, the rest is zero; a newer one may be longer, if what we do not
 * know is zero. `first` is the size of the struct's first version. */
axn_status axn_read_struct(void *ours, size_t size, size_t first, const void *theirs,
                           const char *name, axn_error *error);

typedef struct axn_buffer {
  const char *name;
  const void *start;
  int64_t count;
  size_t element_size;
  bool required;
  bool written;
  const char *in_place_of; /* a buffer that it may be the same as; or null */
  const char *or_of;       /* another; or null */
  const axn_view *view;    /* where its elements lie; null: one after the other */
} axn_buffer;

enum { AXN_MOST_BUFFERS = 16 };

/* Null pointers, alignment, and overlap of anything written with anything else; of at most so many. */
axn_status axn_check_buffers(const axn_buffer *buffers, int count, axn_error *error);

axn_status axn_check_workspace(const void *workspace, size_t size, size_t needed, axn_error *error);

axn_status axn_check_threads(int threads, axn_error *error);

/* Of batches so far; null is allowed. It must have room for those of a run. */
axn_status axn_check_batch_count(const int64_t *count, axn_error *error);

#endif
