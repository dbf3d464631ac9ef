/* SPDX-License-Identifier: MIT */
#include "wide.h"

static double parameter_at(const float *values, const axn_wide_block *block, int64_t j,
                           double otherwise) {
  if (values == 0) return otherwise;
  return (double)values[j * block->parameter_column];
}

static double normalized_at(const axn_wide_block *block, int64_t at) {
  return ((double)block->x[at] - block->mean) * block->rstd;
}

void axn_wide_apply(const axn_wide_block *block) {
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const int64_t at = r * block->row_stride + j;
      block->out[at] = (float)(normalized_at(block, at) * parameter_at(block->scale, block, j, 1) +
                               parameter_at(block->shift, block, j, 0));
    }
  }
}

void axn_wide_gradient_sums(const axn_wide_block *block, double *centred, double *gradient,
                            double *product) {
  *centred = *gradient = *product = 0;
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const int64_t at = r * block->row_stride + j;
      const double e = normalized_at(block, at);
      const double g = (double)block->grad_y[at] * parameter_at(block->scale, block, j, 1);
      *centred += e;
      *gradient += g;
      *product += g * e;
    }
  }
}

void axn_wide_gradient(const axn_wide_block *block, double centre, double gradient,
                       double product) {
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const int64_t at = r * block->row_stride + j;
      const double e = normalized_at(block, at) - centre;
      const double g = (double)block->grad_y[at] * parameter_at(block->scale, block, j, 1);
      block->out[at] = (float)(block->rstd * (g - gradient - e * product));
    }
  }
}

void axn_wide_parameters(const axn_wide_block *block, double centre, double *grad_scale,
                         double *grad_shift) {
  for (int64_t r = 0; r < block->rows; r++) {
    for (int64_t j = 0; j < block->columns; j++) {
      const int64_t at = r * block->row_stride + j;
      grad_scale[j] += (double)block->grad_y[at] * (normalized_at(block, at) - centre);
      grad_shift[j] += (double)block->grad_y[at];
    }
  }
}
