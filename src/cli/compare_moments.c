/* SPDX-License-Identifier: MIT */
#include "compare_moments.h"

#include <stdlib.h>
#include <string.h>

enum outcome moments_create(struct moments *m, const struct prepared *prepared) {
  size_t count = (size_t)prepared->info.statistics;
  *m = (struct moments){.count = prepared->info.statistics,
                        .second_moment = prepared->desc.norm == AXN_RMS_NORM};
  m->mean = calloc(count, sizeof *m->mean);
  m->variance = calloc(count, sizeof *m->variance);
  m->values = calloc(count, sizeof *m->values);
  if (m->mean != NULL && m->variance != NULL && m->values != NULL) return DONE;
  moments_release(m);
  return message_no_memory();
}

void moments_release(struct moments *m) {
  free(m->mean);
  free(m->variance);
  free(m->values);
  *m = (struct moments){.count = 0};
}

/* An axis: after each `run` of its indices comes the statistic `stride` further on. */
struct axis {
  int64_t extent, run, stride;
};

/* The axes in the order of memory. Statistics stand in that order too. */
static void find_axes(const struct prepared *prepared, struct axis axes[AXN_MAX_RANK]) {
  const axn_desc *desc = &prepared->desc;
  int64_t stride = 1;
  for (int position = desc->rank - 1; position >= 0; position--) {
    int axis = prepare_axis_at(desc, position);
    int64_t extent = desc->shape[axis], parts = prepare_parts(prepared, axis);
    axes[position] = (struct axis){extent, parts > 0 ? extent / parts : 1, stride};
    stride *= parts;
  }
}

/* Welford 1962; with the mean left at 0 it sums the squares. */
static void add(struct moments *m, int64_t statistic, double x) {
  double difference = x - m->mean[statistic], values = ++m->values[statistic];
  if (!m->second_moment) m->mean[statistic] += difference / values;
  m->variance[statistic] += difference * (x - m->mean[statistic]);
}

/* The part of the tensor below one index of each axis before these, from `at` on. Returns where it
 * ends. */
static int64_t add_all(struct moments *m, const struct axis *axes, int count, int64_t statistic,
                       const struct tensor *x, int64_t at) {
  for (int64_t part = 0; part < axes->extent; part += axes->run, statistic += axes->stride)
    for (int64_t i = 0; i < axes->run; i++)
      if (count > 1)
        at = add_all(m, axes + 1, count - 1, statistic, x, at);
      else
        add(m, statistic, tensor_get(x, at++));
  return at;
}

void moments_compute(struct moments *m, const struct prepared *prepared, const struct tensor *x) {
  struct axis axes[AXN_MAX_RANK];
  size_t bytes = (size_t)m->count * sizeof(double);
  memset(m->mean, 0, bytes);
  memset(m->variance, 0, bytes);
  memset(m->values, 0, bytes);
  find_axes(prepared, axes);
  add_all(m, axes, prepared->desc.rank, 0, x, 0);
  for (int64_t i = 0; i < m->count; i++) m->variance[i] /= m->values[i];
}
