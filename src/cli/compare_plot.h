/* SPDX-License-Identifier: MIT */
/* The figure of axisnorm compare. */
#ifndef AXISNORM_COMPARE_PLOT_H
#define AXISNORM_COMPARE_PLOT_H

#include "compare.h"
#include "plot.h"

/* The size of the figure, in pixels. */
void compare_plot_size(int norms, int *width, int *height);

enum outcome compare_plot(struct plot *plot, const struct compare_row *rows, int count);

#endif
