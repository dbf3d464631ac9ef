/* SPDX-License-Identifier: MIT */
/*
 * Lines that are a whole statistic each: sums, statistics, factors and apply in one go, a few lines at a
 * time, while they are in first-level cache. What the general kernels do one after the other, with the
 * same operations in the same order, so with the same bits; what is saved are the steps in between, which
 * for short lines cost more than the work.
 */
#ifndef AXN_LIB_KERNELS_NORMALIZE_H
#define AXN_LIB_KERNELS_NORMALIZE_H

#include "apply.h"
#include "factors.h"
#include "kernels.h"
#include "moments.h"

enum {
  BUNDLE = AXN_PAD, /* lines whose statistics are finished at once */
  PARTS_OF_BUNDLE = BUNDLE / HALF,
  /* Floats of a bundle: two of them, and the output of one, fit first-level cache. */
  BUNDLE_FLOATS = 2048,
  /* Fewer lines than these are taken one after the other, as many floats as fit with their output. */
  LINES_TOGETHER = 4,
  FEW_FLOATS = 4096
};

/* Lines that are about to be applied. */
typedef struct line_bundle {
  int64_t first, lines;
  float mean[BUNDLE], multiplier[BUNDLE], offset[BUNDLE];
} line_bundle;

/* Moments of the lines of a bundle; what is missing of it has mean 0 and some variance. */
INLINE void sum_bundle(const axn_normalize_block *block, const line_bundle *bundle,
                       axn_moments moments) {
  /* Sums of all lines, then of their squares. */
  double eights[2 * 8 * BUNDLE], *const squares = eights + 8 * BUNDLE;
  const axn_span *span = &block->span;
  const element *x = input_at(block->x, bundle->first * span->line_stride);
  for (int64_t l = 0; l < bundle->lines; l++) {
    sum_line(x + l * span->line_stride, span, eights + 8 * l, squares + 8 * l);
  }
  for (int64_t i = 8 * bundle->lines; i < 8 * BUNDLE; i++) eights[i] = 0, squares[i] = 1;
  add_eights(eights, 2 * BUNDLE);
  axn_span part = *span;
  part.lines = BUNDLE;
  finish_rows(x, &part, eights, eights + BUNDLE, moments);
}

/* Fills in the bundle's factors. False where some line needs float64. */
INLINE bool find_bundle_factors(const axn_normalize_block *block, line_bundle *bundle,
                                axn_moments moments) {
  const wide_vector none = {0};
  double rstds[BUNDLE];
  mask_vector lost = {0};
  for (int p = 0; p < PARTS_OF_BUNDLE; p++) {
    const int at = p * HALF;
    wide_vector mean = load_doubles(moments.mean + at);
    wide_vector variance = load_doubles(moments.m2 + at) * block->share;
    if (block->second_moment) {
      variance += mean * mean;
      mean = none;
      store_doubles(moments.mean + at, mean);
    }
    const wide_vector rstd = 1 / root(variance + block->epsilon);
    store_doubles(moments.m2 + at, variance);
    store_doubles(rstds + at, rstd);
    store_narrow(bundle->mean + at, mean);
    const wide_vector low = mean - load_wide(bundle->mean + at);
    wide_vector factor = rstd, start = none;
    const int64_t parameter = bundle->first + at, left = bundle->lines - at;
    if (block->scale != NULL && !block->weighted && left > 0) {
      factor *= load_parameters(block->scale + parameter * block->parameter_stride,
                                block->parameter_stride, left);
    }
    if (block->shift != NULL && !block->weighted && left > 0) {
      start = load_parameters(block->shift + parameter * block->parameter_stride,
                              block->parameter_stride, left);
    }
    store_narrow(bundle->multiplier + at, factor);
    /* The rounded multiplier, as it is what the rest of the mean meets in the kernel. */
    const wide_vector offset = start - low * load_wide(bundle->multiplier + at);
    store_narrow(bundle->offset + at, offset);
    const wide_vector zero =
        (load_wide(bundle->multiplier + at) + load_wide(bundle->offset + at)) * 0;
    lost |= needs_wide(mean, rstd) | (zero != zero);
  }
  for (int64_t l = 0; l < bundle->lines; l++) {
    if (block->mean_out != NULL) block->mean_out[bundle->first + l] = bundle->mean[l];
    if (block->rstd_out != NULL) block->rstd_out[bundle->first + l] = axn_narrow_rstd(rstds[l]);
  }
  return !any(lost);
}

INLINE void keep_moments(const axn_normalize_block *block, const line_bundle *bundle,
                         axn_moments moments) {
  if (block->kept.mean == NULL) return;
  const size_t bytes = (size_t)bundle->lines * sizeof(double);
  memcpy(block->kept.mean + bundle->first, moments.mean, bytes);
  memcpy(block->kept.m2 + bundle->first, moments.m2, bytes);
}

static void apply_bundle(const axn_normalize_block *block, const line_bundle *bundle) {
  const int64_t ending_at = bundle->first * block->ending.strides.line;
  axn_apply_block apply = {.x = input_at(block->x, bundle->first * block->span.line_stride),
                           .y = output_at(block->y, bundle->first * block->y_strides.line),
                           .span = block->span,
                           .y_strides = block->y_strides,
                           .mean = bundle->mean,
                           .multiplier = bundle->multiplier,
                           .offset = bundle->offset,
                           .scale = block->weighted ? block->scale : NULL,
                           .shift = block->weighted ? block->shift : NULL,
                           .ending = axn_ending_at(&block->ending, ending_at, sizeof(element)),
                           .streams = block->streams};
  apply.span.lines = bundle->lines;
  if (block->weighted) {
    apply_weighted(&apply);
  } else {
    apply_rows(&apply);
  }
}

static bool prepare_bundle(const axn_normalize_block *block, line_bundle *bundle, int64_t first,
                           int64_t lines) {
  double mean[BUNDLE], m2[BUNDLE];
  const axn_moments moments = {mean, m2};
  bundle->first = first;
  bundle->lines = lines;
  sum_bundle(block, bundle, moments);
  const bool held = find_bundle_factors(block, bundle, moments);
  keep_moments(block, bundle, moments);
  return held;
}

/* One line: the same steps, on single values. It becomes line `l` of the bundle. */
INLINE bool prepare_line(const axn_normalize_block *block, line_bundle *bundle, int64_t l) {
  double sum[8], square[8], mean, m2;
  const int64_t at = bundle->first + l;
  const element *x = input_at(block->x, at * block->span.line_stride);
  const double count = (double)(block->span.rows * block->span.length);
  sum_line(x, &block->span, sum, square);
  const double total = add_eight(sum), squares = add_eight(square);
  mean = total / count;
  m2 = squares - total * mean;
  if (is_lost(squares, m2)) look_at_line_again(x, &block->span, count, &mean, &m2);
  double variance = (m2 < 0 ? 0 : m2) * block->share;
  if (block->second_moment) variance += mean * mean, mean = 0;
  const double rstd = axn_rstd(variance, block->epsilon);
  const float high = (float)mean;
  const double low = mean - (double)high;
  const int64_t parameter = at * block->parameter_stride;
  const bool scales = block->scale != NULL && !block->weighted;
  const bool shifts = block->shift != NULL && !block->weighted;
  const float multiplier = (float)(scales ? rstd * (double)block->scale[parameter] : rstd);
  const float offset =
      (float)((shifts ? (double)block->shift[parameter] : 0) - low * (double)multiplier);
  bundle->mean[l] = high;
  bundle->multiplier[l] = multiplier;
  bundle->offset[l] = offset;
  if (block->mean_out != NULL) block->mean_out[at] = high;
  if (block->rstd_out != NULL) block->rstd_out[at] = axn_narrow_rstd(rstd);
  if (block->kept.mean != NULL) {
    block->kept.mean[at] = mean;
    block->kept.m2[at] = variance;
  }
  return !axn_needs_wide(mean, rstd) && fabsf(multiplier) <= FLT_MAX && fabsf(offset) <= FLT_MAX;
}

/* Longer lines: few at a time, one after the other, and applied at once. */
INLINE int64_t normalize_few(const axn_normalize_block *block, int64_t step) {
  line_bundle bundle;
  for (int64_t first = 0; first < block->span.lines; first += step) {
    const int64_t left = block->span.lines - first;
    bool held = true;
    bundle.first = first;
    bundle.lines = left < step ? left : step;
    for (int64_t l = 0; l < bundle.lines; l++) held &= prepare_line(block, &bundle, l);
    if (!held) return first;
    apply_bundle(block, &bundle);
  }
  return block->span.lines;
}

/* One bundle is summed ahead of the one that is applied: what comes between, a chain of roots and
 * divisions that waits for the last value, then overlaps with work on memory. Returns how many lines are
 * done: all, or those before the first bundle that needs float64. */
static int64_t normalize(const axn_normalize_block *block) {
  const axn_span *span = &block->span;
  const int64_t values = span->rows * span->length, fit = BUNDLE_FLOATS / values;
  const int64_t step = fit > BUNDLE ? BUNDLE : fit;
  if (fit < LINES_TOGETHER) {
    const int64_t few = FEW_FLOATS / values;
    return normalize_few(block, few < 1 ? 1 : few < LINES_TOGETHER ? few : LINES_TOGETHER);
  }
  line_bundle bundles[2];
  for (int64_t first = 0, turn = 0; first < span->lines; first += step, turn = 1 - turn) {
    const int64_t lines = span->lines - first < step ? span->lines - first : step;
    const bool held = prepare_bundle(block, &bundles[turn], first, lines);
    if (first > 0) apply_bundle(block, &bundles[1 - turn]);
    if (!held) return first;
    if (first + lines == span->lines) apply_bundle(block, &bundles[turn]);
  }
  return span->lines;
}

#endif
