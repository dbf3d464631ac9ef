/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "compare_plot.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Okabe & Ito's colours: told apart also by the colour-blind. */
static const char *const colours[] = {"#D55E00", "#0072B2", "#009E73", "#CC79A7",
                                      "#E69F00", "#56B4E9", "#000000"};
enum { COLOURS = sizeof colours / sizeof colours[0] };

/* The rows as the runs of one norm each. */
struct series {
  const struct compare_row *rows;
  int count;
};

static int split_series(const struct compare_row *rows, int count,
                        struct series series[LIST_LIMIT]) {
  int found = 0;
  for (int i = 0; i < count; i++) {
    if (i > 0 && rows[i].batch > rows[i - 1].batch && rows[i].norm == rows[i - 1].norm)
      series[found - 1].count++;
    else if (found < LIST_LIMIT)
      series[found++] = (struct series){&rows[i], 1};
  }
  return found;
}

static double value_at(const struct compare_row *row, size_t offset) {
  double value;
  memcpy(&value, (const char *)row + offset, sizeof value);
  return value;
}

static bool is_zero(const struct series *series, size_t offset) {
  for (int i = 0; i < series->count; i++)
    if (value_at(&series->rows[i], offset) != 0) return false;
  return true;
}

static void write_data(FILE *script, const char *name, const struct series *series, size_t first,
                       size_t second) {
  fprintf(script, "$%s << EOD\n", name);
  for (int i = 0; i < series->count; i++) {
    const struct compare_row *row = &series->rows[i];
    double values[] = {value_at(row, first), value_at(row, second)};
    fprintf(script, "%" PRId64, row->batch);
    for (int k = 0; k < 2; k++)
      if (isfinite(values[k]))
        fprintf(script, " %.9g", values[k] * 100);
      else
        fputs(" ?", script);
    fputc('\n', script);
  }
  fputs("EOD\n", script);
}

struct panel {
  const char *name, *title;
  size_t first, second;
  const char *first_name, *second_name;
};

/* Norms that are exactly 0 would lie under each other: their marks stand side by side on the axis
 * instead. */
static void write_noise_panel(FILE *script, const struct panel *panel, const struct series *series,
                              int count) {
  char name[32];
  int zero_count = 0, placed = 0;
  for (int i = 0; i < count; i++) {
    snprintf(name, sizeof name, "%s%d", panel->name, i);
    write_data(script, name, &series[i], panel->first, panel->second);
    zero_count += is_zero(&series[i], panel->first) && is_zero(&series[i], panel->second);
  }
  fprintf(script, "set title '%s'\nplot ", panel->title);
  for (int i = 0; i < count; i++) {
    const char *norm = series[i].rows[0].norm, *colour = colours[i % COLOURS];
    const char *separator = i > 0 ? ", \\\n" : "";
    if (is_zero(&series[i], panel->first) && is_zero(&series[i], panel->second)) {
      double shift = exp2(0.22 * (placed++ - (zero_count - 1) / 2.0));
      fprintf(script,
              "%s$%s%d using ($1*%.4f):2 with points pt %d ps 0.75 lc rgb '%s' title '%s: 0'",
              separator, panel->name, i, shift, 5 + 2 * (i % 4), colour, norm);
      continue;
    }
    fprintf(script,
            "%s$%s%d using 1:2 with linespoints lw 2.5 pt 7 ps 0.7 lc rgb '%s' title '%s: %s', "
            "$%s%d using 1:3 with linespoints lw 2.5 dt (6,4) pt 6 ps 0.7 lc rgb '%s' title "
            "'%s: %s'",
            separator, panel->name, i, colour, norm, panel->first_name, panel->name, i, colour,
            norm, panel->second_name);
  }
  fputc('\n', script);
}

/* Bars for the largest batch: there the work counts, and not the start of a call. */
static void write_time_panel(FILE *script, const struct series *series, int count) {
  static const char *const shades[] = {"#333333", "#888888", "#CFCFCF"};
  static const char *const passes[] = {"forward", "inference", "backward"};
  int64_t largest = 0;
  fputs("$times << EOD\n", script);
  for (int i = 0; i < count; i++) {
    const struct compare_row *row = &series[i].rows[series[i].count - 1];
    const double ratios[] = {row->forward_ratio, row->inference_ratio, row->backward_ratio};
    if (row->batch > largest) largest = row->batch;
    fprintf(script, "%d", i);
    for (int k = 0; k < 3; k++)
      if (isfinite(ratios[k]))
        fprintf(script, " %.6g", ratios[k]);
      else
        fputs(" ?", script);
    fputc('\n', script);
  }
  fprintf(script, "EOD\nset title 'Time for a batch of %" PRId64 ", in copies'\n", largest);
  fputs("unset logscale x\nunset xlabel\nset format y '%g'\nset yrange [0:*]\n"
        "set offsets 0,0,graph 0.38,0\nset style fill solid border rgb '#333333'\n"
        "set boxwidth 0.24\nset xtics (",
        script);
  for (int i = 0; i < count; i++)
    fprintf(script, "%s'%s' %d", i > 0 ? ", " : "", series[i].rows[0].norm, i);
  fprintf(script, ")\nset xrange [-0.6:%.1f]\nplot ", count - 0.4);
  for (int k = 0; k < 3; k++)
    fprintf(script, "$times using ($1+%.2f):%d with boxes lc rgb '%s' title '%s', \\\n",
            0.26 * (k - 1), k + 2, shades[k], passes[k]);
  fputs("1 with lines lw 2 dt (3,3) lc rgb '#D55E00' title 'one copy'\n", script);
}

static void write_frame(FILE *script, const struct series *series, int count) {
  int64_t least = series[0].rows[0].batch, most = least;
  fputs("set encoding utf8\nset datafile missing '?'\nset multiplot layout 1,3 "
        "margins 0.055,0.99,0.14,0.9 spacing 0.055\n"
        "set border 3 lc rgb '#555555'\nset tics nomirror\nset grid y lc rgb '#E4E4E4' lt 1\n"
        "set key top right reverse Left samplen 2.5\nset xlabel 'batch size'\n"
        "set format y '%g%%'\nset yrange [0:*]\nset offsets 0,0,graph 0.02,graph 0.05\n"
        "set logscale x 2\nset xtics (",
        script);
  const char *separator = "";
  for (int i = 0; i < series[0].count; i++) {
    int64_t batch = series[0].rows[i].batch;
    fprintf(script, "%s'%" PRId64 "' %" PRId64, separator, batch, batch);
    separator = ", ";
  }
  for (int s = 0; s < count; s++)
    for (int i = 0; i < series[s].count; i++) {
      if (series[s].rows[i].batch < least) least = series[s].rows[i].batch;
      if (series[s].rows[i].batch > most) most = series[s].rows[i].batch;
    }
  fprintf(script, ")\nset xrange [%.6g:%.6g]\n", (double)least / 1.4, (double)most * 1.4);
}

enum outcome compare_plot(struct plot *plot, const struct compare_row *rows, int count) {
#define COLUMN(field) offsetof(struct compare_row, field)
  static const struct panel panels[] = {
      {"noise", "Noise in the statistics of one batch", COLUMN(mean_noise), COLUMN(variance_noise),
       "mean", "variance"},
      {"deviation", "Departure of training from inference", COLUMN(output_deviation),
       COLUMN(gradient_deviation), "output", "gradient"}};
#undef COLUMN
  struct series series[LIST_LIMIT] = {{NULL, 0}};
  int found = split_series(rows, count, series);
  write_frame(plot->script, series, found);
  for (int i = 0; i < 2; i++) write_noise_panel(plot->script, &panels[i], series, found);
  write_time_panel(plot->script, series, found);
  fputs("unset multiplot\n", plot->script);
  return plot_finish(plot);
}
