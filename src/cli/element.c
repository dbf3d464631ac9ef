/* SPDX-License-Identifier: MIT */
#include "element.h"

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

enum { SIGN = 0x8000 };
static const uint32_t FLOAT_SIZE = 0x7fffffff; /* all bits but the sign */
static const uint32_t FLOAT_INFINITY = 0x7f800000;

static uint16_t bfloat16_of(float value) {
  uint32_t bits = bits_of(value);
  if ((bits & FLOAT_SIZE) > FLOAT_INFINITY) return (uint16_t)(bits >> 16 | 0x40); /* stays NaN */
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t float16_of(float value) {
  static const uint32_t first_infinite = 0x477ff000; /* 65520: half way to the number after all */
  static const uint32_t first_normal = 0x38800000;   /* 2^-14 */
  static const uint32_t bias = 0x38000000;           /* 127 - 15 in the exponent */
  uint32_t bits = bits_of(value), sign = bits >> 16 & SIGN, size = bits & FLOAT_SIZE;
  if (size > FLOAT_INFINITY) return (uint16_t)(sign | 0x7e00);
  if (size >= first_infinite) return (uint16_t)(sign | 0x7c00);
  if (size < first_normal) /* the last place of 0.5 is 2^-24, as that of these: the sum rounds */
    return (uint16_t)(sign | (bits_of(float_of(size) + 0.5f) - bits_of(0.5f)));
  return (uint16_t)(sign | (size - bias + 0xfff + (size >> 13 & 1)) >> 13);
}

static float float16_value(uint16_t half) {
  uint32_t sign = (uint32_t)(half & SIGN) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return float_of(sign | FLOAT_INFINITY | fraction << 13);
  if (exponent == 0) return float_of(sign | bits_of((float)fraction * 0x1p-24f));
  return float_of(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

double element_get(const void *data, axn_dtype dtype, int64_t at) {
  switch (dtype) {
  case AXN_FLOAT64:
    return ((const double *)data)[at];
  case AXN_BFLOAT16:
    return (double)float_of((uint32_t)((const uint16_t *)data)[at] << 16);
  case AXN_FLOAT16:
    return (double)float16_value(((const uint16_t *)data)[at]);
  default:
    return (double)((const float *)data)[at];
  }
}

void element_set(void *data, axn_dtype dtype, int64_t at, double value) {
  switch (dtype) {
  case AXN_FLOAT64:
    ((double *)data)[at] = value;
    break;
  case AXN_BFLOAT16:
    ((uint16_t *)data)[at] = bfloat16_of((float)value);
    break;
  case AXN_FLOAT16:
    ((uint16_t *)data)[at] = float16_of((float)value);
    break;
  default:
    ((float *)data)[at] = (float)value;
    break;
  }
}

const char *element_type_name(axn_dtype dtype) {
  switch (dtype) {
  case AXN_FLOAT64:
    return "float64";
  case AXN_BFLOAT16:
    return "bfloat16";
  case AXN_FLOAT16:
    return "float16";
  default:
    return "float32";
  }
}
