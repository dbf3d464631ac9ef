/* SPDX-License-Identifier: MIT */
/* The largest block that the kernels take: what they keep per line stands on the stack. */
#ifndef AXN_LIB_SIZES_H
#define AXN_LIB_SIZES_H

#include <stdint.h>

enum {
  AXN_MOST_ROWS = 64,      /* lines that are runs of memory */
  AXN_MOST_COLUMNS = 1024, /* columns: lines x fold */
  AXN_MOST_LINES = AXN_MOST_COLUMNS,
  AXN_PAD = 8, /* doubles in the widest vector */
  /* Entries of an array per line: so that several of them one after the other do not share the same
   * sets of a cache, and that whole vectors may be read. */
  AXN_LINE_ROOM = AXN_MOST_LINES + 80
};

/* Arrays per line begin a line of the cache: a vector that lies in two of them is read twice. */
#define AXN_LINES_OF_CACHE _Alignas(64)

/* Up to a whole number of the widest vectors. */
static inline int64_t axn_padded(int64_t count) {
  return (count + AXN_PAD - 1) / AXN_PAD * AXN_PAD;
}

#endif
