/* SPDX-License-Identifier: MIT */
/* axisnorm explain: which elements share a statistic. */
#define _POSIX_C_SOURCE 200809L
#include "commands.h"
#include "explain_plot.h"
#include "report.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct explain_row {
  const char *norm;
  int64_t groups, ghost_batch;
  struct shape shape;
  const char *layout;
  char *reduced_axes; /* = reduced_text */
  int64_t elements, statistics, values_per_statistic, values_per_task;
  int64_t parameters, running_statistics;
  int64_t training_workspace, inference_workspace, backward_workspace;
  char reduced_text[32];
};

#define COLUMN(field) offsetof(struct explain_row, field)

static const struct report_column columns[] = {
    {"norm", "norm", REPORT_TEXT, 0, COLUMN(norm)},
    {"groups", "groups", REPORT_INTEGER, 0, COLUMN(groups)},
    {"ghost_batch", "ghost|batch", REPORT_INTEGER, 0, COLUMN(ghost_batch)},
    {"shape", "shape", REPORT_SHAPE, 0, COLUMN(shape)},
    {"layout", NULL, REPORT_TEXT, 0, COLUMN(layout)},
    {"reduced_axes", "reduced|axes", REPORT_TEXT, 0, COLUMN(reduced_axes)},
    {"statistics", "statistics", REPORT_INTEGER, 0, COLUMN(statistics)},
    {"values_per_statistic", "values per|statistic", REPORT_INTEGER, 0,
     COLUMN(values_per_statistic)},
    {"values_per_task", "values per|thread task", REPORT_INTEGER, 0, COLUMN(values_per_task)},
    {"elements", NULL, REPORT_INTEGER, 0, COLUMN(elements)},
    {"parameters", "scale,|shift", REPORT_INTEGER, 0, COLUMN(parameters)},
    {"running_statistics", "running|statistics", REPORT_INTEGER, 0, COLUMN(running_statistics)},
    {"training_workspace_bytes", "workspace|bytes", REPORT_INTEGER, 0, COLUMN(training_workspace)},
    {"inference_workspace_bytes", NULL, REPORT_INTEGER, 0, COLUMN(inference_workspace)},
    {"backward_workspace_bytes", NULL, REPORT_INTEGER, 0, COLUMN(backward_workspace)}};

static void fill_row(struct explain_row *row, const struct prepared *prepared) {
  const axn_plan_info *info = &prepared->info;
  const axn_desc *desc = &prepared->desc;
  *row = (struct explain_row){.norm = axn_norm_name(desc->norm),
                              .groups = report_if_any(desc->groups),
                              .ghost_batch = report_if_any(desc->ghost_batch),
                              .shape = {.rank = desc->rank},
                              .layout = desc->layout == AXN_CHANNELS_LAST ? "nhwc" : "nchw",
                              .elements = info->elements,
                              .statistics = info->statistics,
                              .values_per_statistic = info->values_per_statistic,
                              .values_per_task = info->values_per_task,
                              .parameters = info->parameters,
                              .running_statistics = info->running_statistics,
                              .training_workspace = (int64_t)info->training_workspace,
                              .inference_workspace = (int64_t)info->inference_workspace,
                              .backward_workspace = (int64_t)info->backward_workspace};
  memcpy(row->shape.extents, desc->shape, sizeof row->shape.extents);
  size_t length = 0;
  for (int axis = 0; axis < desc->rank; axis++)
    if ((info->reduced_axes >> axis & 1) != 0)
      length += (size_t)snprintf(row->reduced_text + length, sizeof row->reduced_text - length,
                                 "%s%s%s", length > 0 ? "," : "", axis_name(desc->rank, axis),
                                 axis == info->split_axis ? "/groups" : "");
  row->reduced_axes = row->reduced_text;
}

/* '#': all of that sample's channel, '+': a part of its spatial cells, '.': none. */
static char cell_mark(const struct block *block, int sample, int channel) {
  int cells = block_spatial_cells(block), shared = 0;
  for (int s = 0; s < cells; s++) shared += block_shares(block, sample, channel, s);
  return shared == 0 ? '.' : shared == cells ? '#' : '+';
}

static void print_picture(const struct prepared *prepared) {
  struct block block = block_of(prepared);
  const axn_plan_info *info = &prepared->info;
  const int64_t *shape = prepared->desc.shape;
  bool partial = false;
  printf("\n%s: %" PRId64 " statistic%s of %" PRId64 " value%s", axn_norm_name(prepared->desc.norm),
         info->statistics, info->statistics == 1 ? "" : "s", info->values_per_statistic,
         info->values_per_statistic == 1 ? "" : "s");
  if (info->split_axis >= 0)
    printf(", %s in %" PRId64 " %s%s", axis_name(block.rank, info->split_axis), info->split_groups,
           info->split_axis == 0 ? "ghost batch" : "group",
           info->split_groups == 1 ? ""
           : info->split_axis == 0 ? "es"
                                   : "s");
  else if (prepare_first_axis(prepared) != 1)
    printf(", from axis %d", prepare_first_axis(prepared));
  printf("\n\n        C\n      ");
  for (int c = 0; c < block.cells[1]; c++) printf(" %d", c);
  putchar('\n');
  for (int n = 0; n < block.cells[0]; n++) {
    printf("  %s %2d", n == 0 ? "N" : " ", n);
    for (int c = 0; c < block.cells[1]; c++) {
      char mark = cell_mark(&block, n, c);
      partial = partial || mark == '+';
      printf(" %c", mark);
    }
    if (n == 0)
      printf("     # shares the first %s",
             prepared->desc.norm == AXN_RMS_NORM ? "mean square" : "mean and variance");
    if (n == 1 && partial) printf("     + a part of the spatial values does");
    putchar('\n');
  }
  if (block.cells[0] != shape[0] || block.cells[1] != shape[1])
    printf("        (%d of %" PRId64 " samples, %d of %" PRId64 " channels)\n", block.cells[0],
           shape[0], block.cells[1], shape[1]);
}

static const char legend[] =
    "reduced axes  those over which a statistic goes; /groups: within one group of them\n"
    "thread task   the smallest piece of work that one thread takes\n"
    "scale, shift  elements of each; running statistics: of the mean, and of the variance\n"
    "workspace     what training forward takes beside the tensors\n";

static enum outcome explain_prepared(const struct options *options, const struct prepared *prepared,
                                     int count, struct plot *plot) {
  struct explain_row rows[LIST_LIMIT];
  for (int i = 0; i < count; i++) fill_row(&rows[i], &prepared[i]);
  struct report report = {.columns = columns,
                          .column_count = sizeof columns / sizeof columns[0],
                          .rows = rows,
                          .row_size = sizeof rows[0],
                          .row_count = (size_t)count,
                          .threads = prepared[0].info.threads,
                          .isa = axn_isa_name(prepared[0].info.isa),
                          .legend = legend};
  enum outcome outcome = report_write(&report, options->format);
  if (options->format == FORMAT_DEFAULT || options->format == FORMAT_TABLE)
    for (int i = 0; i < count; i++) print_picture(&prepared[i]);
  if (outcome == DONE && options->plot != NULL) outcome = explain_plot(plot, prepared, count);
  return outcome;
}

static enum outcome run_explain(struct options *options) {
  if (options->norms.count == 0) value_all_norms(&options->norms);
  enum outcome outcome = prepare_check_options(options);
  if (outcome != DONE) return outcome;
  if (options->shape.rank == 0) options->shape = (struct shape){.rank = 4, .extents = {4, 6, 3, 3}};
  struct plot plot = {.output = NULL};
  int width, height, prepared_count = 0;
  explain_plot_size(options->norms.count, &width, &height);
  if (options->plot != NULL) outcome = plot_start(&plot, options->plot, width, height);
  struct prepared prepared[LIST_LIMIT];
  while (outcome == DONE && prepared_count < options->norms.count) {
    struct wanted wanted = {.norm = options->norms.values[prepared_count],
                            .shape = options->shape,
                            .source = {"--shape", 0}};
    outcome = prepare(&prepared[prepared_count], options, &wanted);
    if (outcome == DONE) prepared_count++;
  }
  if (outcome == DONE) outcome = explain_prepared(options, prepared, prepared_count, &plot);
  for (int i = 0; i < prepared_count; i++) prepare_release(&prepared[i]);
  plot_release(&plot);
  return outcome;
}

#define TARGET(field) offsetof(struct options, field)

static const struct option_row own[] = {
    {"shape", "N,C,H,W", "2 to 5 extents (default 4,6,3,3)", option_shape, TARGET(shape)},
    {"plot", "FILE", "draws the block of cells too, .svg or .png; needs gnuplot", option_plot,
     TARGET(plot)},
    {NULL, NULL, NULL, NULL, 0}};

static const struct option_row *const tables[] = {options_all_norms, own, options_common, NULL};

const struct command command_explain = {
    "explain",
    "which elements share a mean and a variance",
    "Shows the axes that a norm reduces, how many statistics that leaves and of how many\n"
    "values, and a picture of the elements that share the first one. Without --norm: all.",
    "  axisnorm explain --norm group --groups 2 --shape 2,4,3,3 --plot group.svg",
    tables,
    run_explain};
