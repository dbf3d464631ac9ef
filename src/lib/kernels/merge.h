/* SPDX-License-Identifier: MIT */
/* Sums that blocks of the same lines leave behind, added up: each for itself, so that any width gives the same. */
#ifndef AXN_LIB_KERNELS_MERGE_H
#define AXN_LIB_KERNELS_MERGE_H

#include <math.h>

#include "kernels.h"
#include "vector.h"

INLINE void add_doubles(double *to, const double *from, int64_t count) {
  int64_t j = 0;
  ROLLED for (; j + HALF <= count; j += HALF) {
    store_doubles(to + j, load_doubles(to + j) + load_doubles(from + j));
  }
  ROLLED for (; j < count; j++) to[j] += from[j];
}

static inline void add_sums(axn_gradient_sums total, axn_gradient_sums block, int64_t count) {
  add_doubles(total.centred, block.centred, count);
  add_doubles(total.gradient, block.gradient, count);
  add_doubles(total.product, block.product, count);
}

/* Where a sum over all is finite, they are. */
static inline bool finite_sums(axn_gradient_sums sums, int64_t count) {
  wide_vector sum[3] = {{0}};
  int64_t j = 0;
  ROLLED for (; j + HALF <= count; j += HALF) {
    sum[0] += load_doubles(sums.centred + j);
    sum[1] += load_doubles(sums.gradient + j);
    sum[2] += load_doubles(sums.product + j);
  }
  double values[HALF], all = 0;
  store_doubles(values, sum[0] + sum[1] + sum[2]);
  for (int i = 0; i < HALF; i++) all += values[i];
  ROLLED for (; j < count; j++) all += sums.centred[j] + sums.gradient[j] + sums.product[j];
  return isfinite(all);
}

#endif
