/* SPDX-License-Identifier: MIT */
/* Compiled once per type of element with AXN_ELEMENT, an axn_dtype, and the name of its table. */
#include "wide.h"

#include <stddef.h>

#if AXN_ELEMENT == 2
typedef double element;
typedef double real;

static double value_of(element e) {
  return e;
}

static element narrow(double value) {
  return value;
}

#else
#define AXN_VECTOR_BYTES 16
#include "element.h"
typedef float real;

static double value_of(element e) {
  return element_value(e);
}

static element narrow(double value) {
  return nearest_element((float)value);
}
#endif

static double load_one(const void *elements, int64_t at) {
  return value_of(((const element *)elements)[at]);
}

static void store_one(void *elements, int64_t at, double value) {
  ((element *)elements)[at] = narrow(value);
}

static double parameter_at(const void *values, const axn_wide_block *block, int64_t j,
                           double otherwise) {
  if (values == NULL) return otherwise;
  return (double)((const real *)values)[j * block->parameter_column];
}

static double normalized_at(const axn_wide_block *block, int64_t at) {
  return (load_one(block->x, at) - block->mean) * block->rstd;
}

static void apply(const axn_wide_block *given) {
  const axn_wide_block block = *given; /* that no store can change */
  for (int64_t r = 0; r < block.rows; r++) {
    for (int64_t j = 0; j < block.columns; j++) {
      const int64_t at = r * block.row_stride + j;
      store_one(block.out, at,
                normalized_at(&block, at) * parameter_at(block.scale, &block, j, 1) +
                    parameter_at(block.shift, &block, j, 0));
    }
  }
}

static void gradient_sums(const axn_wide_block *block, double *centred, double *gradient,
                          double *product) {
  *centred = *gradient = *product = 0;
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const int64_t at = r * block->row_stride + j;
      const double e = normalized_at(block, at);
      const double g = load_one(block->grad_y, at) * parameter_at(block->scale, block, j, 1);
      *centred += e;
      *gradient += g;
      *product += g * e;
    }
  }
}

static void gradient_of_x(const axn_wide_block *given, double centre, double gradient,
                          double product) {
  const axn_wide_block block = *given;
  for (int64_t r = 0; r < block.rows; r++) {
    for (int64_t j = 0; j < block.columns; j++) {
      const int64_t at = r * block.row_stride + j;
      const double e = normalized_at(&block, at) - centre;
      const double g = load_one(block.grad_y, at) * parameter_at(block.scale, &block, j, 1);
      store_one(block.out, at, block.rstd * (g - gradient - e * product));
    }
  }
}

static void parameters(const axn_wide_block *block, double centre, double *grad_scale,
                       double *grad_shift) {
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const int64_t at = r * block->row_stride + j;
      const double g = load_one(block->grad_y, at);
      grad_scale[j] += g * (normalized_at(block, at) - centre);
      grad_shift[j] += g;
    }
  }
}

const axn_wide_kernels AXN_WIDE = {.load = load_one,
                                   .store = store_one,
                                   .apply = apply,
                                   .gradient_sums = gradient_sums,
                                   .gradient = gradient_of_x,
                                   .parameters = parameters};
