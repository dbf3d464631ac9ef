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

/* A bundle is small: where x comes from far, prefetchers follow it best if what is applied is what was just read. */
enum {
  BUNDLE = 2 * AXN_PAD, /* lines whose statistics are finished at once: two chains overlap */
  BUNDLE_ELEMENTS = 8192 / sizeof(element),
  LINES_TOGETHER = 4 /* longer lines, of which fewer fit, are taken one by one */
};

/* Lines that are about to be applied. */
typedef struct line_bundle {
  int64_t first, lines;
  float mean[BUNDLE], multiplier[BUNDLE], offset[BUNDLE];
} line_bundle;

/* Moments of the lines of a bundle; what is missing of the last vector has mean 0 and some variance. */
INLINE void sum_bundle(const axn_normalize_block *block, const line_bundle *bundle,
                       axn_moments moments) {
  double sum[4 * BUNDLE], square[4 * BUNDLE];
  const axn_span *span = &block->span;
  const element *x = input_at(block->x, bundle->first * span->line_stride);
  sum_lines_in_turn(x, span, bundle->lines, sum, square);
  const int64_t whole = axn_padded(bundle->lines);
  for (int64_t i = 4 * bundle->lines; i < 4 * whole; i++) sum[i] = 0, square[i] = 1;
  add_fours(sum, whole, sum);
  add_fours(square, whole, square);
  axn_span part = *span;
  part.lines = whole;
  finish_rows(x, &part, sum, square, moments);
}

/* Whole vectors are copied by an instruction each. */
INLINE void copy_of_bundle(float *to, const float *from, const line_bundle *bundle) {
  if (to == NULL) return;
  int64_t l = 0;
  for (; l + AXN_PAD <= bundle->lines; l += AXN_PAD) {
    memcpy(to + bundle->first + l, from + l, AXN_PAD * sizeof *from);
  }
  for (; l < bundle->lines; l++) to[bundle->first + l] = from[l];
}

/* Fills in the bundle's factors. False where some line needs float64. */
INLINE bool find_bundle_factors(const axn_normalize_block *block, line_bundle *bundle,
                                axn_moments moments) {
  const wide_vector none = {0};
  float rstds[BUNDLE];
  mask_vector lost = {0};
  for (int64_t at = 0; at < bundle->lines; at += HALF) {
    wide_vector mean = load_doubles(moments.mean + at);
    wide_vector variance = load_doubles(moments.m2 + at) * block->share;
    if (block->second_moment) {
      variance += mean * mean;
      mean = none;
      store_doubles(moments.mean + at, mean);
    }
    const wide_vector rstd = 1 / root(variance + block->epsilon);
    store_doubles(moments.m2 + at, variance);
    store_narrow_rstd(rstds + at, rstd);
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
  copy_of_bundle(block->mean_out, bundle->mean, bundle);
  copy_of_bundle(block->rstd_out, rstds, bundle);
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

/* The bundle of one line: the same steps, on single values. */
static bool prepare_line(const axn_normalize_block *block, line_bundle *bundle, int64_t at) {
  double sum[4], square[4], mean, m2;
  const element *x = input_at(block->x, at * block->span.line_stride);
  const double count = (double)(block->span.rows * block->span.length);
  sum_line(x, &block->span, sum, square);
  const double total = add_four(sum), squares = add_four(square);
  mean = total / count;
  m2 = squares - total * mean;
  if (is_lost(squares, m2, loss_of_rows(count)))
    look_at_line_again(x, &block->span, count, &mean, &m2);
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
  bundle->first = at, bundle->lines = 1;
  *bundle->mean = high;
  *bundle->multiplier = multiplier;
  *bundle->offset = offset;
  if (block->mean_out != NULL) block->mean_out[at] = high;
  if (block->rstd_out != NULL) block->rstd_out[at] = axn_narrow_rstd(rstd);
  if (block->kept.mean != NULL) {
    block->kept.mean[at] = mean;
    block->kept.m2[at] = variance;
  }
  return !axn_needs_wide(mean, rstd) && fabsf(multiplier) <= FLT_MAX && fabsf(offset) <= FLT_MAX;
}

/* How many lines to take at a time: whole vectors of statistics, where there are so many. */
INLINE int64_t lines_at_once(int64_t values) {
  const int64_t fit = BUNDLE_ELEMENTS / values;
  if (fit < LINES_TOGETHER) return 1;
  return fit >= BUNDLE ? BUNDLE : fit >= AXN_PAD ? AXN_PAD : fit;
}

/* A bundle is applied before the next one is summed. Reading x ahead of what is applied hides the chain of roots and
 * divisions in between, but going back costs more than that where x comes from far. Returns how many lines are done:
 * all, or those before the first bundle that needs float64. */
static int64_t normalize(const axn_normalize_block *block) {
  const axn_span *span = &block->span;
  const int64_t step = lines_at_once(span->rows * span->length);
  line_bundle bundle;
  for (int64_t first = 0; first < span->lines; first += step) {
    const int64_t left = span->lines - first, lines = left < step ? left : step;
    const bool held = step < LINES_TOGETHER ? prepare_line(block, &bundle, first)
                                            : prepare_bundle(block, &bundle, first, lines);
    if (!held) return first;
    apply_bundle(block, &bundle);
  }
  return span->lines;
}

#endif
