/* SPDX-License-Identifier: MIT */
/* The largest block with contiguous rows that the kernels take: it is transposed in first-level
 * cache, 16 KiB at most. */
#ifndef AXN_LIB_TILE_H
#define AXN_LIB_TILE_H

enum { AXN_TILE_ROWS = 256, AXN_TILE_COLUMNS = 16 };

#endif
