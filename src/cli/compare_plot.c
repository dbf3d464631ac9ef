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

/* Norms whose names stand side by side, and whose key leaves room for the lines. */
enum { FEW = 4 };

void compare_plot_size(int norms, int *width, int *height) {
  *width = norms > FEW ? 1280 : 960;
  *height = norms > FEW ? 520 : 400;
}

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

/* The largest of the values that there are; -1 where there are none. */
static double largest(const struct series *series, size_t offset) {
  double result = -1;
  for (int i = 0; i < series->count; i++) {
    double value = value_at(&series->rows[i], offset);
    if (isfinite(value) && value > result) result = value;
  }
  return result;
}

/* All there, and nothing else. */
static bool is_zero(const struct series *series, size_t offset) {
  for (int i = 0; i < series->count; i++)
    if (value_at(&series->rows[i], offset) != 0) return false;
  return true;
}

static void write_number(FILE *script, double value) {
  if (isfinite(value))
    fprintf(script, " %.9g", value);
  else
    fputs(" ?", script);
}

static void write_data(FILE *script, const char *name, const struct series *series, size_t first,
                       size_t second) {
  fprintf(script, "$%s << EOD\n", name);
  for (int i = 0; i < series->count; i++) {
    const struct compare_row *row = &series->rows[i];
    fprintf(script, "%" PRId64, row->batch);
    write_number(script, value_at(row, first) * 100);
    write_number(script, value_at(row, second) * 100);
    fputc('\n', script);
  }
  fputs("EOD\n", script);
}

/* Batch sizes from the least to the most, on a logarithmic axis that goes a bit beyond both. */
struct sizes {
  double least, most;
};

static double place_of(const struct sizes *sizes, int64_t batch) {
  const double beyond = 1.4;
  double range = sizes->most / sizes->least * beyond * beyond;
  return log((double)batch / sizes->least * beyond) / log(range);
}

/* Whether a line, or a point, lies where the key stands, on the right and above: then there must be
 * room for it. */
static bool reaches_key(const struct series *series, size_t offset, const struct sizes *sizes,
                        double most) {
  const double edge = 0.3; /* of the key, at the left */
  double before = NAN, place_before = 0;
  for (int i = 0; i < series->count; i++) {
    double value = value_at(&series->rows[i], offset);
    double place = place_of(sizes, series->rows[i].batch);
    double slope = (value - before) / (place - place_before);
    bool crosses = place_before < edge && place > edge;
    if (crosses && before + slope * (edge - place_before) > 0.7 * most) return true;
    if ((place > 0.2 && value > 0.8 * most) || (place > edge && value > 0.55 * most)) return true;
    before = value, place_before = place;
  }
  return false;
}

/* gnuplot finds no range where nothing is above 0. */
static void write_range(FILE *script, double most) {
  fprintf(script, "set yrange [0:%s]\n", most > 0 ? "*" : "1");
}

struct panel {
  const char *name, *title;
  size_t first, second;
  const char *first_name, *second_name;
};

static void write_empty(FILE *script, const struct series *series, int index) {
  fprintf(script, "NaN with linespoints lw 2.5 pt 7 ps 0.7 lc rgb '%s' title '%s: –'",
          colours[index % COLOURS], series->rows[0].norm);
}

/* A line, or its place in the key alone where no value is there: gnuplot takes offence at none. */
static void write_line(FILE *script, const struct panel *panel, const struct series *series,
                       int index, bool second) {
  const char *colour = colours[index % COLOURS], *norm = series->rows[0].norm;
  const char *name = second ? panel->second_name : panel->first_name;
  bool empty = largest(series, second ? panel->second : panel->first) < 0;
  if (empty)
    fputs("NaN", script);
  else
    fprintf(script, "$%s%d using 1:%d", panel->name, index, second ? 3 : 2);
  fprintf(script, " with linespoints lw 2.5%s ps 0.7 lc rgb '%s' title '%s: %s%s'",
          second ? " dt (6,4) pt 6" : " pt 7", colour, norm, name, empty ? " –" : "");
}

/* Norms that are exactly 0 would lie under each other: their marks stand side by side on the axis
 * instead. */
static void write_zeros(FILE *script, const struct panel *panel, const struct series *series,
                        int index, double shift) {
  fprintf(script, "$%s%d using ($1*%.4f):2 with points pt %d ps 0.75 lc rgb '%s' title '%s: 0'",
          panel->name, index, exp2(shift), 5 + 2 * (index % 4), colours[index % COLOURS],
          series->rows[0].norm);
}

static bool is_zero_in(const struct panel *panel, const struct series *series) {
  return is_zero(series, panel->first) && is_zero(series, panel->second);
}

static void write_noise_panel(FILE *script, const struct panel *panel, const struct series *series,
                              int count, const struct sizes *sizes) {
  char name[32];
  int zero_count = 0, placed = 0;
  double most = 0;
  for (int i = 0; i < count; i++) {
    snprintf(name, sizeof name, "%s%d", panel->name, i);
    write_data(script, name, &series[i], panel->first, panel->second);
    zero_count += is_zero_in(panel, &series[i]);
    most = fmax(most, fmax(largest(&series[i], panel->first), largest(&series[i], panel->second)));
  }
  bool reaches = false;
  for (int i = 0; i < count; i++)
    reaches = reaches || reaches_key(&series[i], panel->first, sizes, most) ||
              reaches_key(&series[i], panel->second, sizes, most);
  write_range(script, most);
  fprintf(script, "set offsets 0,0,graph %s,graph 0.05\n", reaches ? "0.5" : "0.02");
  fprintf(script, "set title '%s'\nplot ", panel->title);
  for (int i = 0; i < count; i++) {
    if (i > 0) fputs(", \\\n", script);
    if (is_zero_in(panel, &series[i])) {
      write_zeros(script, panel, &series[i], i,
                  fmin(0.22, 0.8 / zero_count) * (placed++ - (zero_count - 1) / 2.0));
      continue;
    }
    if (largest(&series[i], panel->first) < 0 && largest(&series[i], panel->second) < 0) {
      write_empty(script, &series[i], i);
      continue;
    }
    write_line(script, panel, &series[i], i, false);
    fputs(", ", script);
    write_line(script, panel, &series[i], i, true);
  }
  fputc('\n', script);
}

struct pass_bars {
  const char *name, *shade;
  size_t ratio;
  bool drawn; /* by at least one norm */
};

/* Bars for the largest batch: there the work counts, and not the start of a call. */
static void write_time_data(FILE *script, const struct series *series, int count,
                            struct pass_bars bars[3]) {
  int64_t largest_batch = 0;
  fputs("$times << EOD\n", script);
  for (int i = 0; i < count; i++) {
    const struct compare_row *row = &series[i].rows[series[i].count - 1];
    if (row->batch > largest_batch) largest_batch = row->batch;
    fprintf(script, "%d", i);
    for (int k = 0; k < 3; k++) {
      double ratio = value_at(row, bars[k].ratio);
      write_number(script, ratio);
      bars[k].drawn = bars[k].drawn || isfinite(ratio);
    }
    fputc('\n', script);
  }
  fprintf(script, "EOD\nset title 'Time for a batch of %" PRId64 ", in copies'\n", largest_batch);
}

static void write_time_panel(FILE *script, const struct series *series, int count) {
  struct pass_bars bars[] = {
      {"forward", "#333333", offsetof(struct compare_row, forward_ratio), false},
      {"inference", "#888888", offsetof(struct compare_row, inference_ratio), false},
      {"backward", "#CFCFCF", offsetof(struct compare_row, backward_ratio), false}};
  write_time_data(script, series, count, bars);
  fputs("unset logscale x\nunset xlabel\nset format y '%g'\nset yrange [0:*]\n"
        "set offsets 0,0,graph 0.38,0\nset style fill solid border rgb '#333333'\n"
        "set boxwidth 0.24\nset xtics (",
        script);
  for (int i = 0; i < count; i++)
    fprintf(script, "%s'%s' %d", i > 0 ? ", " : "", series[i].rows[0].norm, i);
  fprintf(script, ")%s\nset xrange [-0.6:%.1f]\nplot ", count > FEW ? " rotate by 30 right" : "",
          count - 0.4);
  for (int k = 0; k < 3; k++) {
    if (bars[k].drawn)
      fprintf(script, "$times using ($1+%.2f):%d", 0.26 * (k - 1), k + 2);
    else
      fputs("NaN", script);
    fprintf(script, " with boxes lc rgb '%s' title '%s%s', \\\n", bars[k].shade, bars[k].name,
            bars[k].drawn ? "" : ": –");
  }
  fputs("1 with lines lw 2 dt (3,3) lc rgb '#D55E00' title 'one copy'\n", script);
}

static struct sizes sizes_of(const struct series *series, int count) {
  int64_t least = series[0].rows[0].batch, most = least;
  for (int s = 0; s < count; s++)
    for (int i = 0; i < series[s].count; i++) {
      if (series[s].rows[i].batch < least) least = series[s].rows[i].batch;
      if (series[s].rows[i].batch > most) most = series[s].rows[i].batch;
    }
  return (struct sizes){(double)least, (double)most};
}

static void write_frame(FILE *script, const struct series *series, const struct sizes *sizes) {
  const double room = 0.06; /* of a batch size in figures */
  fputs("set encoding utf8\nset datafile missing '?'\nset multiplot layout 1,3 "
        "margins 0.055,0.99,0.14,0.9 spacing 0.055\n"
        "set border 3 lc rgb '#555555'\nset tics nomirror\nset grid y lc rgb '#E4E4E4' lt 1\n"
        "set key top right reverse Left samplen 2.5\nset xlabel 'batch size'\n"
        "set format y '%g%%'\nset logscale x 2\nset xtics (",
        script);
  double written = -1;
  for (int i = 0; i < series[0].count; i++) {
    int64_t batch = series[0].rows[i].batch;
    double place = place_of(sizes, batch);
    fputs(i > 0 ? ", '" : "'", script);
    if (place - written >= room) {
      fprintf(script, "%" PRId64, batch);
      written = place;
    }
    fprintf(script, "' %" PRId64, batch);
  }
  fprintf(script, ")\nset xrange [%.6g:%.6g]\n", sizes->least / 1.4, sizes->most * 1.4);
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
  struct sizes sizes = sizes_of(series, found);
  write_frame(plot->script, series, &sizes);
  for (int i = 0; i < 2; i++) write_noise_panel(plot->script, &panels[i], series, found, &sizes);
  write_time_panel(plot->script, series, found);
  fputs("unset multiplot\n", plot->script);
  return plot_finish(plot);
}
