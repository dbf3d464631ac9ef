/* SPDX-License-Identifier: MIT */
/* Times of normalization layers through oneDNN and through axisnorm, in one process and turn by
 * turn, as JSON on standard output. README.md beside this file says more. */
#define _POSIX_C_SOURCE 200809L
#include "layers.h"
#include "ours.h"
#include "theirs.h"
#include "turns.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct options {
  const char *shapes;
  axn_layout layout;
  int threads;
  double seconds;
};

static const char usage[] =
    "usage: onednn --shapes FILE.csv [--layout nchw|nhwc] [--threads T] [--seconds PER-ROW]";

static void wrong_call(void) {
  fprintf(stderr, "%s\n", usage);
  exit(2);
}

static axn_layout layout_named(const char *name) {
  if (strcmp(name, "nchw") != 0 && strcmp(name, "nhwc") != 0) wrong_call();
  return strcmp(name, "nhwc") == 0 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
}

static struct options read_options(int count, char **arguments) {
  static const struct option known[] = {{"shapes", required_argument, NULL, 's'},
                                        {"layout", required_argument, NULL, 'l'},
                                        {"threads", required_argument, NULL, 't'},
                                        {"seconds", required_argument, NULL, 'p'},
                                        {NULL, 0, NULL, 0}};
  struct options options = {.layout = AXN_CHANNELS_FIRST, .threads = 2, .seconds = 0.2};
  for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
    if (option == 's')
      options.shapes = optarg;
    else if (option == 'l')
      options.layout = layout_named(optarg);
    else if (option == 't')
      options.threads = atoi(optarg);
    else if (option == 'p')
      options.seconds = atof(optarg);
    else
      wrong_call();
  }
  if (options.shapes == NULL || options.threads < 1 || !(options.seconds > 0)) wrong_call();
  return options;
}

/* oneDNN takes its number of threads from its runtime, and that reads the environment when it is
 * loaded: before main. So the program starts itself once more where the environment differs. */
static void set_threads(int threads, char **arguments) {
  static const char *const names[] = {"OMP_NUM_THREADS", "DPCPP_CPU_NUM_CUS"};
  char number[16];
  snprintf(number, sizeof number, "%d", threads);
  int differs = 0;
  for (int i = 0; i < 2; i++) {
    const char *old = getenv(names[i]);
    differs |= old == NULL || strcmp(old, number) != 0;
    setenv(names[i], number, 1);
  }
  if (!differs) return;
  execv("/proc/self/exe", arguments);
  fail("/proc/self/exe", "cannot be started anew");
}

/* A plain copy of x, for reference. */
struct copy {
  float *to;
  const float *from;
  int64_t count;
  int threads;
};

static void copy_run(void *context) {
  const struct copy *copy = context;
  int64_t part = (copy->count + copy->threads - 1) / copy->threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(copy->threads) schedule(static, 1)
#endif
  for (int64_t begin = 0; begin < copy->count; begin += part) {
    int64_t length = copy->count - begin < part ? copy->count - begin : part;
    memcpy(copy->to + begin, copy->from + begin, (size_t)length * sizeof(float));
  }
}

/* One pass of one layer: both implementations, and all that they need. */
struct row {
  const struct layer *layer;
  enum pass pass;
  struct inputs inputs;
  struct outputs our_outputs, their_outputs;
  struct ours ours;
  struct theirs theirs;
  int is_there; /* oneDNN has it */
};

static void print_shape(const axn_desc *desc) {
  for (int i = 0; i < desc->rank; i++)
    printf("%s%lld", i == 0 ? "[" : ", ", (long long)desc->shape[i]);
  printf("]");
}

static void print_head(const struct row *row) {
  const axn_desc *desc = &row->layer->desc;
  static int count = 0;
  printf("%s\n  {\"model\": \"%s\", \"norm\": \"%s\", \"shape\": ", count++ == 0 ? "" : ",",
         row->layer->model, axn_norm_name(desc->norm));
  print_shape(desc);
  if (desc->norm == AXN_GROUP_NORM)
    printf(", \"groups\": %lld", (long long)desc->groups);
  else
    printf(", \"groups\": null");
  printf(", \"layout\": \"%s\", \"pass\": \"%s\", \"peer\": \"oneDNN\", \"way\": \"%s",
         desc->layout == AXN_CHANNELS_LAST ? "nhwc" : "nchw", pass_names[row->pass],
         theirs_primitive(desc));
}

static void print_times(const struct row *row, const struct turn turns[3], int rounds) {
  printf(" %s\", \"rounds\": %d, \"axisnorm_seconds\": %.9g, \"peer_seconds\": %.9g, "
         "\"copy_seconds\": %.9g, \"lead\": %.6g}",
         row->theirs.implementation, rounds, turns_median(&turns[0], rounds),
         turns_median(&turns[1], rounds), turns_median(&turns[2], rounds),
         turns_lead(&turns[0], &turns[1], rounds));
}

static void compare_results(struct row *row) {
  char what[128];
  snprintf(what, sizeof what, "%s, %s normalization, %s", row->layer->model,
           axn_norm_name(row->layer->desc.norm), pass_names[row->pass]);
  ours_run(&row->ours);
  theirs_run(&row->theirs);
  outputs_compare(&row->inputs, row->pass, &row->our_outputs, &row->their_outputs, what);
}

/* The copy writes where axisnorm's own output goes, and is measured after both. */
static void time_row(struct row *row, const struct options *options) {
  static struct turn turns[3];
  struct copy copy = {row->our_outputs.y, row->inputs.x, row->inputs.elements, options->threads};
  turns[0] = (struct turn){.run = ours_run, .context = &row->ours};
  turns[1] = (struct turn){.run = theirs_run, .context = &row->theirs};
  turns[2] = (struct turn){.run = copy_run, .context = &copy};
  int rounds = turns_take(turns, 3, options->seconds);
  print_head(row);
  print_times(row, turns, rounds);
}

static void run_row(const struct layer *layer, enum pass pass, const struct library *library,
                    const struct options *options) {
  struct row row = {.layer = layer, .pass = pass, .inputs = inputs_make(&layer->desc)};
  row.our_outputs = outputs_make(&row.inputs);
  row.their_outputs = outputs_make(&row.inputs);
  row.ours = ours_make(&layer->desc, pass, &row.inputs, &row.our_outputs);
  row.is_there =
      theirs_make(&row.theirs, library, &layer->desc, pass, &row.inputs, &row.their_outputs);
  if (row.is_there) {
    compare_results(&row);
    time_row(&row, options);
    theirs_free(&row.theirs);
  } else {
    print_head(&row);
    printf("\", \"lacks\": \"not implemented\"}");
  }
  ours_free(&row.ours);
  outputs_free(&row.our_outputs), outputs_free(&row.their_outputs);
  inputs_free(&row.inputs);
}

static void run_all(const struct options *options, const struct library *library) {
  int count;
  struct layer *layers = layers_read(options->shapes, options->layout, options->threads, &count);
  for (int i = 0; i < count; i++)
    for (enum pass pass = 0; pass < PASSES; pass++) {
      fprintf(stderr, "onednn: layer %d of %d, %s\n", i + 1, count, pass_names[pass]);
      run_row(&layers[i], pass, library, options);
    }
  free(layers);
}

int main(int count, char **arguments) {
  struct options options = read_options(count, arguments);
  set_threads(options.threads, arguments);
  struct library library = library_open();
  const dnnl_version_t *version = dnnl_version();
  printf("{\"versions\": {\"oneDNN\": \"%d.%d.%d, threads by %s\"}, \"threads\": %d, \"rows\": [",
         version->major, version->minor, version->patch, library_runtime(), options.threads);
  run_all(&options, &library);
  printf("\n]}\n");
  library_close(&library);
  return 0;
}
