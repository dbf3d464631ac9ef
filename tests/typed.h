/* SPDX-License-Identifier: MIT */
/* Runs on memory of any type, and the 16-bit types by plain arithmetic. */
#ifndef AXISNORM_TESTS_TYPED_H
#define AXISNORM_TESTS_TYPED_H

#include "cases.h"
#include "oracle.h"

/* The value of a 16-bit type that is nearest, ties to even; by arithmetic. */
double rounded(axn_dtype dtype, double value);

/* The value of 16 bits, by its definition, and the bits of a value that the type has. */
double value_of(axn_dtype dtype, uint16_t bits);
uint16_t bits_in(axn_dtype dtype, double value);

/* Elements of memory of any type. */
void typed_set(void *memory, axn_dtype dtype, int64_t at, double value);
double typed_get(const void *memory, axn_dtype dtype, int64_t at);
void *typed_room(int64_t count, axn_dtype dtype); /* NaN throughout */
double *doubles_of(const void *memory, axn_dtype dtype, int64_t count);

/* What runs take and give, in memory of some type. */
typedef struct buffers {
  axn_plan *plan;
  axn_plan_info info;
  axn_dtype dtype, parameters, reals;
  axn_activation activation;
  int with_residual;
  void *x, *grad_y, *scale, *shift, *y, *z, *grad_x, *grad_scale, *grad_shift;
  void *residual, *grad_residual; /* given to runs where there is an activation, or asked for */
  void *mean, *rstd, *running_mean, *running_variance, *workspace;
} buffers;

/* Buffers of type `dtype` that hold values of type `narrow`. */
buffers buffers_of(const axn_desc *desc, axn_dtype dtype, axn_dtype narrow, axn_dtype parameters,
                   double offset);
void buffers_free(buffers *self);

/* Inference into z, training into y; backward; both. In place on request. Set with_residual before. */
void buffers_forward(buffers *self, int in_place);
void buffers_backward(buffers *self, int in_place);
void buffers_run(buffers *self, int in_place);

#endif
