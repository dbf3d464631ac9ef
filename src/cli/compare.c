/* SPDX-License-Identifier: MIT */
/* axisnorm compare: what each normalization does as the batch shrinks. */
#define _POSIX_C_SOURCE 200809L
#include "activations.h"
#include "commands.h"
#include "compare.h"
#include "compare_plot.h"
#include "npy.h"
#include "progress.h"
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define COLUMN(field) offsetof(struct compare_row, field)

static const struct report_column columns[] = {
    {"norm", "norm", REPORT_TEXT, 0, COLUMN(norm)},
    {"groups", "groups", REPORT_INTEGER, 0, COLUMN(groups)},
    {"activation", NULL, REPORT_TEXT, 0, COLUMN(activation)},
    {"batch", "batch", REPORT_INTEGER, 0, COLUMN(batch)},
    {"ghost_batch", "ghost|batch", REPORT_INTEGER, 0, COLUMN(ghost_batch)},
    {"values_per_statistic", "values per|statistic", REPORT_INTEGER, 0,
     COLUMN(values_per_statistic)},
    {"statistics", NULL, REPORT_INTEGER, 0, COLUMN(statistics)},
    {"mean_noise", "noise of|mean", REPORT_NUMBER, REPORT_PERCENT, COLUMN(mean_noise)},
    {"variance_noise", "noise of|variance", REPORT_NUMBER, REPORT_PERCENT, COLUMN(variance_noise)},
    {"output_deviation", "deviation|of output", REPORT_NUMBER, REPORT_PERCENT,
     COLUMN(output_deviation)},
    {"gradient_deviation", "deviation|of gradient", REPORT_NUMBER, REPORT_PERCENT,
     COLUMN(gradient_deviation)},
    {"forward_seconds", "forward|us", REPORT_NUMBER, REPORT_MICROSECONDS, COLUMN(forward_seconds)},
    {"inference_seconds", "inference|us", REPORT_NUMBER, REPORT_MICROSECONDS,
     COLUMN(inference_seconds)},
    {"backward_seconds", "backward|us", REPORT_NUMBER, REPORT_MICROSECONDS,
     COLUMN(backward_seconds)},
    {"copy_seconds", "copy|us", REPORT_NUMBER, REPORT_MICROSECONDS, COLUMN(copy_seconds)}};

/* Normal data in which channels differ in mean and scale, as real ones do. */
static void fill_random(struct compare_input *input, const struct options *options) {
  struct random random = random_start((uint64_t)options->seed);
  int64_t samples = input->shape.extents[0], channels = input->shape.extents[1];
  int64_t inner = input->sample / channels;
  bool last = options->layout == AXN_CHANNELS_LAST;
  float *x = input->x.data; /* as open_input creates it */
  for (int64_t c = 0; c < channels; c++) {
    double mean = random_normal(&random), deviation = exp(random_normal(&random) / 2);
    for (int64_t n = 0; n < samples; n++) {
      progress_within(c * samples + n, channels * samples);
      for (int64_t i = 0; i < inner; i++) {
        int64_t within = last ? i * channels + c : c * inner + i;
        x[n * input->sample + within] = (float)(mean + deviation * random_normal(&random));
      }
    }
  }
}

/* The recorded samples are N,C,H,W and float32; asked for channels last, they are put in that order. */
static enum outcome put_channels_last(struct compare_input *input) {
  struct tensor last;
  enum outcome outcome = tensor_create(&last, &input->x.shape, AXN_FLOAT32);
  if (outcome != DONE) return outcome;
  const float *from = input->x.data;
  float *to = last.data;
  int64_t channels = input->shape.extents[1], inner = input->sample / channels;
  for (int64_t n = 0; n < input->shape.extents[0]; n++)
    for (int64_t c = 0; c < channels; c++)
      for (int64_t i = 0; i < inner; i++)
        to[n * input->sample + i * channels + c] = from[n * input->sample + c * inner + i];
  tensor_release(&input->x);
  input->x = last;
  return DONE;
}

/* The activations as they stand in memory, or room for random ones; float32 but for files. */
static enum outcome open_input(struct compare_input *input, const struct options *options) {
  input->source = input->shape_source = options->input;
  if (options->input != NULL)
    return npy_read_file(options->input, npy_due_input(options->dtype), &input->x);
  if (options->shape.rank != 0) {
    input->source = "random";
    input->shape_source = "--shape";
    return tensor_create(&input->x, &options->shape, AXN_FLOAT32);
  }
  input->source = input->shape_source = "recorded";
  return npy_read_memory("recorded activations", axisnorm_activations,
                         (size_t)(axisnorm_activations_end - axisnorm_activations),
                         npy_due_input(AXN_FLOAT32), &input->x);
}

static enum outcome read_input(struct compare_input *input, const struct options *options) {
  enum outcome outcome = open_input(input, options);
  if (outcome != DONE) return outcome;
  outcome = prepare_check_rank(input->source, input->x.shape.rank);
  if (outcome != DONE) return outcome;
  input->shape = input->x.shape;
  if (options->input != NULL) /* the others are N,C,H,W by definition */
    prepare_shape_from_file(&input->x.shape, options->layout, &input->shape);
  if (input->x.count == 0) {
    char shape[SHAPE_TEXT_LIMIT];
    value_shape_text(&input->x.shape, shape);
    return message_failed(input->source, "shape [%s]: nothing to draw batches from", shape);
  }
  input->sample = input->x.count / input->shape.extents[0];
  if (options->shape.rank != 0)
    fill_random(input, options);
  else if (options->input == NULL && options->layout == AXN_CHANNELS_LAST)
    outcome = put_channels_last(input);
  if (outcome == DONE && options->dtype != 0) outcome = tensor_convert(&input->x, options->dtype);
  progress_step();
  return outcome;
}

static enum outcome create_gradient(struct compare_input *input, const struct options *options) {
  enum outcome outcome = tensor_create(&input->grad_y, &input->x.shape, input->x.dtype);
  if (outcome != DONE) return outcome;
  struct random random = random_start((uint64_t)options->seed ^ 0x6772616469656e74);
  random_fill_normal(&random, &input->grad_y);
  progress_step();
  return DONE;
}

/* The default list ends at the size of the input; a list that was asked for must fit. */
static enum outcome choose_batches(struct options *options, const struct compare_input *input) {
  int64_t samples = input->shape.extents[0];
  if (options->batches.count == 0)
    for (int64_t size = 1; size <= 32 && size <= samples; size *= 2)
      options->batches.values[options->batches.count++] = size;
  for (int i = 0; i < options->batches.count; i++)
    if (options->batches.values[i] > samples)
      return message_misused("--batch",
                             "%" PRId64 " is more than the %" PRId64 " sample%s of the input",
                             options->batches.values[i], samples, samples == 1 ? "" : "s");
  return DONE;
}

/* Of all steps: the input has two, every norm one and its rows two each. */
static int steps_of(const struct options *options) {
  return 2 + options->norms.count * (1 + 2 * options->batches.count);
}

static enum outcome measure_all(const struct options *options, const struct compare_input *input,
                                struct compare_row *rows) {
  int row = 0;
  enum outcome outcome = DONE;
  for (int n = 0; n < options->norms.count && outcome == DONE; n++) {
    struct population population;
    axn_norm norm = options->norms.values[n];
    outcome = population_create(&population, options, input, norm);
    progress_step();
    for (int b = 0; b < options->batches.count && outcome == DONE; b++)
      outcome = compare_measure(&rows[row++], &population, options, input, norm,
                                options->batches.values[b]);
    population_release(&population);
  }
  progress_end();
  return outcome;
}

/* What the table shows, in words for someone who has read nothing else. */
static void print_heading(const struct report *report, const struct options *options) {
  char shape[SHAPE_TEXT_LIMIT];
  value_shape_text(&report->source_shape, shape);
  for (const char *c = report->source; *c != '\0'; c++) putchar(message_character(*c));
  printf(" activations [%s], %s, %d thread%s, %s", shape, axn_dtype_name(report->source_dtype),
         report->threads, report->threads == 1 ? "" : "s", report->isa);
  if (options->activation != AXN_ACTIVATION_NONE)
    printf(", with %s", axn_activation_name(options->activation));
  fputs("\n\n", stdout);
}

static const char legend[] =
    "noise      how far the statistics of a batch lie from those of all samples: of the mean in\n"
    "           standard deviations, of the variance relative to it, as root mean squares;\n"
    "           0: the other samples in the batch have no influence\n"
    "deviation  how far training, with statistics of the batch, departs from inference, with\n"
    "           those of all samples: root mean square, relative to inference\n"
    "us         microseconds for the batch; copy: the fastest plain copy of it\n";
static const char missing[] =
    "-          not defined: one value per statistic, a constant channel, a NaN or an infinity\n";

/* Drawn without replacement, a batch of a quarter shows an eighth too little. */
static void print_few_samples(const struct options *options, int64_t samples) {
  int64_t largest = options->batches.values[options->batches.count - 1];
  if (samples / largest >= 4) return;
  printf("samples    %" PRId64
         " in all are the population: batches that are a large part of it show too\n"
         "           little noise\n",
         samples);
}

static enum outcome report_rows(const struct options *options, const struct compare_input *input,
                                const struct compare_row *rows, int count) {
  axn_plan_info machine;
  enum outcome outcome = prepare_machine(options->threads, options->isa, &machine);
  if (outcome != DONE) return outcome;
  struct report report = {.columns = columns,
                          .column_count = sizeof columns / sizeof columns[0],
                          .rows = rows,
                          .row_size = sizeof *rows,
                          .row_count = (size_t)count,
                          .threads = machine.threads,
                          .isa = axn_isa_name(machine.isa),
                          .source = input->source,
                          .source_shape = input->shape,
                          .source_dtype = input->x.dtype,
                          .grouped = true,
                          .legend = legend,
                          .missing = missing};
  bool table = options->format == FORMAT_DEFAULT || options->format == FORMAT_TABLE;
  if (table) print_heading(&report, options);
  outcome = report_write(&report, options->format);
  if (table) print_few_samples(options, input->shape.extents[0]);
  return outcome;
}

static enum outcome compare_rows(struct options *options, struct compare_input *input,
                                 struct plot *plot) {
  int count = options->norms.count * options->batches.count;
  struct compare_row *rows = calloc((size_t)count, sizeof *rows);
  if (rows == NULL) return message_no_memory();
  enum outcome outcome = measure_all(options, input, rows);
  if (outcome == DONE) outcome = report_rows(options, input, rows, count);
  if (outcome == DONE && options->plot != NULL) outcome = compare_plot(plot, rows, count);
  free(rows);
  return outcome;
}

static enum outcome run_compare(struct options *options) {
  if (options->input != NULL && options->shape.rank != 0)
    return message_misused("--shape",
                           "give one of --shape, --input: an input has a shape of its own");
  if (options->norms.count == 0) value_usual_norms(&options->norms);
  enum outcome outcome = prepare_check_options(options);
  if (outcome != DONE) return outcome;
  struct compare_input input = {.source = NULL};
  struct plot plot = {.output = NULL};
  int width, height;
  compare_plot_size(options->norms.count, &width, &height);
  if (options->plot != NULL) outcome = plot_start(&plot, options->plot, width, height);
  progress_start("compare", 2);
  if (outcome == DONE) outcome = read_input(&input, options);
  if (outcome == DONE) outcome = choose_batches(options, &input);
  progress_expect(steps_of(options));
  if (outcome == DONE) outcome = create_gradient(&input, options);
  if (outcome == DONE) outcome = compare_rows(options, &input, &plot);
  tensor_release(&input.x);
  tensor_release(&input.grad_y);
  plot_release(&plot);
  return outcome;
}

#define TARGET(field) offsetof(struct options, field)

static const struct option_row own[] = {
    {"input", "X.npy", "activations (default: recorded ones, which ship with the\ncommand)",
     option_path, TARGET(input)},
    {"shape", "N,C,H,W", "random activations of that shape instead", option_shape, TARGET(shape)},
    {"batch", "LIST",
     "batch sizes, in any order, each once (default 1,2,4,8,16,32,\nas far as samples last)",
     option_batches, TARGET(batches)},
    {"plot", "FILE", "draws a figure too, .svg or .png; needs gnuplot", option_plot, TARGET(plot)},
    {"seed", "S", "of the batches drawn and of the random data (default 1)", option_seed,
     TARGET(seed)},
    {NULL, NULL, NULL, NULL, 0}};

static const struct option_row *const tables[] = {options_norms, own, options_common, NULL};

const struct command command_compare = {
    "compare",
    "what each normalization does as the batch shrinks, and what it costs",
    "Draws batches of each size from the activations and normalizes them with each norm:\n"
    "how noisy their statistics are, how far training departs from inference, how long it\n"
    "takes. Without options: batch, layer, instance and group normalization on the recorded\n"
    "activations. The ghost batch is cut to the largest divisor of a batch size.",
    "  axisnorm compare --batch 1,4,16 --norms batch,group --plot compare.svg",
    tables,
    run_compare};
