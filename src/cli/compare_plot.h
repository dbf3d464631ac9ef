/* SPDX-License-Identifier: MIT */
/* The figure of axisnorm compare. */
#ifndef AXISNORM_COMPARE_PLOT_H
#define AXISNORM_COMPARE_PLOT_H

#include "compare.h"
#include "plot.h"

enum outcome compare_plot(struct plot *plot, const struct compare_row *rows, int count);

#endif
