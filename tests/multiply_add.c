/* SPDX-License-Identifier: MIT */
/* The kernels' multiply-add rounds once, as C's fmaf() does, where it is an instruction and where it is made of others.
 * No Criterion, so that it runs on a machine, or an emulator, that has nothing but the library. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/vector.h"

static long checked, wrong;

static int same(float a, float b) {
  return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0;
}

static void check_way(const char *way, const float *a, const float *b, const float *c, vector is) {
  float values[WIDTH];
  store(values, is);
  for (int i = 0; i < WIDTH; i++) {
    const float due = fmaf(a[i], b[i], c[i]);
    checked++;
    if (same(values[i], due)) continue;
    if (wrong++ < 10) {
      printf("%s: %a * %a + %a is %a, not %a\n", way, (double)a[i], (double)b[i], (double)c[i],
             (double)values[i], (double)due);
    }
  }
}

static void check_vector(const float *a, const float *b, const float *c) {
  check_way("multiply_add", a, b, c, multiply_add(load(a), load(b), load(c)));
  check_way("multiply_add_anywhere", a, b, c, multiply_add_anywhere(load(a), load(b), load(c)));
}

/* Operands wait until there is a vector of them. */
static void check(float a, float b, float c) {
  static float as[WIDTH], bs[WIDTH], cs[WIDTH];
  static int count;
  as[count] = a, bs[count] = b, cs[count] = c;
  count = (count + 1) % WIDTH;
  if (count == 0) check_vector(as, bs, cs);
}

static void check_signs(float a, float b, float c) {
  for (int i = 0; i < 4; i++) check(i % 2 ? -a : a, b, i / 2 ? -c : c);
}

/* Halfway between two floats, and off it by 2^-46 of half their distance: no float64 has room for that beside the sum
 * of numbers of 24 digits. Whole numbers of units of every size, from that of subnormal numbers on. */
static void check_halfway(void) {
  static const float wholes[] = {0, 1, 2, 3, 0x7fffff, 0x800000, 0x800001, 0xfffffe, 0xffffff};
  static const float more[] = {0, 0x1p-23f, 0x1p-22f};
  for (int exponent = -149; exponent <= 104; exponent++) {
    const float first = ldexpf(1, (exponent - 1) / 2),
                second = ldexpf(1, exponent - 1 - (exponent - 1) / 2);
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++) {
      const float c = ldexpf(wholes[i], exponent);
      for (int j = 0; j < 3; j++) {
        check_signs(first * (1 + more[j]), second * (1 - more[j]), c);
        check_signs(first * (1 + more[j]), second * (1 + more[j]), c);
        check_signs(first * (1 - more[j]), second * 3, c);
      }
    }
  }
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t next(uint64_t *state) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(*state >> 32);
}

/* A float of any kind; of like size; of few digits. */
static float any_float(uint64_t *state, int kind) {
  uint32_t bits = next(state);
  if (kind & 1) bits = (bits & UINT32_C(0x87ffffff)) | UINT32_C(0x38000000);
  if (kind & 2) bits &= ~UINT32_C(0) << (next(state) % 24);
  return float_of(bits);
}

/* Also with an addend that nearly cancels the product, or is near the half of its unit. */
static void check_random(int turns) {
  uint64_t state = 1;
  for (int i = 0; i < turns; i++) {
    const float a = any_float(&state, i % 4), b = any_float(&state, i % 4);
    check(a, b, any_float(&state, i % 4));
    check(a, b, -(a * b));
    check(a, b, ldexpf(a * b, (int)(next(&state) % 64) - 32));
  }
}

static void check_special(void) {
  static const float values[] = {0,
                                 -0.0f,
                                 1,
                                 -1,
                                 0x1p-149f,
                                 -0x1p-149f,
                                 0x1p-126f,
                                 0x1p-127f,
                                 0x1.fffffep127f,
                                 -0x1.fffffep127f,
                                 0x1p-75f,
                                 0x1p64f,
                                 INFINITY,
                                 -INFINITY,
                                 NAN,
                                 0x1p103f,
                                 0x1.fffffep-127f};
  enum { COUNT = sizeof values / sizeof *values };
  for (int i = 0; i < COUNT * COUNT * COUNT; i++) {
    check(values[i % COUNT], values[i / COUNT % COUNT], values[i / COUNT / COUNT]);
  }
}

int main(void) {
  check_special();
  check_halfway();
  check_random(1 << 20);
  for (int i = 1; i < WIDTH; i++) check(0, 0, 0); /* those that wait */
  printf("%ld of %ld are wrong\n", wrong, checked);
  return wrong != 0;
}
