/* SPDX-License-Identifier: MIT */
/*
 * Activations and their derivatives, on vectors of floats, in one order of operations, of which each rounds once: the
 * fused ones, too, on every instruction set. What an activation costs is the number of its operations, so there are as
 * few as its accuracy allows, and it works on many vectors at a time, whose chains of operations overlap.
 *
 * exp: r = x - n ln 2 with n whole and |r| <= ln 2 / 2, then a polynomial, of error below 4e-9 but for rounding; or
 * a ratio, of less than 1e-9.
 * The normal distribution, for GELU: exp(-t^2 / 2) times a ratio of polynomials in t for the tail beyond t = |z|, of
 * relative error below 8e-8 for t < 5 and 5e-7 beyond. Fitted by linear programs; docs/mathematics.md says what comes
 * of it.
 */
#ifndef AXN_LIB_KERNELS_ACTIVATION_H
#define AXN_LIB_KERNELS_ACTIVATION_H

#include "kernels.h"
#include "vector.h"

INLINE vector absolute(vector v) {
  return (vector)((float_mask)v & INT32_MAX);
}

/* p * x + c: a step along a polynomial. */
INLINE vector step(vector p, vector x, float c) {
  return multiply_add(p, x, every(c));
}

typedef struct ratio {
  vector numerator, denominator;
} ratio;

/* 1 + exp(-x) for |x| <= FAR, where exp() is a normal number. */
static const float FAR = 87;

INLINE vector one_and_exp_of_minus(vector x) {
  const float whole = 0x1.8p23f + 127; /* added, it leaves no room for a fraction */
  const vector shifted = step(x, every(-0x1.715476p0f), whole), n = shifted - whole;
  const vector r = multiply_add(n, every(-0x1.62e43p-1f), -x), square = r * r;
  const vector low = step(every(0x1.555492p-3f), r, 0x1.fffffcp-2f);
  const vector middle = step(every(0x1.1239e4p-7f), r, 0x1.5558f2p-5f);
  const vector high = multiply_add(every(0x1.6a2430p-10f), square, middle);
  const vector p = multiply_add(multiply_add(high, square, low), square, r); /* exp(r) - 1 */
  const vector power = (vector)((float_mask)shifted << 23); /* n + 127 stands in the lowest bits */
  return exact_multiply_add(p, power, power + 1.0f);
}

/* The same as a ratio, which spares a division and some operations where there is another ratio to come: exp(r) =
 * (q + r) / (q - r) with q = r / tanh(r / 2), which is even, so that few terms do. With `half` for 1, that of x / 2.
 * ln 2 as a float is off by so little that what is left of x is off by less than by rounding where x is a product. */
INLINE ratio exp_of_minus_as_ratio(vector x, float half) {
  const float whole = 0x1.8p23f, unit = 1 / half;
  const vector shifted = step(x, every(-0x1.715476p0f * half), whole), n = shifted - whole;
  const vector r = multiply_add(n, every(-0x1.62e43p-1f * unit), -x), square = r * r;
  const float high = 0x1.555514p-3f * half, higher = -0x1.6a8b1ep-9f * half * half * half;
  const vector q = step(step(every(higher), square, high), square, 2 * unit);
  const float_mask exponent = (float_mask)shifted << 23;
  return (ratio){(vector)((float_mask)(q + r) + exponent), q - r};
}

/* Of the normal distribution, what lies beyond t <= 13, but for the factor exp(-t^2 / 2). */
INLINE ratio normal_tail(vector t) {
  vector numerator = step(every(0x1.7cc7f4p-17f), t, 0x1.9804bep-2f),
         denominator = t + 0x1.ecc706p2f;
  numerator = step(numerator, t, 0x1.8a5048p1f);
  denominator = step(denominator, t, 0x1.a15b7p4f);
  numerator = step(numerator, t, 0x1.3d4bfp3f);
  denominator = step(denominator, t, 0x1.5e328ap5f);
  numerator = step(numerator, t, 0x1.e0250ap3f);
  denominator = step(denominator, t, 0x1.e0250cp4f);
  return (ratio){numerator, denominator};
}

/* Where an activation has vanished, or its derivative reached its limits, z counts as the place where it has: exp()
 * stops above zero, and no product of an infinity and a zero is to come up. */
static const float GELU_FAR = 13, GELU_TANH_FAR = 9.9765625f;

/* How far z is from 0, and no farther than a limit; NaN stays. */
INLINE vector size_up_to(float limit, vector z) {
  return at_most(every(limit), absolute(z));
}

/* Of GELU's tanh form, which is z S(w) for the logistic function S, as (1 + tanh(u)) / 2 = S(2 u): twice w. */
static const float TANH_FACTOR = 0.797884561f, TANH_CUBE = 0.044715f; /* sqrt(2 / pi) */

INLINE vector twice_tanh_argument(vector t, vector square) {
  return t * step(every(4 * TANH_FACTOR * TANH_CUBE), square, 4 * TANH_FACTOR);
}

INLINE vector silu(vector z) {
  const vector far = at_least(every(-FAR), z);
  return far / one_and_exp_of_minus(at_most(every(FAR), far));
}

/* Both forms: left of 0, z times the share of z, S(w) or the tail beyond t = |z|; right of it, z less that of -z. So
 * what is small keeps its digits, and what is rounded most is small. */
INLINE vector gelu(vector z) {
  const vector t = size_up_to(GELU_FAR, z);
  const ratio density = exp_of_minus_as_ratio(t * t, 0.5f), tail = normal_tail(t);
  const vector part = density.numerator * tail.numerator * t;
  return at_least((vector){0}, z) - part / (density.denominator * tail.denominator);
}

INLINE vector gelu_tanh(vector z) {
  const vector t = size_up_to(GELU_TANH_FAR, z);
  const ratio e = exp_of_minus_as_ratio(twice_tanh_argument(t, t * t), 0.5f);
  return at_least((vector){0}, z) - t * e.numerator / (e.denominator + e.numerator);
}

/* The derivatives, which all are 1 less that of -z. */
INLINE vector slope_from(vector z, vector left) {
  return select_above((vector){0}, z, left, 1.0f - left);
}

/* S(-w) less `inner` S(-w) S(w), with S(-w) = e / (1 + e) for e = exp(-w). */
INLINE vector logistic_slope(ratio e, vector inner) {
  const vector sum = e.denominator + e.numerator;
  return e.numerator * multiply_add(-inner, e.denominator, sum) / (sum * sum);
}

INLINE vector silu_slope(vector z) {
  const vector t = size_up_to(FAR, z);
  return slope_from(z, logistic_slope(exp_of_minus_as_ratio(t, 1), t));
}

/* Left of 0 the tail less t times the density. */
INLINE vector gelu_slope(vector z) {
  const vector t = size_up_to(GELU_FAR, z);
  const ratio density = exp_of_minus_as_ratio(t * t, 0.5f), tail = normal_tail(t);
  const float factor = 0.398942280f; /* 1 / sqrt(2 pi) */
  const vector less = multiply_add(t * -factor, tail.denominator, tail.numerator);
  return slope_from(z, density.numerator * less / (density.denominator * tail.denominator));
}

INLINE vector gelu_tanh_slope(vector z) {
  const vector t = size_up_to(GELU_TANH_FAR, z), square = t * t;
  const vector inner = t * step(every(6 * TANH_FACTOR * TANH_CUBE), square, 2 * TANH_FACTOR);
  const ratio e = exp_of_minus_as_ratio(twice_tanh_argument(t, square), 0.5f);
  return slope_from(z, logistic_slope(e, inner));
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

/* What an activation is for: vectors of z and, on the way back, of what its derivative meets, and where results go.
 * These lie side by side, but for the last. */
typedef struct activated {
  const vector *z;
  int count;
  const float *gradient, *last_gradient; /* null: the way is forward */
  float *to, *last;
} activated;

INLINE void put_activated(const activated *all, int v, vector y) {
  store(v + 1 < all->count ? all->to + v * WIDTH : all->last, y);
}

INLINE vector gradient_of_activated(const activated *all, int v) {
  return load(v + 1 < all->count ? all->gradient + v * WIDTH : all->last_gradient);
}

/* activation(z). */
INLINE void activate(const activated *all, const axn_ending *ending) {
  const activated a = *all;
  switch (ending->activation) {
  case AXN_ACTIVATION_SILU:
    for (int v = 0; v < a.count; v++) put_activated(&a, v, silu(a.z[v]));
    break;
  case AXN_ACTIVATION_GELU:
    for (int v = 0; v < a.count; v++) put_activated(&a, v, gelu(a.z[v]));
    break;
  case AXN_ACTIVATION_GELU_TANH:
    for (int v = 0; v < a.count; v++) put_activated(&a, v, gelu_tanh(a.z[v]));
    break;
  default:
    for (int v = 0; v < a.count; v++) {
      vector z = a.z[v];
      turn_corner(&z, 1, ending);
      put_activated(&a, v, z);
    }
  }
}

/* The gradient times the derivative of the activation at z. */
INLINE void go_through_activation(const activated *all, const axn_ending *ending) {
  const activated a = *all;
  switch (ending->activation) {
  case AXN_ACTIVATION_SILU:
    for (int v = 0; v < a.count; v++) {
      put_activated(&a, v, gradient_of_activated(&a, v) * silu_slope(a.z[v]));
    }
    break;
  case AXN_ACTIVATION_GELU:
    for (int v = 0; v < a.count; v++) {
      put_activated(&a, v, gradient_of_activated(&a, v) * gelu_slope(a.z[v]));
    }
    break;
  case AXN_ACTIVATION_GELU_TANH:
    for (int v = 0; v < a.count; v++) {
      put_activated(&a, v, gradient_of_activated(&a, v) * gelu_tanh_slope(a.z[v]));
    }
    break;
  default:
    for (int v = 0; v < a.count; v++) {
      const vector g = gradient_of_activated(&a, v);
      vector z = a.z[v];
      go_past_corner(&z, &g, 1, ending);
      put_activated(&a, v, z);
    }
  }
}

#endif
