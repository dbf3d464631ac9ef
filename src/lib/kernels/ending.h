/* SPDX-License-Identifier: MIT */
/*
 * What a pass does beyond normalizing: forward adds a residual and applies an activation, backward takes the
 * gradient through both. All in float32.
 */
#ifndef AXN_LIB_KERNELS_ENDING_H
#define AXN_LIB_KERNELS_ENDING_H

#include <math.h>

#include "activation.h"
#include "element.h"
#include "kernels.h"

/* ReLU alone is a clamp that every pass over float32 has room for, at 0 or out of the way; 16-bit elements, which
 * are bound by their conversions, would pay for it, and go around it. */
INLINE void clamp(vector *z, int count, bool clamps) {
#if AXN_ELEMENT == AXN_ELEMENT_FLOAT32
  const vector floor = (vector){0} + (clamps ? 0 : -INFINITY);
#else
  const vector floor = {0};
  if (!clamps) return;
#endif
  for (int v = 0; v < count; v++) z[v] = at_least(floor, z[v]);
}

/* Whether a pass ends with more than a clamp. */
INLINE bool ends(const axn_ending *ending) {
  return axn_ends(ending) && !ending->clamps;
}

/* Activations know no elements, so they are there once per instruction set. */
void AXN_SHARED(activate, AXN_VARIANT)(const activated *all, const axn_ending *ending);

/* Vectors to end at a time: a call is many operations, so it is for many vectors. */
enum { ENDED = 32 };

/* z with what is due before the activation, for the vector at offset `at`. */
INLINE vector with_residual(vector z, int64_t at, const axn_ending *ending) {
  return ending->residual != NULL ? z + load_elements(input_at(ending->residual, at)) : z;
}

/* Whether an ending is so little that it is done in passing. */
INLINE bool is_simple(const axn_ending *ending) {
  return ending->activation <= AXN_ACTIVATION_LEAKY_RELU;
}

/* A simple ending of vectors that lie side by side from offset `at` on. Without one, which is known when this is
 * compiled, there is no more than a clamp. */
INLINE void end_simply(vector *z, int count, int64_t at, const axn_ending *ending, bool clamps) {
  if (ending == NULL) {
    clamp(z, count, clamps);
    return;
  }
  const element *residual = ending->residual, *gradient = ending->gradient;
  if (residual != NULL) {
    for (int v = 0; v < count; v++) z[v] += load_elements(residual + at + v * WIDTH);
  }
  if (gradient != NULL) {
    vector g[AT_ONCE];
    for (int v = 0; v < count; v++) g[v] = load_elements(gradient + at + v * WIDTH);
    go_past_corner(z, g, count, ending);
  } else {
    turn_corner(z, count, ending);
  }
}

/* The end of a pass for the first `length` elements of a vector. */
static __attribute__((noinline, unused)) void end_part(vector *z, int64_t length, int64_t at,
                                                       const axn_ending *ending) {
  const vector none = {0};
  vector gradient = none;
  activated one = {.z = z, .count = 1, .last = (float *)z};
  if (ending->residual != NULL) {
    *z += load_some_elements(input_at(ending->residual, at), length, none);
  }
  if (ending->gradient != NULL) {
    gradient = load_some_elements(input_at(ending->gradient, at), length, none);
    one.gradient = one.last_gradient = (const float *)&gradient;
  }
  AXN_SHARED(activate, AXN_VARIANT)(&one, ending);
}

/* Likewise. */
INLINE vector end_some(vector z, int64_t length, int64_t at, const axn_ending *ending,
                       bool clamps) {
  if (ending != NULL) {
    end_part(&z, length, at, ending);
  } else {
    clamp(&z, 1, clamps);
  }
  return z;
}

#endif
