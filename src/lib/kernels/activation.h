/* SPDX-License-Identifier: MIT */
/*
 * Activations and their derivatives, on vectors of floats, with operations that every instruction set has, in
 * one order. What an activation costs is the number of its operations, so there are as few as its accuracy
 * allows, and it works on many vectors at a time, whose chains of operations overlap.
 *
 * exp: r = x - n ln 2 with n whole and |r| <= ln 2 / 2, then a polynomial, of relative error below 4e-9 but
 * for rounding; or a ratio, of less than 1e-9. The normal distribution, for GELU: exp(-t^2 / 2) times a ratio of
 * polynomials in t for the tail beyond t = |z|, of relative error below 8e-8 for t < 5 and 5e-7 beyond. Fitted by
 * linear programs; docs/mathematics.md says what comes of it.
 */
#ifndef AXN_LIB_KERNELS_ACTIVATION_H
#define AXN_LIB_KERNELS_ACTIVATION_H

#include "kernels.h"
#include "vector.h"

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

/* The same as a ratio, which spares a division and some operations where there is another ratio to come: for half
 * of x, exp(r / 2) = (q + r) / (q - r) with q = r / tanh(r / 4), which is even, so that few terms do. */
typedef struct ratio {
  vector numerator, denominator;
} ratio;

INLINE ratio exp_of_minus_half(vector x) {
  const float whole = 0x1.8p23f;
  const vector shifted = whole - x * 0x1.715476p-1f, n = shifted - whole;
  const vector r = (-0x1.62ep0f * n - x) - n * 0x1.0bfbe8p-14f, square = r * r;
  const vector q = (-0x1.6a8b1ep-12f * square + 0x1.555514p-4f) * square + 4.0f;
  const float_mask exponent = (float_mask)shifted << 23;
  return (ratio){(vector)((float_mask)(q + r) + exponent), q - r};
}

/* Of the normal distribution, what lies beyond t <= 13, but for the factor exp(-t^2 / 2). */
INLINE ratio normal_tail(vector t) {
  vector numerator = 0x1.7cc7f4p-17f * t + 0x1.9804bep-2f, denominator = t + 0x1.ecc706p2f;
  numerator = numerator * t + 0x1.8a5048p1f;
  numerator = numerator * t + 0x1.3d4bfp3f;
  numerator = numerator * t + 0x1.e0250ap3f;
  denominator = denominator * t + 0x1.a15b7p4f;
  denominator = denominator * t + 0x1.5e328ap5f;
  denominator = denominator * t + 0x1.e0250cp4f;
  return (ratio){numerator, denominator};
}

/* Of GELU's tanh form, which is z S(w) for the logistic function S, as (1 + tanh(u)) / 2 = S(2 u). */
static const float TANH_FACTOR = 0.797884561f, TANH_CUBE = 0.044715f; /* sqrt(2 / pi) */

/* exp(-w) where that is z's, no smaller than exp(-limit). */
INLINE ratio exp_of_tanh_argument(vector z, float limit) {
  const vector twice = z * (4 * TANH_FACTOR + 4 * TANH_FACTOR * TANH_CUBE * (z * z));
  return exp_of_minus_half(at_most((vector){0} + 2 * limit, twice));
}

/* Where an activation has vanished, z counts as the place where it has: exp() stops above zero, and no
 * infinity is to meet it. */
enum { GELU_FAR = 13 };

INLINE vector silu(vector z) {
  const vector none = {0}, far = at_least(none - FAR, z);
  return far / (1.0f + exp_of_minus(at_most(none + FAR, far)));
}

/* How far z is from 0, and no farther than a limit; NaN stays. */
INLINE vector size_up_to(float limit, vector z) {
  return at_most((vector){0} + limit, absolute(z));
}

/* Both forms: left of 0, z times the share of z, S(w) or the tail beyond t = |z|; right of it, z less that of -z. So
 * what is small keeps its digits, and what is rounded most is small. */
INLINE vector gelu(vector z) {
  const vector t = size_up_to(GELU_FAR, z);
  const ratio density = exp_of_minus_half(t * t), tail = normal_tail(t);
  const vector part = density.numerator * tail.numerator * t;
  return at_least((vector){0}, z) - part / (density.denominator * tail.denominator);
}

INLINE vector gelu_tanh(vector z) {
  const vector t = size_up_to(GELU_FAR, z);
  const ratio e = exp_of_tanh_argument(t, FAR);
  return at_least((vector){0}, z) - t * e.numerator / (e.denominator + e.numerator);
}

/* The derivatives, which all are 1 less that of -z. Where one has reached its limits, z counts as one of those, so
 * that no product of an infinity and a zero comes up. */
INLINE vector slope_from(vector z, vector left) {
  return select_above((vector){0}, z, left, 1.0f - left);
}

/* S(-w) less `inner` S(-w) S(w), with S(-w) = e / (1 + e) for e = exp(-w). */
INLINE vector logistic_slope(ratio e, vector inner) {
  const vector sum = e.denominator + e.numerator;
  return e.numerator * (sum - inner * e.denominator) / (sum * sum);
}

INLINE vector silu_slope(vector z) {
  const vector t = size_up_to(30, z);
  return slope_from(z, logistic_slope(exp_of_minus_half(t + t), t));
}

/* Left of 0 the tail less t times the density. */
INLINE vector gelu_slope(vector z) {
  const vector t = size_up_to(GELU_FAR, z);
  const ratio density = exp_of_minus_half(t * t), tail = normal_tail(t);
  const vector less = tail.numerator - t * 0.398942280f * tail.denominator; /* 1 / sqrt(2 pi) */
  return slope_from(z, density.numerator * less / (density.denominator * tail.denominator));
}

INLINE vector gelu_tanh_slope(vector z) {
  const vector t = size_up_to(GELU_FAR, z);
  const vector inner = t * (2 * TANH_FACTOR + 6 * TANH_FACTOR * TANH_CUBE * (t * t));
  return slope_from(z, logistic_slope(exp_of_tanh_argument(t, 40), inner));
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
