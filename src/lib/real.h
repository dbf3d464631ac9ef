/* SPDX-License-Identifier: MIT */
/*
 * Addresses in arrays whose type a plan knows. *Elements* are those of tensors. *Reals* are statistics, and
 * parameters once they are read: double where the elements are, else float.
 */
#ifndef AXN_LIB_REAL_H
#define AXN_LIB_REAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t axn_real_size(bool doubles) {
  return doubles ? sizeof(double) : sizeof(float);
}

static inline const void *axn_input_at(const void *array, int64_t at, size_t size) {
  return array == NULL ? NULL : (const char *)array + at * (int64_t)size;
}

static inline void *axn_output_at(void *array, int64_t at, size_t size) {
  return array == NULL ? NULL : (char *)array + at * (int64_t)size;
}

static inline double axn_real_at(const void *reals, int64_t at, bool doubles) {
  return doubles ? ((const double *)reals)[at] : (double)((const float *)reals)[at];
}

static inline void axn_set_real(void *reals, int64_t at, double value, bool doubles) {
  if (doubles) {
    ((double *)reals)[at] = value;
  } else {
    ((float *)reals)[at] = (float)value;
  }
}

#endif
