/* SPDX-License-Identifier: MIT */
/* Figures, drawn by gnuplot. It takes no notice of a full disk, so what it draws comes through a
 * pipe and is written here. */
#ifndef AXISNORM_PLOT_H
#define AXISNORM_PLOT_H

#include "output_file.h"

#include <stdbool.h>

/* .svg or .png */
bool plot_has_known_suffix(const char *path);

struct plot {
  struct output_file *output;
  FILE *script; /* write gnuplot's commands here */
};

/* Opens the output, and makes sure that gnuplot is there before the work that it is to draw.
 * The size is in pixels. */
enum outcome plot_start(struct plot *plot, const char *path, int width, int height);

/* Runs gnuplot on the script; the figure takes its place with the other outputs. */
enum outcome plot_finish(struct plot *plot);

void plot_release(struct plot *plot);

#endif
