/* SPDX-License-Identifier: MIT */
#include "moments.h"

#include <float.h>
#include <math.h>

void axn_merge_sums(axn_moment_sums total, axn_moment_sums block, double count, int64_t columns) {
  for (int64_t j = 0; j < columns; j++) {
    const double distance = block.shift[j] - total.shift[j];
    total.sum[j] += block.sum[j] + count * distance;
    total.square[j] += block.square[j] + distance * (2 * block.sum[j] + count * distance);
  }
}

void axn_finish_moments(axn_moment_sums total, double count, int64_t columns, double *mean,
                        double *variance) {
  for (int64_t j = 0; j < columns; j++) {
    const double offset = total.sum[j] / count;
    const double second = total.square[j] - total.sum[j] * offset;
    mean[j] = total.shift[j] + offset;
    variance[j] = second < 0 ? 0 : second / count;
  }
}

double axn_rstd(double variance, double epsilon) {
  return 1 / sqrt(variance + epsilon);
}

float axn_narrow_rstd(double value) {
  return value > (double)FLT_MAX ? FLT_MAX : (float)value;
}

bool axn_needs_wide(double rstd) {
  return rstd < 0x1p-60 || rstd > 0x1p60;
}
