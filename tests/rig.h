/* SPDX-License-Identifier: MIT */
/*
 * A plan with all its buffers, filled with seeded data: a test makes a rig, runs a pass, looks.
 * Outputs start as NaN, so an element that the library leaves out is seen. Sizes come from the
 * oracle's count, never from the library's. A call that fails fails the test.
 */
#ifndef AXISNORM_TESTS_RIG_H
#define AXISNORM_TESTS_RIG_H

#include "cases.h"
#include "oracle.h"

enum {
  RIG_PLAIN = 0,
  RIG_SCALE = 1,
  RIG_SHIFT = 2,
  RIG_RUNNING = 4, /* where the norm keeps running statistics */
  RIG_IN_PLACE = 8,
  RIG_ALL = RIG_SCALE | RIG_SHIFT | RIG_RUNNING
};

typedef struct rig {
  axn_desc desc;
  unsigned has;
  oracle sizes;
  axn_plan *plan;
  axn_plan_info info;
  int threads; /* for each call; 0: the plan's */
  int is_twin; /* sizes belong to another */
  float *x, *grad_y, *scale, *shift;
  float *y, *mean, *rstd;
  float *grad_x, *grad_scale, *grad_shift;
  float *running_mean, *running_variance;
  int64_t batch_count;
} rig;

rig rig_make(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed);

/* The same inputs and sizes, which the other lends, for a plan of the same shape: made in a fraction of the
 * time. Running statistics are those that the other has by now. */
rig rig_twin(const rig *of, const axn_desc *desc);
void rig_free(rig *self);

void rig_train(rig *self);    /* fills y, mean, rstd; updates the running statistics */
void rig_infer(rig *self);    /* fills y; from running statistics with RIG_RUNNING, else from x */
void rig_backward(rig *self); /* through mean and rstd: needs rig_train first */
void rig_backward_frozen(rig *self);

/* What the oracle makes of the same data. */
oracle_forward rig_expect_training(const rig *self);
oracle_forward rig_expect_inference(const rig *self);
oracle_backward rig_expect_backward(const rig *self);
oracle_backward rig_expect_frozen(const rig *self);

float *new_floats(int64_t count); /* NaN throughout */
float *copy_floats(const float *values, int64_t count);

#endif
