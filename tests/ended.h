/* SPDX-License-Identifier: MIT */
/* What runs that end with residuals and activations are due to give, by the activations' definitions and
 * the oracle, for buffers of any type (typed.h). */
#ifndef AXISNORM_TESTS_ENDED_H
#define AXISNORM_TESTS_ENDED_H

#include "typed.h"

static const double ENDED_SLOPE =
    0.125; /* of leaky ReLU; that of the descriptor must be this one */

double activation_of(axn_activation activation, double z);

typedef struct expected {
  double *z, *y, *inference, *grad_z;
  oracle sizes;
  oracle_forward forward; /* without residual and activation */
  oracle_backward backward;
} expected;

expected expect(const buffers *own, const axn_desc *desc);
void expected_free(expected *due);

/* `each`: of every value or 1; `all`: of the largest, or of what values cancel from. */
void expect_near(const buffers *own, const axn_desc *desc, const char *name, const void *found,
                 axn_dtype dtype, const double *due, int64_t count, double each, double all,
                 double largest);

/* Rounding of the type; and what sums may be off by. */
double unit_of(axn_dtype dtype);
double all_of(axn_dtype dtype);

void expect_gradients(const buffers *own, const axn_desc *desc, const oracle_backward *backward);

/* Everything that buffers_run() filled. */
void expect_runs(const buffers *own, const axn_desc *desc, const expected *due);

#endif
