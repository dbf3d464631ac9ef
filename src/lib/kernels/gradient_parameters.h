/* SPDX-License-Identifier: MIT */
/* Gradients of scale and shift. */
#ifndef AXN_LIB_KERNELS_GRADIENT_PARAMETERS_H
#define AXN_LIB_KERNELS_GRADIENT_PARAMETERS_H

#include <math.h>

#include "gradient_sums.h"
#include "kernels.h"
#include "vector.h"

/* One parameter in float64, where a few terms in float made a sum overflow that need not. */
static SMALL void add_parameter_exactly(const axn_parameter_block *block, int64_t first,
                                        int64_t rows, int64_t at, bool product, bool gradient) {
  double scale = 0, shift = 0;
  for (int64_t r = first; r < first + rows; r++) {
    const double x = element_value(*input_at(block->x, r * block->row_stride + at));
    const double g = element_value(*input_at(block->grad_y, r * block->grad_y_row_stride + at));
    scale += g * ((x - (double)block->mean[r]) * (double)block->rstd[r] - (double)block->centre[r]);
    shift += g;
  }
  if (product) block->grad_scale[at] += scale;
  if (gradient) block->grad_shift[at] += shift;
}

static SMALL void add_parameters_one_by_one(const axn_parameter_block *block, int64_t first,
                                            int64_t rows, int64_t at, int64_t columns,
                                            const float products[WIDTH],
                                            const float gradients[WIDTH]) {
  for (int64_t i = 0; i < columns; i++) {
    const bool product = isfinite(products[i]), gradient = isfinite(gradients[i]);
    if (product) block->grad_scale[at + i] += (double)products[i];
    if (gradient) block->grad_shift[at + i] += (double)gradients[i];
    if (!product || !gradient) {
      add_parameter_exactly(block, first, rows, at + i, !product, !gradient);
    }
  }
}

/* What at most TERMS rows give to one vector of parameters. */
INLINE void sum_parameters(const axn_parameter_block *block, int64_t first, int64_t rows,
                           int64_t at, int64_t columns, vector *product, vector *gradient) {
  const vector none = {0};
  const bool whole = columns == WIDTH;
  for (int64_t r = first; r < first + rows; r++) {
    const element *from = input_at(block->x, r * block->row_stride + at);
    const element *gradients_from = input_at(block->grad_y, r * block->grad_y_row_stride + at);
    const vector x = whole ? load_elements(from) : load_some_elements(from, columns, none);
    const vector g =
        whole ? load_elements(gradients_from) : load_some_elements(gradients_from, columns, none);
    *product += g * ((x - block->mean[r]) * block->rstd[r] - block->centre[r]);
    *gradient += g;
  }
}

/* Adds at most TERMS rows to one vector of parameters. */
INLINE void add_parameters(const axn_parameter_block *block, int64_t first, int64_t rows,
                           int64_t at, int64_t columns) {
  const vector none = {0};
  const bool whole = columns == WIDTH;
  vector product = none, gradient = none;
  if (block->products != NULL) {
    product = load(block->products + at);
    gradient = load(block->gradients + at);
  } else {
    sum_parameters(block, first, rows, at, columns, &product, &gradient);
  }
  float products[WIDTH], gradients[WIDTH];
  store(products, product);
  store(gradients, gradient);
  const vector zero = (product + gradient) * 0;
  if (!whole || any((mask_vector)(zero != zero))) {
    add_parameters_one_by_one(block, first, rows, at, columns, products, gradients);
    return;
  }
  for (int i = 0; i < WIDTH; i += HALF) {
    double *scale = block->grad_scale + at + i, *shift = block->grad_shift + at + i;
    store_doubles(scale, load_doubles(scale) + load_wide(products + i));
    store_doubles(shift, load_doubles(shift) + load_wide(gradients + i));
  }
}

static void parameters(const axn_parameter_block *given) {
  const axn_parameter_block block = *given;
  for (int64_t first = 0; first < block.rows; first += TERMS) {
    const int64_t rows = block.rows - first < TERMS ? block.rows - first : TERMS;
    int64_t at = 0;
    for (; at + WIDTH <= block.columns; at += WIDTH) {
      add_parameters(&block, first, rows, at, WIDTH);
    }
    if (at < block.columns) add_parameters(&block, first, rows, at, block.columns - at);
  }
}

/* Adds a run whose elements have a statistic each to the gradients of one scale and one shift. Lane i of 16
 * in every variant, flushed after TERMS terms. */
static void parameters_of_run(const axn_parameter_run *run, double *scale, double *shift) {
  const element *x = input_at(run->x, 0), *grad_y = input_at(run->grad_y, 0);
  const vector none = {0};
  double product[FLOATS] = {0}, gradient[FLOATS] = {0};
  for (int64_t first = 0; first < run->length; first += FLOATS * TERMS) {
    const int64_t left = run->length - first;
    const int64_t end = first + (left < FLOATS * TERMS ? left : FLOATS * TERMS);
    for (int v = 0; v < VECTORS; v++) {
      vector p = none, g = none;
      for (int64_t i = first + v * WIDTH; i < end; i += FLOATS) {
        const int64_t here = end - i;
        const bool whole = here >= WIDTH;
        fetch(x + i, run->ahead * (int64_t)sizeof *x);
        fetch(grad_y + i, run->grad_y_ahead * (int64_t)sizeof *x);
        const vector dy =
            whole ? load_elements(grad_y + i) : load_some_elements(grad_y + i, here, none);
        const vector value = whole ? load_elements(x + i) : load_some_elements(x + i, here, none);
        const vector mean = whole ? load(run->mean + i) : load_some(run->mean + i, here, none);
        const vector rstd = whole ? load(run->rstd + i) : load_some(run->rstd + i, here, none);
        const vector off = whole ? load(run->centre + i) : load_some(run->centre + i, here, none);
        p += dy * ((value - mean) * rstd - off);
        g += dy;
      }
      add_float_sums(product + v * WIDTH, p);
      add_float_sums(gradient + v * WIDTH, g);
    }
  }
  double products = 0, gradients = 0;
  for (int i = 0; i < FLOATS; i++) products += product[i], gradients += gradient[i];
  *scale += products;
  *shift += gradients;
}

#endif
