/* SPDX-License-Identifier: MIT */
/* From statistics and parameters to the few floats per line that meet the elements. */
#ifndef AXN_LIB_KERNELS_FACTORS_H
#define AXN_LIB_KERNELS_FACTORS_H

#include <float.h>
#include <math.h>

#include "kernels.h"
#include "range.h"
#include "vector.h"

INLINE wide_vector magnitude(wide_vector v) {
  return (wide_vector)((mask_vector)v & INT64_MAX);
}

/* axn_needs_wide() of a vector. */
INLINE mask_vector needs_wide(wide_vector mean, wide_vector rstd) {
  const wide_vector size = magnitude(mean);
  return (rstd < 0x1p-60) | (rstd > 0x1p60) | ((size > 0x1p100) & (size <= DBL_MAX));
}

static inline bool statistics(const axn_statistics_block *block) {
  mask_vector wide = {0};
  for (int64_t i = 0; i < block->count; i += HALF) {
    const wide_vector mean = load_doubles(block->mean + i);
    const wide_vector rstd = 1 / root(load_doubles(block->variance + i) + block->epsilon);
    store_doubles(block->rstd + i, rstd);
    store_narrow(block->mean_high + i, mean);
    store_doubles(block->mean_low + i, mean - load_wide(block->mean_high + i));
    wide |= needs_wide(mean, rstd);
  }
  if (block->mean_out != NULL) {
    memcpy(block->mean_out, block->mean_high, (size_t)block->count * sizeof(float));
  }
  if (block->rstd_out != NULL) {
    for (int64_t i = 0; i < block->count; i++) {
      block->rstd_out[i] = axn_narrow_rstd(block->rstd[i]);
    }
  }
  return any(wide);
}

/* See axn_narrow_rstd(). */
INLINE void store_narrow_rstd(float *to, wide_vector rstd) {
  const wide_vector most = (wide_vector){0} + (double)FLT_MAX;
  const mask_vector above = rstd > most;
  store_narrow(to, where(above, most) + where(~above, rstd));
}

static inline bool known_statistics(const axn_known_statistics *block) {
  mask_vector wide = {0};
  for (int64_t i = block->count; i % HALF != 0; i++) block->mean[i] = 0, block->rstd[i] = 1;
  for (int64_t i = 0; i < block->count; i += HALF) {
    const wide_vector mean = load_doubles(block->mean + i), rstd = load_doubles(block->rstd + i);
    store_narrow(block->mean_out + i, mean);
    store_narrow_rstd(block->rstd_out + i, rstd);
    wide |= needs_wide(mean, rstd);
  }
  return any(wide);
}

/* Whether all are finite. */
INLINE bool held(const float *values, int64_t count) {
  typedef int32_t lost_vector __attribute__((vector_size(AXN_VECTOR_BYTES)));
  lost_vector lost = {0};
  int64_t i = 0;
  /* 0 times anything but a finite number is NaN, which is not itself. */
  for (; i + WIDTH <= count; i += WIDTH) {
    const vector zero = load(values + i) * 0;
    lost |= zero != zero;
  }
  if (i < count) {
    const vector zero = load_some(values + i, count - i, (vector){0}) * 0;
    lost |= zero != zero;
  }
  return !any((mask_vector)lost);
}

/* Copies what there is for lines to the columns that make them, from the last to the first as both are
 * the same array. */
INLINE void unfold(float *values, int64_t lines, int64_t fold) {
  for (int64_t l = lines - 1; l >= 0; l--) {
    const float value = values[l];
    float *to = values + l * fold;
    int64_t i = 0;
    for (; i + WIDTH <= fold; i += WIDTH) store(to + i, (vector){0} + value);
    for (; i < fold; i++) to[i] = value;
  }
}

/* What there is for lines to the columns of all rows that are taken as one. */
INLINE void spread_out(float *values, const axn_line_map *map) {
  if (map->fold > 1) unfold(values, map->lines, map->fold);
  const int64_t columns = map->lines * map->fold;
  for (int64_t r = 1; r < map->repeat; r++) {
    memcpy(values + r * columns, values, (size_t)columns * sizeof *values);
  }
}

/* HALF parameters, `stride` apart, of which the first `count` are there. */
INLINE wide_vector load_parameters(const float *from, int64_t stride, int64_t count) {
  if (stride == 1) return count >= HALF ? load_wide(from) : load_wide_some(from, count);
  float values[HALF];
  for (int i = 0; i < HALF; i++) values[i] = i < count ? from[i * stride] : 0;
  return load_wide(values);
}

/* Lines from `at` on whose parameters are `stride` apart; statistics advance with them, or not. Whole
 * vectors are written: what is too much is overwritten by the lines that follow. */
INLINE void factors_of_lines(const void *data, int64_t at, int64_t count, int64_t cell, bool cells,
                             int64_t parameter, int64_t stride) {
  const axn_factors_block *block = data;
  const float *scale = axn_parameters_at(block->scale, parameter);
  const float *shift = axn_parameters_at(block->shift, parameter);
  const wide_vector none = {0};
  for (int64_t i = 0; i < count; i += HALF) {
    const int64_t c = cell + i, left = count - i;
    wide_vector factor = cells ? load_doubles(block->rstd + c) : none + block->rstd[cell];
    const wide_vector low =
        cells ? load_doubles(block->mean_low + c) : none + block->mean_low[cell];
    const wide_vector high =
        cells ? load_wide(block->mean_high + c) : none + (double)block->mean_high[cell];
    if (scale != NULL) factor *= load_parameters(scale + i * stride, stride, left);
    const wide_vector start =
        shift != NULL ? load_parameters(shift + i * stride, stride, left) : none;
    store_narrow(block->multiplier + at + i, factor);
    /* The rounded multiplier, as it is what the rest of the mean meets in the kernel. */
    store_narrow(block->offset + at + i, start - low * load_wide(block->multiplier + at + i));
    store_narrow(block->mean_out + at + i, high);
  }
}

typedef void some_factors(const void *block, int64_t at, int64_t count, int64_t cell, bool cells,
                          int64_t parameter, int64_t stride);

/* Walks the lines of a map, as many at a time as one stride reaches. A stride of 1 has loops of its own,
 * which become vectors. */
INLINE void walk_lines(const axn_line_map *map, const void *block, some_factors *some) {
  if (map->lines_per_cell == 1) {
    const int64_t parameter = map->first * map->cell_parameter;
    if (map->cell_parameter == 1) {
      some(block, 0, map->lines, map->first, true, parameter, 1);
    } else {
      some(block, 0, map->lines, map->first, true, parameter, map->cell_parameter);
    }
    return;
  }
  for (int64_t at = 0, count; at < map->lines; at += count) {
    const int64_t line = map->first + at, cell = line / map->lines_per_cell;
    const int64_t within = line - cell * map->lines_per_cell;
    const int64_t left = map->lines_per_cell - within, due = map->lines - at;
    const int64_t parameter = cell * map->cell_parameter + within * map->line_parameter;
    count = left < due ? left : due;
    if (map->line_parameter == 1) {
      some(block, at, count, cell, false, parameter, 1);
    } else {
      some(block, at, count, cell, false, parameter, map->line_parameter);
    }
  }
}

static inline bool apply_factors_of(const axn_factors_block *block) {
  const axn_line_map *map = &block->map;
  walk_lines(map, block, factors_of_lines);
  const bool all = held(block->multiplier, map->lines) && held(block->offset, map->lines);
  spread_out(block->mean_out, map);
  spread_out(block->multiplier, map);
  spread_out(block->offset, map);
  return all;
}

/* HALF entries of an array per cell, of which the first `left` are there. */
INLINE wide_vector load_cells(const float *from, int64_t left) {
  return left >= HALF ? load_wide(from) : load_wide_some(from, left);
}

INLINE wide_vector load_wide_cells(const double *from, int64_t left) {
  if (left >= HALF) return load_doubles(from);
  double values[HALF] = {0};
  for (int i = 0; i < HALF; i++) {
    if (i < left) values[i] = from[i];
  }
  return load_doubles(values);
}

/* What meets e, and what is added to that. */
INLINE wide_vector gradient_value_factor(wide_vector rstd, wide_vector product) {
  return -rstd * product;
}

INLINE wide_vector gradient_constant(wide_vector rstd, wide_vector product, wide_vector gradient,
                                     wide_vector centred) {
  return rstd * (centred * product - gradient);
}

/* Lines that are cells, see factors_of_lines(). */
INLINE void gradient_factors_of_cells(const axn_gradient_factors_block *block, int64_t count,
                                      int64_t cell, const float *scale, int64_t stride) {
  for (int64_t i = 0; i < count; i += HALF) {
    const int64_t left = count - i, from = cell + i;
    const wide_vector rstd = load_cells(block->rstd + from, left);
    if (block->mean_out != NULL) {
      store_narrow(block->mean_out + i, load_cells(block->mean + from, left));
      store_narrow(block->rstd_out + i, rstd);
    }
    if (block->from_gradient == NULL) continue;
    const wide_vector factor =
        scale != NULL ? rstd * load_parameters(scale + i * stride, stride, left) : rstd;
    store_narrow(block->from_gradient + i, factor);
    if (block->product == NULL) continue;
    const wide_vector product = load_wide_cells(block->product + from, left);
    const wide_vector gradient = load_wide_cells(block->gradient + from, left);
    const wide_vector centred = load_wide_cells(block->centred + from, left);
    store_narrow(block->from_value + i, gradient_value_factor(rstd, product));
    store_narrow(block->constant + i, gradient_constant(rstd, product, gradient, centred));
  }
}

INLINE void fill(float *to, int64_t count, float value) {
  for (int64_t i = 0; i < count; i += WIDTH) store(to + i, every(value));
}

INLINE void fill_narrow(float *to, int64_t count, wide_vector value) {
  float narrow[HALF];
  store_narrow(narrow, value);
  fill(to, count, narrow[0]);
}

/* Lines of one cell: what they share is computed once. */
INLINE void gradient_factors_of_cell(const axn_gradient_factors_block *block, int64_t at,
                                     int64_t count, int64_t cell, const float *scale,
                                     int64_t stride) {
  const wide_vector none = {0}, rstd = none + (double)block->rstd[cell];
  if (block->mean_out != NULL) {
    fill(block->mean_out + at, count, block->mean[cell]);
    fill(block->rstd_out + at, count, block->rstd[cell]);
  }
  if (block->from_gradient == NULL) return;
  for (int64_t i = 0; i < count; i += HALF) {
    const wide_vector factor =
        scale != NULL ? rstd * load_parameters(scale + i * stride, stride, count - i) : rstd;
    store_narrow(block->from_gradient + at + i, factor);
  }
  if (block->product == NULL) return;
  const wide_vector product = none + block->product[cell];
  const wide_vector gradient = none + block->gradient[cell];
  const wide_vector centred = none + block->centred[cell];
  fill_narrow(block->from_value + at, count, gradient_value_factor(rstd, product));
  fill_narrow(block->constant + at, count, gradient_constant(rstd, product, gradient, centred));
}

/* See factors_of_lines(). */
INLINE void gradient_factors_of_lines(const void *data, int64_t at, int64_t count, int64_t cell,
                                      bool cells, int64_t parameter, int64_t stride) {
  const axn_gradient_factors_block *block = data;
  const float *scale = axn_parameters_at(block->scale, parameter);
  if (cells) {
    gradient_factors_of_cells(block, count, cell, scale, stride);
  } else {
    gradient_factors_of_cell(block, at, count, cell, scale, stride);
  }
}

static inline bool gradient_factors(const axn_gradient_factors_block *block) {
  const axn_line_map *map = &block->map;
  const int64_t lines = map->lines;
  walk_lines(map, block, gradient_factors_of_lines);
  bool all = true;
  if (block->from_gradient != NULL) all &= held(block->from_gradient, lines);
  if (block->product != NULL) {
    all = all && held(block->from_value, lines) && held(block->constant, lines);
  }
  if (map->fold > 1 || map->repeat > 1) {
    float *const results[] = {block->mean_out, block->rstd_out, block->from_gradient,
                              block->product != NULL ? block->from_value : NULL,
                              block->product != NULL ? block->constant : NULL};
    for (int i = 0; i < 5; i++) {
      if (results[i] != NULL) spread_out(results[i], map);
    }
  }
  return all;
}

#endif
