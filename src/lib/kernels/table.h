/* SPDX-License-Identifier: MIT */
/*
 * The kernels that compute in float32, compiled once per type of element, each of which has a file that
 * includes this one, and once per instruction set with
 *   AXN_VARIANT        the instruction set's name; else the baseline
 *   AXN_VECTOR_BYTES   the width of a vector register; else what the compiler may use
 * Vectors are the compilers' own (gcc, clang): the sums need a fixed number of lanes that stay in
 * registers, which a plain loop over an array of lanes does not get from either compiler.
 *
 * Why every variant gives the same bits: the number of lanes is fixed, whatever the width of a vector,
 * and element i of a run always goes to lane i modulo that number; float32 lanes are always added to
 * float64 ones after TERMS additions, or after as many rows as have no more; lanes are added up in one
 * fixed tree, in float32 where they are all that a line has; and nothing is contracted into a fused
 * multiply-add (-ffp-contract=off) but where the product is exact, so that fusing changes nothing.
 * Activations are made of fused ones, which vector.h has on every instruction set.
 */
#include "kernels.h"

#ifdef __FAST_MATH__
#error "axisnorm tells NaN and infinity from numbers, and adds in a fixed order: no -ffast-math"
#endif
#ifndef AXN_VARIANT
#define AXN_VARIANT baseline
#endif
#define AXN_PASTE(variant, type) axn_kernels_##variant##_##type
#define AXN_TABLE(variant, type) AXN_PASTE(variant, type)
#ifndef AXN_VECTOR_BYTES
#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__) &&                      \
    defined(__AVX512BW__) && defined(__F16C__)
#define AXN_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define AXN_VECTOR_BYTES 32
#else
#define AXN_VECTOR_BYTES 16
#endif
#endif

/* The name of what the types of elements share. */
#define AXN_PASTE_SHARED(name, variant) axn_##name##_##variant
#define AXN_SHARED(name, variant) AXN_PASTE_SHARED(name, variant)

#include "apply.h"
#include "factors.h"
#include "gradient_parameters.h"
#include "gradient_sums.h"
#include "gradients.h"
#include "merge.h"
#include "moments.h"
#include "normalize.h"
#include "vector.h"

/* What knows no elements is there once per instruction set, with the kernels for float32. */
bool AXN_SHARED(statistics, AXN_VARIANT)(const axn_statistics_block *block);
bool AXN_SHARED(known, AXN_VARIANT)(const axn_known_statistics *block);
bool AXN_SHARED(factors, AXN_VARIANT)(const axn_factors_block *block);
bool AXN_SHARED(gradient_factors, AXN_VARIANT)(const axn_gradient_factors_block *block);
void AXN_SHARED(add_sums, AXN_VARIANT)(axn_gradient_sums total, axn_gradient_sums sums,
                                       int64_t lines);
bool AXN_SHARED(finite_sums, AXN_VARIANT)(axn_gradient_sums sums, int64_t lines);

#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32
void AXN_SHARED(activate, AXN_VARIANT)(const activated *all, const axn_ending *ending) {
  if (all->gradient != NULL) {
    go_through_activation(all, ending);
  } else {
    activate(all, ending);
  }
}

bool AXN_SHARED(statistics, AXN_VARIANT)(const axn_statistics_block *block) {
  return statistics(block);
}

bool AXN_SHARED(known, AXN_VARIANT)(const axn_known_statistics *block) {
  return known_statistics(block);
}

bool AXN_SHARED(factors, AXN_VARIANT)(const axn_factors_block *block) {
  return apply_factors_of(block);
}

bool AXN_SHARED(gradient_factors, AXN_VARIANT)(const axn_gradient_factors_block *block) {
  return gradient_factors(block);
}

void AXN_SHARED(add_sums, AXN_VARIANT)(axn_gradient_sums total, axn_gradient_sums sums,
                                       int64_t lines) {
  add_sums(total, sums, lines);
}

bool AXN_SHARED(finite_sums, AXN_VARIANT)(axn_gradient_sums sums, int64_t lines) {
  return finite_sums(sums, lines);
}
#endif

static void finish_all_streams(void) {
  finish_streams();
}

const axn_kernels AXN_TABLE(AXN_VARIANT, AXN_TYPE) = {
    .moments = {moments_of_rows, moments_of_columns, moments_of_rows},
    .statistics = AXN_SHARED(statistics, AXN_VARIANT),
    .known = AXN_SHARED(known, AXN_VARIANT),
    .normalize = normalize,
    .factors = AXN_SHARED(factors, AXN_VARIANT),
    .gradient_factors = AXN_SHARED(gradient_factors, AXN_VARIANT),
    .apply = {apply_rows, apply_columns, apply_weighted},
    .gradient_sums = {gradient_sums_of_rows, gradient_sums_of_columns, gradient_sums_weighted},
    .add_sums = AXN_SHARED(add_sums, AXN_VARIANT),
    .finite_sums = AXN_SHARED(finite_sums, AXN_VARIANT),
    .gradient = {gradient_of_rows, gradient_of_columns, gradient_weighted},
    .parameters = parameters,
    .parameters_of_run = parameters_of_run,
    .finish_streams = finish_all_streams,
};
