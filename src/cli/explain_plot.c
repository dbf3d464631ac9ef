/* SPDX-License-Identifier: MIT */
/* The block of N x C x spatial cells in isometric projection, as in Wu & He 2018, figure 2: the
 * cells that share the first statistic are coloured. */
#define _POSIX_C_SOURCE 200809L
#include "explain_plot.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* The visible faces: the first sample (left), the first channel (right), the top. */
enum face { FACE_SAMPLE, FACE_CHANNEL, FACE_TOP, FACES };
static const char *const coloured[FACES] = {"#2F86C1", "#0B6AA8", "#6DB3E0"};
static const char *const plain[FACES] = {"#E9E9E9", "#DADADA", "#F6F6F6"};

/* A block on the figure: where its lower front corner stands, and how high a spatial cell is. */
struct placed {
  FILE *script;
  const struct block *block;
  double x, y, cell_height;
};

struct point {
  double x, y;
};

/* From the front corner: `back_left` cells along C, `back_right` along N, `up` spatial cells. */
static struct point project(const struct placed *p, double back_left, double back_right,
                            double up) {
  const double cosine = sqrt(0.75);
  return (struct point){p->x + cosine * (back_right - back_left),
                        p->y + 0.5 * (back_right + back_left) + up * p->cell_height};
}

static void draw_quadrilateral(const struct placed *p, enum face face, bool shares,
                               const struct point corners[4]) {
  fputs("set object polygon from ", p->script);
  for (int i = 0; i <= 4; i++)
    fprintf(p->script, "%s%.4f,%.4f", i > 0 ? " to " : "", corners[i % 4].x, corners[i % 4].y);
  fprintf(p->script, " fillstyle solid 1 border lc rgb '#6E6E6E' fillcolor rgb '%s' lw 0.7\n",
          shares ? coloured[face] : plain[face]);
}

/* Cell 0 of every axis is at the front: at the front corner, and on top. */
static void draw_faces(const struct placed *p) {
  const struct block *b = p->block;
  int samples = b->cells[0], channels = b->cells[1], spatial = block_spatial_cells(b);
  for (int c = 0; c < channels; c++)
    for (int s = 0; s < spatial; s++) {
      double up = spatial - s;
      struct point corners[4] = {project(p, c, 0, up), project(p, c + 1, 0, up),
                                 project(p, c + 1, 0, up - 1), project(p, c, 0, up - 1)};
      draw_quadrilateral(p, FACE_SAMPLE, block_shares(b, 0, c, s), corners);
    }
  for (int n = 0; n < samples; n++)
    for (int s = 0; s < spatial; s++) {
      double up = spatial - s;
      struct point corners[4] = {project(p, 0, n, up), project(p, 0, n + 1, up),
                                 project(p, 0, n + 1, up - 1), project(p, 0, n, up - 1)};
      draw_quadrilateral(p, FACE_CHANNEL, block_shares(b, n, 0, s), corners);
    }
  for (int n = 0; n < samples; n++)
    for (int c = 0; c < channels; c++) {
      struct point corners[4] = {project(p, c, n, spatial), project(p, c + 1, n, spatial),
                                 project(p, c + 1, n + 1, spatial), project(p, c, n + 1, spatial)};
      draw_quadrilateral(p, FACE_TOP, block_shares(b, n, c, 0), corners);
    }
}

static void draw_label(const struct placed *p, struct point at, double down, const char *place,
                       const char *text) {
  fprintf(p->script, "set label '%s' at %.4f,%.4f %s\n", text, at.x, at.y - down, place);
}

/* "H,W = 56,56" beside the upright edge; "N = 32", "C = 64" under the others. */
static void draw_axis_labels(const struct placed *p, const struct prepared *prepared) {
  const struct block *b = p->block;
  int rank = prepared->desc.rank, spatial = block_spatial_cells(b);
  char text[96];
  snprintf(text, sizeof text, "C = %" PRId64, prepared->desc.shape[1]);
  draw_label(p, project(p, b->cells[1] / 2.0, 0, 0), 0.7, "right", text);
  snprintf(text, sizeof text, "N = %" PRId64, prepared->desc.shape[0]);
  draw_label(p, project(p, 0, b->cells[0] / 2.0, 0), 0.7, "left offset 0.5,0", text);
  if (rank == 2) return;
  int length = 0;
  for (int axis = 2; axis < rank; axis++)
    length += snprintf(text + length, sizeof text - (size_t)length, "%s%s", axis > 2 ? "," : "",
                       axis_name(rank, axis));
  for (int axis = 2; axis < rank; axis++)
    length += snprintf(text + length, sizeof text - (size_t)length, "%s%" PRId64,
                       axis > 2 ? "," : " = ", prepared->desc.shape[axis]);
  struct point at = project(p, b->cells[1], 0, spatial / 2.0);
  at.x -= 0.55;
  draw_label(p, at, 0, "center rotate by 90", text);
}

/* Its name, and in one line how many statistics of how many values. */
static void draw_titles(const struct placed *p, const struct prepared *prepared, double x,
                        double top) {
  const axn_plan_info *info = &prepared->info;
  const char *name = axn_norm_name(prepared->desc.norm);
  char text[160], split[64] = "";
  if (info->split_axis == 0)
    snprintf(split, sizeof split, ", batches of %" PRId64,
             prepared->desc.shape[0] / info->split_groups);
  else if (info->split_axis > 0)
    snprintf(split, sizeof split, ", %" PRId64 " group%s", info->split_groups,
             info->split_groups == 1 ? "" : "s");
  else if (prepare_first_axis(prepared) != 1)
    snprintf(split, sizeof split, ", from axis %d", prepare_first_axis(prepared));
  snprintf(text, sizeof text, "{/:Bold=16 %c%s}%s", name[0] - 'a' + 'A', name + 1, split);
  draw_label(p, (struct point){x, top + 2.1}, 0, "center", text);
  snprintf(text, sizeof text, "%" PRId64 " statistic%s × %" PRId64 " value%s", info->statistics,
           info->statistics == 1 ? "" : "s", info->values_per_statistic,
           info->values_per_statistic == 1 ? "" : "s");
  draw_label(p, (struct point){x, top + 0.8}, 0, "center", text);
}

enum { PANELS_IN_ROW = 4 };

static int columns_of(int norms) {
  return norms < PANELS_IN_ROW ? norms : PANELS_IN_ROW;
}

static int rows_of(int norms) {
  return (norms + PANELS_IN_ROW - 1) / PANELS_IN_ROW;
}

void explain_plot_size(int norms, int *width, int *height) {
  *width = norms > 1 ? 280 * columns_of(norms) : 520;
  *height = norms > 1 ? 390 * rows_of(norms) : 480;
}

static double cell_height_of(const struct block *block) {
  enum { TALLEST = 6 }; /* in cells of the other axes */
  int cells = block_spatial_cells(block);
  return cells > TALLEST ? (double)TALLEST / cells : 1;
}

/* The extent of the largest block: all panels get the same room. */
static void measure_room(const struct prepared *prepared, int norms, double *width,
                         double *height) {
  *width = *height = 0;
  for (int i = 0; i < norms; i++) {
    struct block b = block_of(&prepared[i]);
    double along = b.cells[0] + b.cells[1];
    double high = 0.5 * along + block_spatial_cells(&b) * cell_height_of(&b);
    if (along * sqrt(0.75) > *width) *width = along * sqrt(0.75);
    if (high > *height) *height = high;
  }
}

/* What the colour means, under all panels. */
static void draw_legend(FILE *script, const struct prepared *prepared, int norms, bool whole,
                        double middle) {
  bool mean_square = false;
  for (int i = 0; i < norms; i++)
    mean_square = mean_square || prepared[i].desc.norm == AXN_RMS_NORM;
  fprintf(script,
          "set label \"Coloured: the values that share one mean and one variance%s.%s%s\" "
          "at %.4f,%.4f center textcolor rgb '#555555'\n",
          mean_square ? " (rms: one mean square)" : "",
          whole        ? ""
          : norms == 1 ? "\\n"
                       : " ",
          whole ? "" : "Only some of the cells are drawn.", middle, -2.2);
}

enum outcome explain_plot(struct plot *plot, const struct prepared *prepared, int norms) {
  enum { SIDE = 3, ABOVE = 3, BELOW = 3 };
  int columns = columns_of(norms), rows = rows_of(norms);
  double width, height;
  bool whole = true;
  measure_room(prepared, norms, &width, &height);
  double pitch = width + SIDE, rise = height + ABOVE + BELOW;
  for (int i = 0; i < norms; i++) {
    struct block block = block_of(&prepared[i]);
    whole = whole && block.whole;
    double left = block.cells[1] * sqrt(0.75), right = block.cells[0] * sqrt(0.75);
    double middle = pitch * (i % columns + 0.5), floor = rise * (rows - 1 - i / columns);
    struct placed placed = {plot->script, &block, middle + (left - right) / 2, floor,
                            cell_height_of(&block)};
    draw_faces(&placed);
    draw_axis_labels(&placed, &prepared[i]);
    draw_titles(&placed, &prepared[i], middle, floor + height);
  }
  draw_legend(plot->script, prepared, norms, whole, pitch * columns / 2);
  fprintf(plot->script,
          "set encoding utf8\nunset border\nunset tics\nunset key\nset margins 0,0,0,0\n"
          "set size ratio -1\nset xrange [0:%.4f]\nset yrange [%d:%.4f]\nplot NaN\n",
          pitch * columns, -BELOW - (norms == 1), rise * rows - BELOW);
  return plot_finish(plot);
}
