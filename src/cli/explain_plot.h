/* SPDX-License-Identifier: MIT */
/* The figure of axisnorm explain. */
#ifndef AXISNORM_EXPLAIN_PLOT_H
#define AXISNORM_EXPLAIN_PLOT_H

#include "explain_block.h"
#include "plot.h"

/* The size of the figure, in pixels. */
void explain_plot_size(int norms, int *width, int *height);

enum outcome explain_plot(struct plot *plot, const struct prepared *prepared, int norms);

#endif
