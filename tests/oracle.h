/* SPDX-License-Identifier: MIT */
/*
 * The reference that the library is tested against: the papers' formulas in float64, with plain
 * loops over index tuples and two-pass statistics. It shares nothing with the library but axn_desc.
 *
 * Every element of x knows its statistic and its parameter from two index tables; all passes are
 * loops over elements that look these up. Slow, and hard to get wrong.
 */
#ifndef AXISNORM_TESTS_ORACLE_H
#define AXISNORM_TESTS_ORACLE_H

#include <axisnorm/axisnorm.h>

typedef struct oracle {
  axn_desc desc;
  int64_t elements;
  int64_t statistics;
  int64_t values; /* per statistic */
  int64_t parameters;
  int64_t running;       /* running statistics; 0 where the norm keeps none */
  int64_t *statistic_of; /* [elements], memory order */
  int64_t *parameter_of; /* [elements] */
  int64_t *channel_of;   /* [elements] */
  uint32_t reduced_axes; /* this and the next two as axn_plan_info has them */
  int split_axis;
  int64_t split_groups;
  int64_t batches; /* as how many a training pass counts */
} oracle;

/* Statistics and what was normalized with them; arrays are the oracle's, freed by forward_free. */
typedef struct oracle_forward {
  double *y;
  double *mean;     /* [statistics] */
  double *variance; /* [statistics], biased */
  double *rstd;     /* [statistics] */
} oracle_forward;

typedef struct oracle_backward {
  double *grad_x;
  double *grad_scale;
  double *grad_shift;
  double *scale_terms; /* root of the sum of squares of what was summed into grad_scale */
  double *shift_terms; /* the same for grad_shift */
  double uncancelled;  /* largest |rstd * scale * grad_y|: the size of the terms of grad_x */
} oracle_backward;

/* The descriptor must be one that the library accepts; a strategy of its own, one whose context is the
 * axn_axes that it selects. */
oracle oracle_make(const axn_desc *desc);
void oracle_free(oracle *self);

/* A copy of float32 values in float64: exact. Null gives null. */
double *oracle_widen(const float *values, int64_t count);

/* Normalizes with the statistics of x; scale and shift may be null. */
oracle_forward oracle_from_x(const oracle *self, const double *x, const double *scale,
                             const double *shift);

/* Normalizes with running statistics per channel (mean, variance and rstd are left null). */
oracle_forward oracle_from_running(const oracle *self, const double *x, const double *scale,
                                   const double *shift, const double *running_mean,
                                   const double *running_variance);
void oracle_forward_free(oracle_forward *forward);

/* Running statistics after a training pass, in place; `count` is of batches, those of this pass
 * included. */
void oracle_update_running(const oracle *self, const oracle_forward *forward, int64_t count,
                           double *running_mean, double *running_variance);

/* Gradients through the statistics of x. */
oracle_backward oracle_gradients(const oracle *self, const double *x, const double *grad_y,
                                 const double *scale);

/* Gradients where the running statistics are constants. */
oracle_backward oracle_frozen_gradients(const oracle *self, const double *x, const double *grad_y,
                                        const double *scale, const double *running_mean,
                                        const double *running_variance);
void oracle_backward_free(oracle_backward *backward);

#endif
