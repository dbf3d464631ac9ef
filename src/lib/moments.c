/* SPDX-License-Identifier: MIT */
#include "moments.h"

void axn_merge_moments(axn_moments total, double total_count, axn_moments block, double block_count,
                       int64_t columns) {
  const double share = block_count / (total_count + block_count);
  const double weight = total_count * share;
  for (int64_t j = 0; j < columns; j++) {
    const double distance = block.mean[j] - total.mean[j];
    total.mean[j] += distance * share;
    total.m2[j] += block.m2[j] + distance * distance * weight;
  }
}
