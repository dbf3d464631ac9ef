/* SPDX-License-Identifier: MIT */
/* Mean and variance of every statistic in double: the rstd that the library gives holds few digits
 * of a variance that is small beside epsilon. For rms, as in the library, the mean is 0 and the
 * second moment stands for the variance. */
#ifndef AXISNORM_COMPARE_MOMENTS_H
#define AXISNORM_COMPARE_MOMENTS_H

#include "prepare.h"

struct moments {
  int64_t count; /* of statistics, in the library's order */
  double *mean, *variance;
  double *values;     /* how many each has got so far */
  bool second_moment; /* about 0, in place of the variance */
};

/* Room for the statistics of a plan. */
enum outcome moments_create(struct moments *moments, const struct prepared *prepared);

/* Of a tensor of the plan's shape. Equal values have the variance 0 to the last bit (not for rms),
 * and equal samples equal moments. */
void moments_compute(struct moments *moments, const struct prepared *prepared,
                     const struct tensor *x);

void moments_release(struct moments *moments);

#endif
