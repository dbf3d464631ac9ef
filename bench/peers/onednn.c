/* SPDX-License-Identifier: MIT */
/* Times of normalization layers through oneDNN and through axisnorm, in one process and turn by
 * turn, as JSON on standard output. README.md beside this file says more. */
#define _POSIX_C_SOURCE 200809L
#include "layers.h"
#include "ours.h"
#include "theirs.h"
#include "turns.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct options {
  const char *shapes;
  struct layer common; /* to all layers */
  double seconds;
};

static const char usage[] =
    "usage: onednn --shapes FILE.csv [--layout nchw|nhwc] [--dtype f32|bf16|f16]\n"
    "  [--activation none|relu|leaky-relu|silu|gelu|gelu-tanh] [--residual] [--threads T]\n"
    "  [--seconds PER-ROW]";

static void wrong_call(void) {
  fprintf(stderr, "%s\n", usage);
  exit(2);
}

static axn_layout layout_named(const char *name) {
  if (strcmp(name, "nchw") != 0 && strcmp(name, "nhwc") != 0) wrong_call();
  return strcmp(name, "nhwc") == 0 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
}

static axn_dtype dtype_named(const char *name) {
  static const axn_dtype known[] = {AXN_FLOAT32, AXN_BFLOAT16, AXN_FLOAT16};
  for (int i = 0; i < 3; i++)
    if (strcmp(name, axn_dtype_name(known[i])) == 0) return known[i];
  wrong_call();
  return AXN_FLOAT32;
}

static axn_activation activation_named(const char *name) {
  const char *known;
  for (int i = 0; (known = axn_activation_name((axn_activation)i)) != NULL; i++)
    if (strcmp(name, known) == 0) return (axn_activation)i;
  wrong_call();
  return AXN_ACTIVATION_NONE;
}

static void set_option(struct options *options, int option) {
  axn_desc *desc = &options->common.desc;
  if (option == 's')
    options->shapes = optarg;
  else if (option == 'l')
    desc->layout = layout_named(optarg);
  else if (option == 'd')
    desc->dtype = dtype_named(optarg);
  else if (option == 'a')
    desc->activation = activation_named(optarg);
  else if (option == 'r')
    options->common.with_residual = 1;
  else if (option == 't')
    desc->threads = atoi(optarg);
  else if (option == 'p')
    options->seconds = atof(optarg);
  else
    wrong_call();
}

static struct options read_options(int count, char **arguments) {
  static const struct option known[] = {
      {"shapes", required_argument, NULL, 's'},  {"layout", required_argument, NULL, 'l'},
      {"dtype", required_argument, NULL, 'd'},   {"activation", required_argument, NULL, 'a'},
      {"residual", no_argument, NULL, 'r'},      {"threads", required_argument, NULL, 't'},
      {"seconds", required_argument, NULL, 'p'}, {NULL, 0, NULL, 0}};
  struct options options = {.common.desc = axn_desc_init(), .seconds = 0.2};
  options.common.desc.threads = 2;
  options.common.desc.parameter_dtype = AXN_FLOAT32;
  for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;)
    set_option(&options, option);
  if (options.shapes == NULL || options.common.desc.threads < 1 || !(options.seconds > 0))
    wrong_call();
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
  unsigned char *to;
  const unsigned char *from;
  int64_t bytes;
  int threads;
};

static void copy_run(void *context) {
  const struct copy *copy = context;
  int64_t part = (copy->bytes + copy->threads - 1) / copy->threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(copy->threads) schedule(static, 1)
#endif
  for (int64_t begin = 0; begin < copy->bytes; begin += part) {
    int64_t length = copy->bytes - begin < part ? copy->bytes - begin : part;
    memcpy(copy->to + begin, copy->from + begin, (size_t)length);
  }
}

/* One pass of one layer: both implementations, and all that they need. */
struct row {
  const struct layer *layer;
  enum pass pass;
  struct inputs inputs;
  struct outputs our_outputs, their_outputs;
  struct ours ours;
  struct theirs theirs[FUSIONS]; /* as many as oneDNN has */
  int theirs_count;
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
  printf(", \"layout\": \"%s\", \"dtype\": \"%s\", \"activation\": \"%s\", \"residual\": %s, ",
         desc->layout == AXN_CHANNELS_LAST ? "nhwc" : "nchw", axn_dtype_name(desc->dtype),
         axn_activation_name(desc->activation), row->layer->with_residual ? "true" : "false");
  printf("\"pass\": \"%s\", \"peer\": \"oneDNN\", ", pass_names[row->pass]);
}

static void print_times(const struct theirs *theirs, const struct turn *ours,
                        const struct turn *their_turn, const struct turn *copied, int rounds) {
  printf("\"way\": \"%s\", \"rounds\": %d, \"axisnorm_seconds\": %.9g, \"peer_seconds\": %.9g, "
         "\"copy_seconds\": %.9g, \"lead\": %.6g}",
         theirs->way, rounds, turns_median(ours, rounds), turns_median(their_turn, rounds),
         turns_median(copied, rounds), turns_lead(ours, their_turn, rounds));
}

static void compare_results(struct row *row, struct theirs *theirs) {
  char what[256];
  snprintf(what, sizeof what, "%s, %s normalization, %s, %s", row->layer->model,
           axn_norm_name(row->layer->desc.norm), pass_names[row->pass], theirs->way);
  theirs_run(theirs);
  outputs_compare(&row->inputs, row->layer, row->pass, &row->our_outputs, &row->their_outputs,
                  what);
}

/* Where oneDNN has several ways, the fastest counts. The copy writes where axisnorm's own output
 * goes, and is measured last. */
static void time_row(struct row *row, const struct options *options) {
  static struct turn turns[FUSIONS + 2];
  int64_t bytes = row->inputs.elements * (int64_t)axn_dtype_size(row->inputs.dtype);
  struct copy copy = {row->our_outputs.y, row->inputs.x, bytes, options->common.desc.threads};
  int last = row->theirs_count + 1, best = 1;
  turns[0] = (struct turn){.run = ours_run, .context = &row->ours};
  for (int i = 1; i < last; i++)
    turns[i] = (struct turn){.run = theirs_run, .context = &row->theirs[i - 1]};
  turns[last] = (struct turn){.run = copy_run, .context = &copy};
  int rounds = turns_take(turns, last + 1, options->seconds);
  for (int i = 2; i < last; i++)
    if (turns_lead(&turns[0], &turns[i], rounds) < turns_lead(&turns[0], &turns[best], rounds))
      best = i;
  print_head(row);
  print_times(&row->theirs[best - 1], &turns[0], &turns[best], &turns[last], rounds);
}

/* All ways share their outputs: each is compared before the next is made, which runs forward itself
 * where the pass is backward. */
static void make_theirs(struct row *row, const struct library *library) {
  struct task task = {library, row->layer, row->pass, SEQUENCE, &row->inputs, &row->their_outputs};
  for (; task.fusion < FUSIONS; task.fusion++) {
    struct theirs *theirs = &row->theirs[row->theirs_count];
    outputs_clear(&row->inputs, &row->their_outputs);
    if (!theirs_make(theirs, &task)) continue;
    row->theirs_count++;
    compare_results(row, theirs);
  }
}

static int has_corner(const axn_desc *desc) {
  return desc->activation == AXN_ACTIVATION_RELU || desc->activation == AXN_ACTIVATION_LEAKY_RELU;
}

static struct row make_row(const struct layer *layer, enum pass pass) {
  struct row row = {.layer = layer, .pass = pass, .inputs = inputs_make(layer)};
  row.our_outputs = outputs_make(&row.inputs);
  row.their_outputs = outputs_make(&row.inputs);
  if (has_corner(&layer->desc)) {
    ours_find_argument(layer, &row.inputs, &row.our_outputs);
    inputs_avoid_corner(&row.inputs, row.our_outputs.y);
  }
  return row;
}

static void run_row(const struct layer *layer, enum pass pass, const struct library *library,
                    const struct options *options) {
  struct row row = make_row(layer, pass);
  outputs_clear(&row.inputs, &row.our_outputs);
  row.ours = ours_make(layer, pass, &row.inputs, &row.our_outputs);
  ours_run(&row.ours);
  make_theirs(&row, library);
  if (row.theirs_count > 0) {
    time_row(&row, options);
  } else {
    print_head(&row);
    printf("\"lacks\": \"not implemented\"}");
  }
  for (int i = 0; i < row.theirs_count; i++) theirs_free(&row.theirs[i]);
  ours_free(&row.ours);
  outputs_free(&row.our_outputs), outputs_free(&row.their_outputs);
  inputs_free(&row.inputs);
}

static void run_all(const struct options *options, const struct library *library) {
  int count;
  struct layer *layers = layers_read(options->shapes, &options->common, &count);
  for (int i = 0; i < count; i++)
    for (enum pass pass = 0; pass < PASSES; pass++) {
      fprintf(stderr, "onednn: layer %d of %d, %s\n", i + 1, count, pass_names[pass]);
      run_row(&layers[i], pass, library, options);
    }
  free(layers);
}

int main(int count, char **arguments) {
  struct options options = read_options(count, arguments);
  set_threads(options.common.desc.threads, arguments);
  struct library library = library_open();
  const dnnl_version_t *version = dnnl_version();
  printf("{\"versions\": {\"oneDNN\": \"%d.%d.%d, threads by %s\"}, \"threads\": %d, \"rows\": [",
         version->major, version->minor, version->patch, library_runtime(),
         options.common.desc.threads);
  run_all(&options, &library);
  printf("\n]}\n");
  library_close(&library);
  return 0;
}
