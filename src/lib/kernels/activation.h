/* SPDX-License-Identifier: MIT */
/*
 * Activations and their derivatives, on vectors of floats, with operations that every instruction set has, in
 * one order. What an activation costs is the number of its operations, so there are as few as its accuracy
 * allows, and it works on many vectors at a time, whose chains of operations overlap.
 *
 * exp: r = x - n ln 2 with n whole and |r| <= ln 2 / 2, then a polynomial, of relative error below 4e-9 but
 * for rounding. The normal distribution, for GELU: exp(-t^2 / 2) times a polynomial in 1 / (1 + t / 4) for
 * the tail beyond t = |z|, of relative error below 2e-8. Both fitted by Lawson's method on Chebyshev's
 * points; docs/mathematics.md says what comes of it.
 */
#ifndef AXN_LIB_KERNELS_ACTIVATION_H
#define AXN_LIB_KERNELS_ACTIVATION_H

#include "kernels.h"
#include "vector.h"

/* Within a limit on either side; NaN stays. */
INLINE vector limited(vector v, float limit) {
  const vector none = {0};
  return at_most(none + limit, at_least(none - limit, v));
}

INLINE vector absolute(vector v) {
  return (vector)((float_mask)v & INT32_MAX);
}

/* exp(-x) for |x| <= FAR, so that it is a normal number. */
static const float FAR = 87.0f;

INLINE vector exp_of_minus(vector x) {
  const float whole = 0x1.8p23f; /* added, it leaves no room for a fraction */
  const vector shifted = whole - x * 0x1.715476p0f, n = shifted - whole;
  const vector r = (-0x1.62ep-1f * n - x) - n * 0x1.0bfbe8p-15f;
  /* Coefficients in pairs: half as long a chain as one after the other. */
  const vector square = r * r;
  const vector low = 0x1.555492p-3f * r + 0x1.fffffcp-2f,
               middle = 0x1.1239e4p-7f * r + 0x1.5558f2p-5f;
  const vector p = ((0x1.6a2430p-10f * square + middle) * square + low) * square + r;
  const float_mask exponent = (float_mask)shifted << 23; /* n stands in the lowest bits */
  return (vector)((float_mask)(p + 1.0f) + exponent);
}

/* The normal distribution function of |z| <= 13; *density: that, without its factor 1 / sqrt(2 pi). */
INLINE vector normal_distribution(vector z, vector *density) {
  const vector t = absolute(z), u = 1.0f / (1.0f + 0.25f * t), none = {0};
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
  *density = exp_of_minus(0.5f * t * t);
  tail *= *density;
  return select_floats(z < 0, tail, 1.0f - tail);
}

/* Of GELU's tanh form, which is z S(w) for the logistic function S, as (1 + tanh(u)) / 2 = S(2 u). */
static const float TANH_FACTOR = 0.797884561f, TANH_CUBE = 0.044715f; /* sqrt(2 / pi) */

INLINE vector tanh_argument(vector z) {
  return z * (2 * TANH_FACTOR + 2 * TANH_FACTOR * TANH_CUBE * (z * z));
}

/* Where an activation has vanished, z counts as the place where it has: exp() stops above zero, and no
 * infinity is to meet it. */
enum { GELU_FAR = 13 };

INLINE vector silu(vector z) {
  const vector none = {0}, far = at_least(none - FAR, z);
  return far / (1.0f + exp_of_minus(at_most(none + FAR, far)));
}

INLINE vector gelu(vector z) {
  const vector none = {0}, far = at_least(none - GELU_FAR, z);
  vector density;
  return far * normal_distribution(at_most(none + GELU_FAR, far), &density);
}

INLINE vector gelu_tanh(vector z) {
  const vector none = {0}, far = at_least(none - GELU_FAR, z);
  return far / (1.0f + exp_of_minus(limited(tanh_argument(far), FAR)));
}

/* The derivatives. Where one has reached its limits, z counts as one of those, so that no product of an
 * infinity and a zero comes up. With e = exp(-z), S = 1 / (1 + e) and 1 - S = e S, which keeps its digits. */
INLINE vector silu_slope(vector z) {
  const vector c = limited(z, 30.0f), e = exp_of_minus(c), share = 1.0f / (1.0f + e);
  return share * (1.0f + c * (e * share));
}

INLINE vector gelu_slope(vector z) {
  vector density;
  const vector c = limited(z, GELU_FAR), share = normal_distribution(c, &density);
  return share + c * density * 0.398942280f; /* 1 / sqrt(2 pi) */
}

INLINE vector gelu_tanh_slope(vector z) {
  const vector c = limited(z, GELU_FAR), e = exp_of_minus(limited(tanh_argument(c), FAR));
  const vector share = 1.0f / (1.0f + e);
  const vector inner = 2 * TANH_FACTOR + 6 * TANH_FACTOR * TANH_CUBE * (c * c);
  return share * (1.0f + c * (e * share) * inner);
}

/* z becomes activation(z), for those that are made of straight lines. */
INLINE void turn_corner(vector *z, int count, const axn_ending *ending) {
  const vector none = {0};
  if (ending->activation == AXN_ACTIVATION_RELU) {
    for (int v = 0; v < count; v++) z[v] = at_least(none, z[v]);
  } else if (ending->activation == AXN_ACTIVATION_LEAKY_RELU) {
    const float slope = (float)ending->slope;
    for (int v = 0; v < count; v++) z[v] = select_floats(z[v] < 0, z[v] * slope, z[v]);
  }
}

/* The corner of such an activation, on the way back: what is below it comes to nothing, or leaks. */
typedef struct corner {
  bool leaks;
  float slope;
} corner;

INLINE corner corner_of(const axn_ending *ending) {
  return (corner){ending->activation == AXN_ACTIVATION_LEAKY_RELU, (float)ending->slope};
}

/* g times the derivative of such an activation, whose corner is at z = bound. */
INLINE vector past_corner(vector z, vector bound, vector g, const corner *c) {
  return c->leaks ? select_above(z, bound, g, g * c->slope) : keep_above(z, bound, g);
}

/* z becomes g times the derivative at z. */
INLINE void go_past_corner(vector *z, const vector *g, int count, const axn_ending *ending) {
  const corner c = corner_of(ending);
  for (int v = 0; v < count; v++) z[v] = past_corner(z[v], (vector){0}, g[v], &c);
}

/* z becomes activation(z). */
INLINE void activate(vector *z, int count, const axn_ending *ending) {
  switch (ending->activation) {
  case AXN_ACTIVATION_SILU:
    for (int v = 0; v < count; v++) z[v] = silu(z[v]);
    break;
  case AXN_ACTIVATION_GELU:
    for (int v = 0; v < count; v++) z[v] = gelu(z[v]);
    break;
  case AXN_ACTIVATION_GELU_TANH:
    for (int v = 0; v < count; v++) z[v] = gelu_tanh(z[v]);
    break;
  default:
    turn_corner(z, count, ending);
  }
}

/* z becomes g times the derivative of the activation at z. */
INLINE void go_through_activation(vector *z, const vector *g, int count, const axn_ending *ending) {
  switch (ending->activation) {
  case AXN_ACTIVATION_SILU:
    for (int v = 0; v < count; v++) z[v] = g[v] * silu_slope(z[v]);
    break;
  case AXN_ACTIVATION_GELU:
    for (int v = 0; v < count; v++) z[v] = g[v] * gelu_slope(z[v]);
    break;
  case AXN_ACTIVATION_GELU_TANH:
    for (int v = 0; v < count; v++) z[v] = g[v] * gelu_tanh_slope(z[v]);
    break;
  default:
    go_past_corner(z, g, count, ending);
  }
}

#endif
