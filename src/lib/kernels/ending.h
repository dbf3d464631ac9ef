/* SPDX-License-Identifier: MIT */
/*
 * What a pass does beyond normalizing: forward adds a residual and applies an activation, backward takes the
 * gradient through both. All in float32, with operations that every instruction set has, in one order.
 *
 * exp: r = x - n ln 2 with n whole and |r| <= ln 2 / 2, then a polynomial, of relative error below 4e-9 but
 * for rounding. The normal distribution, for GELU: exp(-t^2 / 2) times a polynomial in 1 / (1 + t / 4) for
 * the tail beyond t = |z|, of relative error below 2e-8. Both fitted by Lawson's method on Chebyshev's
 * points; docs/mathematics.md says what comes of it.
 */
#ifndef AXN_LIB_KERNELS_ENDING_H
#define AXN_LIB_KERNELS_ENDING_H

#include <math.h>

#include "element.h"
#include "kernels.h"

typedef int32_t float_mask __attribute__((vector_size(AXN_VECTOR_BYTES)));

/* `yes` where the mask is set, else `no`. */
INLINE vector select_floats(float_mask mask, vector yes, vector no) {
  return (vector)(((float_mask)yes & mask) | ((float_mask)no & ~mask));
}

/* Within a limit on either side; NaN stays. */
INLINE vector limited(vector v, float limit) {
  const vector none = {0};
  v = select_floats(v > limit, none + limit, v);
  return select_floats(v < -limit, none - limit, v);
}

INLINE vector absolute(vector v) {
  return (vector)((float_mask)v & INT32_MAX);
}

/* exp(x) for x <= 0; below -87, where it is no normal number, that of -87. */
INLINE vector exp_of_negative(vector x) {
  const float whole = 0x1.8p23f; /* added, it leaves no room for a fraction */
  const vector none = {0};
  x = select_floats(x < -87.0f, none - 87.0f, x);
  const vector shifted = x * 0x1.715476p0f + whole, n = shifted - whole;
  const vector r = (x - n * 0x1.62ep-1f) - n * 0x1.0bfbe8p-15f;
  vector p = none + 0x1.6a2430p-10f;
  p = p * r + 0x1.1239e4p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  p = (p * r) * r + r;
  const float_mask exponent = (float_mask)shifted << 23; /* n stands in the lowest bits */
  return (vector)((float_mask)(p + 1.0f) + exponent);
}

/* 1 / (1 + exp(-v)) */
INLINE vector logistic(vector v) {
  const vector e = exp_of_negative(-absolute(v)), s = 1.0f / (1.0f + e);
  return select_floats(v < 0, e * s, s);
}

/* The normal distribution function; *density: that, without its factor 1 / sqrt(2 pi). */
INLINE vector normal_distribution(vector z, vector *density) {
  const vector t = absolute(limited(z, 14.0f)), u = 1.0f / (1.0f + 0.25f * t), none = {0};
  vector tail = none + 0x1.0da45ap-5f;
  tail = tail * u - 0x1.8674a4p-3f;
  tail = tail * u + 0x1.875b82p-2f;
  tail = tail * u - 0x1.443332p-2f;
  tail = tail * u + 0x1.299aep-2f;
  tail = tail * u - 0x1.aade8p-7f;
  tail = tail * u + 0x1.e79df4p-4f;
  tail = tail * u + 0x1.86953ap-4f;
  tail = tail * u + 0x1.9a4622p-4f;
  tail = tail * u - 0x1.32a84p-16f;
  *density = exp_of_negative(-0.5f * t * t);
  tail *= *density;
  return select_floats(z < 0, tail, 1.0f - tail);
}

static const float TANH_FACTOR = 0.797884561f, TANH_CUBE = 0.044715f; /* sqrt(2 / pi) */

/* GELU's tanh form is z * logistic(2 u), as (1 + tanh(u)) / 2 = logistic(2 u). */
INLINE vector gelu_tanh_share(vector z) {
  return logistic(2 * TANH_FACTOR * (z + TANH_CUBE * z * z * z));
}

/* Where an activation has vanished, z counts as the place where it has: exp() stops above zero, and no
 * infinity is to meet it. */
INLINE vector activated(vector z, const axn_ending *ending) {
  const vector none = {0};
  vector density, far;
  switch (ending->activation) {
  case AXN_ACTIVATION_RELU:
    return select_floats(z < 0, none, z);
  case AXN_ACTIVATION_LEAKY_RELU:
    return select_floats(z < 0, z * (float)ending->slope, z);
  case AXN_ACTIVATION_SILU:
    far = select_floats(z < -87.0f, none - 87.0f, z);
    return far * logistic(far);
  case AXN_ACTIVATION_GELU:
    far = select_floats(z < -14.0f, none - 14.0f, z);
    return far * normal_distribution(far, &density);
  case AXN_ACTIVATION_GELU_TANH:
    far = select_floats(z < -14.0f, none - 14.0f, z);
    return far * gelu_tanh_share(far);
  case AXN_ACTIVATION_NONE:
    break;
  }
  return z;
}

/* g times the derivative of the activation at z. Where the derivative has reached its limits, z counts as
 * one of those, so that no product of an infinity and a zero comes up. */
INLINE vector through_activation(vector g, vector z, const axn_ending *ending) {
  const vector none = {0};
  const vector c = limited(z, 30.0f);
  vector density, share;
  switch (ending->activation) {
  case AXN_ACTIVATION_RELU:
    return select_floats(z > 0, g, none);
  case AXN_ACTIVATION_LEAKY_RELU:
    return select_floats(z > 0, g, g * (float)ending->slope);
  case AXN_ACTIVATION_SILU:
    share = logistic(c);
    return g * (share * (1 + c * (1 - share)));
  case AXN_ACTIVATION_GELU:
    share = normal_distribution(c, &density);
    return g * (share + c * density * 0.398942280f); /* 1 / sqrt(2 pi) */
  case AXN_ACTIVATION_GELU_TANH:
    share = gelu_tanh_share(c);
    return g * (share + c * share * (1 - share) * 2 * TANH_FACTOR * (1 + 3 * TANH_CUBE * c * c));
  case AXN_ACTIVATION_NONE:
    break;
  }
  return g;
}

/* ReLU alone is a clamp that every pass over float32 has room for, at 0 or out of the way; 16-bit elements,
 * which are bound by their conversions, would pay for it. */
enum { CLAMPS = AXN_ELEMENT == AXN_ELEMENT_FLOAT32 };

INLINE float floor_of(const axn_ending *ending) {
  return ending->clamps ? 0 : -INFINITY;
}

/* floor > v ? floor : v, so that a NaN stays and 0 does not replace -0; x86 has an instruction that does just that. */
INLINE vector at_least(vector floor, vector v) {
#if AXN_VECTOR_BYTES == 64
  return (vector)_mm512_max_ps((__m512)floor, (__m512)v);
#elif AXN_VECTOR_BYTES == 32
  return (vector)_mm256_max_ps((__m256)floor, (__m256)v);
#elif defined(__SSE__)
  return (vector)_mm_max_ps((__m128)floor, (__m128)v);
#else
  return select_floats(floor > v, floor, v);
#endif
}

INLINE vector clamped(vector v, float floor) {
  return CLAMPS ? at_least((vector){0} + floor, v) : v;
}

/* Whether a pass ends with more than a clamp. */
INLINE bool ends(const axn_ending *ending) {
  return axn_ends(ending) && !(CLAMPS && ending->clamps);
}

/* The end of a pass for vectors from offset `at` on. Apart from the kernels, so that it is there once: an
 * activation is many operations, a call few. */
static __attribute__((noinline, unused)) void end_all(vector *z, int count, int64_t at,
                                                      const axn_ending *ending) {
  for (int v = 0; v < count; v++, at += WIDTH) {
    if (ending->residual != NULL) z[v] += load_elements(input_at(ending->residual, at));
    if (ending->gradient != NULL) {
      z[v] = through_activation(load_elements(input_at(ending->gradient, at)), z[v], ending);
    } else {
      z[v] = activated(z[v], ending);
    }
  }
}

/* The same for the first `length` elements of a vector. */
static __attribute__((noinline, unused)) void end_part(vector *z, int64_t length, int64_t at,
                                                       const axn_ending *ending) {
  const vector none = {0};
  if (ending->residual != NULL) {
    *z += load_some_elements(input_at(ending->residual, at), length, none);
  }
  if (ending->gradient != NULL) {
    const vector g = load_some_elements(input_at(ending->gradient, at), length, none);
    *z = through_activation(g, *z, ending);
  } else {
    *z = activated(*z, ending);
  }
}

/* Without an ending, which is known when this is compiled, there is nothing. */
INLINE void end_vectors(vector *z, int count, int64_t at, const axn_ending *ending) {
  if (ending != NULL) end_all(z, count, at, ending);
}

INLINE vector end_some(vector z, int64_t length, int64_t at, const axn_ending *ending) {
  if (ending != NULL) end_part(&z, length, at, ending);
  return z;
}

#endif
