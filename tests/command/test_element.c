/* SPDX-License-Identifier: MIT */
/* Conversion of single elements, against the same by plain arithmetic. */
#include "../typed.h"
#include "element.h"

#include <criterion/criterion.h>
#include <math.h>

static const axn_dtype NARROW[] = {AXN_BFLOAT16, AXN_FLOAT16};

static void check(axn_dtype dtype, double value) {
  uint16_t bits;
  element_set(&bits, dtype, 0, value);
  const double found = value_of(dtype, bits), due = rounded(dtype, value);
  cr_assert(isnan(due) ? isnan(found) : found == due && !signbit(found) == !signbit(due),
            "%s: %.17g becomes %.17g, not %.17g", axn_dtype_name(dtype), value, found, due);
}

Test(element, every_value_of_16_bits) {
  for (int t = 0; t < 2; t++) {
    for (uint32_t i = 0; i <= UINT16_MAX; i++) {
      const uint16_t bits = (uint16_t)i;
      const double due = value_of(NARROW[t], bits), found = element_get(&bits, NARROW[t], 0);
      cr_assert(isnan(due) ? isnan(found) : found == due && !signbit(found) == !signbit(due),
                "%s: %04x is %.17g, not %.17g", axn_dtype_name(NARROW[t]), bits, found, due);
      check(NARROW[t], due);
    }
  }
}

/* Half way to the next value, and to either side of that. */
Test(element, rounds_to_the_nearest_and_ties_to_even) {
  for (int t = 0; t < 2; t++) {
    for (uint32_t i = 0; i < UINT16_MAX; i++) {
      const double low = value_of(NARROW[t], (uint16_t)i);
      double high = value_of(NARROW[t], (uint16_t)(i + 1));
      if (isnan(low) || isinf(low) || isnan(high)) continue;
      if (isinf(high)) high = 2.0 * low - value_of(NARROW[t], (uint16_t)(i - 1));
      const float half = (float)(low / 2.0 + high / 2.0);
      check(NARROW[t], (double)half);
      check(NARROW[t], (double)nextafterf(half, INFINITY));
      check(NARROW[t], (double)nextafterf(half, -INFINITY));
    }
  }
}

Test(element, wider_types_keep_their_digits) {
  float single;
  double twice;
  element_set(&single, AXN_FLOAT32, 0, 1.0 / 3.0);
  element_set(&twice, AXN_FLOAT64, 0, 1.0 / 3.0);
  cr_expect(single == 1.0f / 3.0f && element_get(&single, AXN_FLOAT32, 0) == (double)single);
  cr_expect(twice == 1.0 / 3.0 && element_get(&twice, AXN_FLOAT64, 0) == twice);
}
