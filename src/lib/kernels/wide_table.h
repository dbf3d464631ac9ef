/* SPDX-License-Identifier: MIT */
/* The float64 kernels, for a file per type of element that gives AXN_ELEMENT, an axn_dtype, and AXN_WIDE, the
 * name of its table. */
#include "wide.h"

#include <math.h>
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

static void store_all(void *elements, int64_t at, const double *values, int64_t count) {
  for (int64_t i = 0; i < count; i++) store_one(elements, at + i, values[i]);
}

static double parameter_at(const void *values, const axn_wide_block *block, int64_t r, int64_t j,
                           double otherwise) {
  if (values == NULL) return otherwise;
  return (double)((const real *)values)[r * block->parameter_row + j * block->parameter_column];
}

static double normalized_at(const axn_wide_block *block, int64_t at) {
  return (load_one(block->x, at) - block->mean) * block->rstd;
}

static double gradient_of_y(const axn_wide_block *block, int64_t r, int64_t j) {
  return load_one(block->grad_y, r * block->grad_y_row_stride + j);
}

/* The normal distribution function. */
static double normal_distribution(double z) {
  static const double ROOT_OF_HALF = 0.70710678118654752440;
  return 0.5 * erfc(-z * ROOT_OF_HALF);
}

static const double TANH_FACTOR = 0.79788456080286535588, TANH_CUBE = 0.044715; /* sqrt(2 / pi) */

static double logistic(double z) {
  return 1 / (1 + exp(-z));
}

static double gelu_tanh_share(double z) {
  return logistic(2 * TANH_FACTOR * (z + TANH_CUBE * z * z * z));
}

/* Where an activation has vanished, z counts as the place where it has: no infinity times zero. */
static double activated(double z, const axn_ending *ending) {
  const double far = z < -700 ? -700 : z;
  switch (ending->activation) {
  case AXN_ACTIVATION_RELU:
    return z < 0 ? 0 : z;
  case AXN_ACTIVATION_LEAKY_RELU:
    return z < 0 ? z * ending->slope : z;
  case AXN_ACTIVATION_SILU:
    return far * logistic(far);
  case AXN_ACTIVATION_GELU:
    return far * normal_distribution(far);
  case AXN_ACTIVATION_GELU_TANH:
    return far * gelu_tanh_share(far);
  case AXN_ACTIVATION_NONE:
    break;
  }
  return z;
}

/* g times the derivative, which has reached its limits where z is taken for one of them. What is left of a
 * share is the share of -z: a difference from 1 would lose its digits. */
static double through_activation(double g, double z, const axn_ending *ending) {
  static const double ROOT = 0.39894228040143267794; /* 1 / sqrt(2 pi) */
  const double c = z > 100 ? 100 : z < -100 ? -100 : z;
  double share;
  switch (ending->activation) {
  case AXN_ACTIVATION_RELU:
    return z > 0 ? g : 0;
  case AXN_ACTIVATION_LEAKY_RELU:
    return z > 0 ? g : g * ending->slope;
  case AXN_ACTIVATION_SILU:
    share = logistic(c);
    return g * (share * (1 + c * logistic(-c)));
  case AXN_ACTIVATION_GELU:
    return g * (normal_distribution(c) + c * ROOT * exp(-0.5 * c * c));
  case AXN_ACTIVATION_GELU_TANH:
    share = gelu_tanh_share(c);
    return g * (share +
                c * share * gelu_tanh_share(-c) * 2 * TANH_FACTOR * (1 + 3 * TANH_CUBE * c * c));
  case AXN_ACTIVATION_NONE:
    break;
  }
  return g;
}

static double ended(double z, int64_t at, const axn_ending *ending) {
  if (ending->residual != NULL) z += load_one(ending->residual, at);
  if (ending->gradient == NULL) return activated(z, ending);
  return through_activation(load_one(ending->gradient, at), z, ending);
}

static void apply(const axn_wide_block *given) {
  const axn_wide_block block = *given; /* that no store can change */
  const bool ends = axn_ends(&block.ending) || block.ending.gradient != NULL;
  for (int64_t r = 0; r < block.rows; r++) {
    for (int64_t j = 0; j < block.columns; j++) {
      const int64_t at = r * block.row_stride + j;
      const double z = normalized_at(&block, at) * parameter_at(block.scale, &block, r, j, 1) +
                       parameter_at(block.shift, &block, r, j, 0);
      const double y = ends ? ended(z, r * block.ending.strides.row + j, &block.ending) : z;
      store_one(block.out, r * block.out_row_stride + j, y);
    }
  }
}

static void gradient_sums(const axn_wide_block *block, double *centred, double *gradient,
                          double *product) {
  *centred = *gradient = *product = 0;
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const double e = normalized_at(block, r * block->row_stride + j);
      const double g = gradient_of_y(block, r, j) * parameter_at(block->scale, block, r, j, 1);
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
      const double e = normalized_at(&block, r * block.row_stride + j) - centre;
      const double g = gradient_of_y(&block, r, j) * parameter_at(block.scale, &block, r, j, 1);
      const double grad_x = block.rstd * (g - gradient - e * product);
      store_one(block.out, r * block.out_row_stride + j, grad_x);
    }
  }
}

static void parameters(const axn_wide_block *block, double centre, double *grad_scale,
                       double *grad_shift) {
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const double g = gradient_of_y(block, r, j);
      grad_scale[j] += g * (normalized_at(block, r * block->row_stride + j) - centre);
      grad_shift[j] += g;
    }
  }
}

const axn_wide_kernels AXN_WIDE = {.load = load_one,
                                   .store = store_all,
                                   .apply = apply,
                                   .gradient_sums = gradient_sums,
                                   .gradient = gradient_of_x,
                                   .parameters = parameters};
