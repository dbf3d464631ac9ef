/* SPDX-License-Identifier: MIT */
/* axisnorm bench: times, and how far they are from what memory allows. */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"
#include "commands.h"
#include "passes.h"
#include "progress.h"
#include "random.h"
#include "report.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

struct bench_row {
  const char *norm;
  int64_t groups, ghost_batch;
  const char *pass;
  struct shape shape;
  const char *layout, *dtype, *affine, *activation, *residual;
  double seconds, seconds_min;
  const char *limit_kind;
  double limit_seconds, ratio;
};

#define COLUMN(field) offsetof(struct bench_row, field)

static const struct report_column columns[] = {
    {"norm", "norm", REPORT_TEXT, 0, COLUMN(norm)},
    {"groups", "groups", REPORT_INTEGER, 0, COLUMN(groups)},
    {"ghost_batch", "ghost|batch", REPORT_INTEGER, 0, COLUMN(ghost_batch)},
    {"pass", "pass", REPORT_TEXT, 0, COLUMN(pass)},
    {"shape", "shape", REPORT_SHAPE, 0, COLUMN(shape)},
    {"layout", "layout", REPORT_TEXT, 0, COLUMN(layout)},
    {"dtype", "dtype", REPORT_TEXT, 0, COLUMN(dtype)},
    {"affine", "affine", REPORT_TEXT, 0, COLUMN(affine)},
    {"activation", "activation", REPORT_TEXT, 0, COLUMN(activation)},
    {"residual", "residual", REPORT_TEXT, 0, COLUMN(residual)},
    {"seconds", "median|us", REPORT_NUMBER, REPORT_MICROSECONDS, COLUMN(seconds)},
    {"seconds_min", "least|us", REPORT_NUMBER, REPORT_MICROSECONDS, COLUMN(seconds_min)},
    {"limit_kind", "limit", REPORT_TEXT, 0, COLUMN(limit_kind)},
    {"limit_seconds", "limit|us", REPORT_NUMBER, REPORT_MICROSECONDS, COLUMN(limit_seconds)},
    {"ratio", "median|/ limit", REPORT_NUMBER, REPORT_TIMES, COLUMN(ratio)}};

static const double SECONDS_PER_ROW = 0.3;

/* A case, ready to run. */
struct bench {
  struct prepared prepared;
  struct bench_arrays arrays;
  axn_status status; /* of the last run that failed */
  axn_error error;
};

static void note_status(struct bench *b, axn_status status) {
  if (status != AXN_OK) b->status = status;
}

static struct pass_data data_of(const struct bench *b) {
  const struct bench_arrays *a = &b->arrays;
  return (struct pass_data){.x = a->x.data,
                            .y = a->y.data,
                            .scale = a->scale.data,
                            .shift = a->shift.data,
                            .residual = a->residual.data,
                            .grad_y = a->grad_y.data,
                            .grad_x = a->grad_x.data,
                            .grad_residual = a->grad_residual.data,
                            .grad_scale = a->grad_scale.data,
                            .grad_shift = a->grad_shift.data,
                            .mean = a->mean.data,
                            .rstd = a->rstd.data};
}

static void run_training(void *context) {
  struct bench *b = context;
  struct pass_data data = data_of(b);
  note_status(b, pass_training(&b->prepared, &data, &b->error));
}

static void run_inference(void *context) {
  struct bench *b = context;
  struct pass_data data = data_of(b);
  data.running_mean = b->arrays.running_mean.data;
  data.running_variance = b->arrays.running_variance.data;
  note_status(b, pass_inference(&b->prepared, &data, &b->error));
}

static void run_backward(void *context) {
  struct bench *b = context;
  struct pass_data data = data_of(b);
  note_status(b, pass_backward(&b->prepared, &data, &b->error));
}

static void (*const pass_works[PASS_COUNT])(void *) = {run_training, run_inference, run_backward};

/* For inference with running statistics, where a norm needs them; it has its own else. */
static enum outcome create_running(struct bench *b) {
  if (!prepare_needs_running(&b->prepared)) return DONE;
  int64_t count = b->prepared.info.running_statistics;
  axn_dtype real = b->arrays.mean.dtype;
  enum outcome outcome = tensor_create_vector(&b->arrays.running_mean, count, real, 0.25);
  return outcome == DONE ? tensor_create_vector(&b->arrays.running_variance, count, real, 1)
                         : outcome;
}

/* Scale, shift and their gradients, where they are asked for. */
static enum outcome create_affine(struct bench *b, const struct options *options) {
  if (!options->has_affine) return DONE;
  struct tensor *const vectors[] = {&b->arrays.scale, &b->arrays.shift, &b->arrays.grad_scale,
                                    &b->arrays.grad_shift};
  enum outcome outcome = DONE;
  for (int i = 0; i < 4 && outcome == DONE; i++)
    outcome =
        tensor_create_vector(vectors[i], b->prepared.info.parameters, b->prepared.desc.dtype, 1);
  return outcome;
}

/* The arrays that a pass may take; the residual's only where one is asked for. */
static enum outcome create_arrays(struct bench *b, const struct shape *shape,
                                  const struct options *options) {
  struct bench_arrays *a = &b->arrays;
  axn_dtype dtype = b->prepared.desc.dtype, real = tensor_statistics_dtype(dtype);
  bool adds = options->adds_residual;
  bool keeps = adds && options->activation != AXN_ACTIVATION_NONE;
  struct tensor *const data[] = {&a->x,
                                 &a->y,
                                 &a->grad_y,
                                 &a->grad_x,
                                 adds ? &a->residual : NULL,
                                 keeps ? &a->grad_residual : NULL};
  enum outcome outcome = DONE;
  for (int i = 0; i < 6 && outcome == DONE; i++)
    if (data[i] != NULL) outcome = tensor_create(data[i], shape, dtype);
  int64_t statistics = b->prepared.info.statistics;
  if (outcome == DONE) outcome = tensor_create_vector(&a->mean, statistics, real, 0);
  if (outcome == DONE) outcome = tensor_create_vector(&a->rstd, statistics, real, 1);
  if (outcome == DONE) outcome = create_affine(b, options);
  return outcome == DONE ? create_running(b) : outcome;
}

static enum outcome bench_create(struct bench *b, const struct wanted *wanted,
                                 const struct options *options) {
  *b = (struct bench){.status = AXN_OK};
  enum outcome outcome = prepare(&b->prepared, options, wanted);
  if (outcome == DONE) outcome = prepare_workspace(&b->prepared);
  if (outcome == DONE) outcome = create_arrays(b, &wanted->shape, options);
  if (outcome != DONE) return outcome;
  struct random random = random_start((uint64_t)options->seed);
  struct tensor *const filled[] = {&b->arrays.x, &b->arrays.grad_y, &b->arrays.residual};
  for (int i = 0; i < 3; i++) {
    if (filled[i]->data == NULL) continue;
    random_fill_normal(&random, filled[i]);
    progress_step();
  }
  return DONE;
}

static void bench_release(struct bench *b) {
  struct bench_arrays *a = &b->arrays;
  struct tensor *const tensors[] = {
      &a->x,          &a->y,          &a->grad_y,        &a->grad_x,          &a->mean,
      &a->rstd,       &a->residual,   &a->grad_residual, &a->scale,           &a->shift,
      &a->grad_scale, &a->grad_shift, &a->running_mean,  &a->running_variance};
  for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) tensor_release(tensors[i]);
  prepare_release(&b->prepared);
}

static double least(const double *values, int count) {
  double result = values[0];
  for (int i = 1; i < count; i++)
    if (values[i] < result) result = values[i];
  return result;
}

/* The first of the works is the norm's; those of the limit follow. */
static void fill_times(struct bench_row *row, struct timed *works, const struct bench_limit *limit,
                       int rounds) {
  double limits[TIMING_ROUNDS_MOST], ratios[TIMING_ROUNDS_MOST];
  bench_limit_samples(limit, works + 1, rounds, limits);
  for (int i = 0; i < rounds; i++) ratios[i] = works[0].samples[i] / limits[i];
  row->seconds = timing_median(works[0].samples, rounds);
  row->seconds_min = least(works[0].samples, rounds);
  row->limit_seconds = timing_median(limits, rounds);
  row->ratio = timing_median(ratios, rounds);
}

static enum outcome measure(struct bench_row *row, struct bench *b, enum pass pass) {
  const double none = (double)NAN;
  const axn_desc *desc = &b->prepared.desc;
  *row = (struct bench_row){axn_norm_name(desc->norm),
                            report_if_any(desc->groups),
                            report_if_any(desc->ghost_batch),
                            pass_names[pass],
                            {.rank = desc->rank},
                            desc->layout == AXN_CHANNELS_LAST ? "nhwc" : "nchw",
                            axn_dtype_name(desc->dtype),
                            b->arrays.scale.data != NULL ? "yes" : NULL,
                            report_activation(desc->activation),
                            b->arrays.residual.data != NULL ? "yes" : NULL,
                            none,
                            none,
                            NULL,
                            none,
                            none};
  for (int k = 0; k < desc->rank; k++) row->shape.extents[k] = desc->shape[k];

  struct bench_limit limit;
  bench_choose_limit(&limit, pass, &b->prepared, &b->arrays);
  row->limit_kind = limit.kind;
  pass_works[pass](b);
  if (b->status != AXN_OK) return prepare_failure(&b->prepared, b->status, &b->error);
  struct timed *works = calloc(1 + MEMORY_PASSES, sizeof *works);
  if (works == NULL) return message_no_memory();
  works[0].work = pass_works[pass];
  works[0].context = b;
  for (int i = 0; i < limit.count; i++) {
    works[1 + i].work = memory_run;
    works[1 + i].context = &limit.works[i];
  }
  fill_times(row, works, &limit, timing_run(works, 1 + limit.count, SECONDS_PER_ROW));
  free(works);
  return DONE;
}

static enum outcome measure_cases(const struct options *options, const struct wanted *cases,
                                  int case_count, struct bench_row *rows, size_t *row_count) {
  enum outcome outcome = DONE;
  for (int i = 0; i < case_count && outcome == DONE; i++) {
    struct bench bench;
    outcome = bench_create(&bench, &cases[i], options);
    for (int pass = 0; pass < PASS_COUNT && outcome == DONE; pass++) {
      if (!options->passes[pass]) continue;
      outcome = measure(&rows[(*row_count)++], &bench, (enum pass)pass);
      progress_step();
    }
    bench_release(&bench);
  }
  return outcome;
}

/* Batch, ghost and instance normalization, which keep running statistics, train on no single values. */
static enum outcome check_case(const struct options *options, const struct wanted *wanted) {
  struct prepared prepared;
  enum outcome outcome = prepare(&prepared, options, wanted);
  if (outcome != DONE) return outcome;
  const axn_plan_info *info = &prepared.info;
  axn_error error = {AXN_ERROR_TOO_FEW_VALUES, ""};
  snprintf(error.message, sizeof error.message,
           "shape: %s normalization has one value per statistic to train on",
           axn_norm_name(wanted->norm));
  if (options->passes[PASS_TRAINING] && info->values_per_statistic == 1 &&
      info->running_statistics > 0)
    outcome = prepare_failure(&prepared, error.status, &error);
  prepare_release(&prepared);
  return outcome;
}

/* All of them before the first is measured: a mistake in the last is known at once. */
static enum outcome check_cases(const struct options *options, const struct wanted *cases,
                                int count) {
  enum outcome outcome = DONE;
  for (int i = 0; i < count && outcome == DONE; i++) outcome = check_case(options, &cases[i]);
  return outcome;
}

static enum outcome choose_cases(const struct options *options, struct wanted **cases, int *count) {
  if (options->shapes != NULL)
    return bench_read_cases(options->shapes, &options->norms, cases, count);
  struct shape shape = {.rank = 4, .extents = {32, 64, 56, 56}};
  if (options->shape.rank != 0) shape = options->shape;
  *count = options->norms.count;
  *cases = calloc((size_t)*count, sizeof **cases);
  if (*cases == NULL) return message_no_memory();
  for (int i = 0; i < *count; i++)
    (*cases)[i] =
        (struct wanted){.norm = options->norms.values[i], .shape = shape, .source = {"--shape", 0}};
  return DONE;
}

static const char legend[] =
    "us     microseconds\n"
    "limit  the fastest pass over memory that moves as many bytes; --help says which\n"
    "1.00x  as fast as memory allows\n";

static enum outcome bench_cases(const struct options *options, const struct wanted *cases,
                                int count) {
  int passes = 0, filling = options->adds_residual ? 3 : 2;
  for (int i = 0; i < PASS_COUNT; i++) passes += options->passes[i];
  axn_plan_info machine;
  enum outcome outcome = prepare_machine(options->threads, options->isa, &machine);
  if (outcome != DONE) return outcome;
  struct bench_row *rows = calloc((size_t)count * (size_t)passes, sizeof *rows);
  if (rows == NULL) return message_no_memory();
  struct report report = {.columns = columns,
                          .column_count = sizeof columns / sizeof columns[0],
                          .rows = rows,
                          .row_size = sizeof *rows,
                          .threads = machine.threads,
                          .isa = axn_isa_name(machine.isa),
                          .grouped = options->shapes == NULL,
                          .legend = legend};
  progress_start("bench", count * (passes + filling));
  outcome = measure_cases(options, cases, count, rows, &report.row_count);
  progress_end();
  if (outcome == DONE) outcome = report_write(&report, options->format);
  free(rows);
  return outcome;
}

static enum outcome run_bench(struct options *options) {
  if (options->shape.rank != 0 && options->shapes != NULL)
    return message_misused("--shapes", "give one of --shape, --shapes");
  if (options->norms.count == 0 && options->shapes != NULL)
    value_all_norms(&options->norms);
  else if (options->norms.count == 0)
    value_usual_norms(&options->norms);
  enum outcome outcome = prepare_check_options(options);
  if (outcome != DONE) return outcome;
  struct wanted *cases = NULL;
  int count = 0;
  outcome = choose_cases(options, &cases, &count);
  for (int i = 0; outcome == DONE && options->has_affine && i < count; i++)
    if (prepare_takes_axis(cases[i].norm)) cases[i].parameters = AXN_PARAMETERS_PER_ELEMENT;
  if (outcome == DONE) outcome = check_cases(options, cases, count);
  if (outcome == DONE) outcome = bench_cases(options, cases, count);
  free(cases);
  return outcome;
}

#define TARGET(field) offsetof(struct options, field)

static const struct option_row own[] = {
    {"passes", "LIST", "of forward-training, forward-inference, backward (default: all)",
     option_passes, 0},
    {"shape", "N,C,H,W", "2 to 5 extents (default 32,64,56,56)", option_shape, TARGET(shape)},
    {"shapes", "FILE.csv",
     "instead: columns norm,n,c,d,h,w,groups,ghost_batch, named by\n"
     "the first line; all after c may be empty or not there. All\n"
     "lines count, or those of --norms",
     option_path, TARGET(shapes)},
    {"affine", "yes|no",
     "with scale and shift, and their gradients: one for each\n"
     "channel, with layer and rms for each normalized element\n"
     "(default no)",
     option_yes_no, TARGET(has_affine)},
    {"residual", "yes|no", "add a residual before the activation (default no)", option_yes_no,
     TARGET(adds_residual)},
    {"seed", "S", "of the random data (default 1)", option_seed, TARGET(seed)},
    {NULL, NULL, NULL, NULL, 0}};

static const struct option_row *const tables[] = {options_norms, own, options_common, NULL};

const struct command command_bench = {
    "bench",
    "times against what the memory of this machine allows",
    "Measures each norm and pass turn by turn with the fastest passes over memory that move\n"
    "the same bytes on the same threads. The limit of a forward pass is a copy, with a\n"
    "reading before it (read+copy) where the values of a statistic exceed the private caches\n"
    "of the threads that share it; of a backward pass one pass that reads two arrays and\n"
    "writes a third (triad), or with another reading of both (read2+triad). A residual makes\n"
    "the copy a triad; behind an activation, backward copies it too (copy+triad). Scale, shift\n"
    "and their gradients are not in the limit.",
    "  axisnorm bench --norms batch,group --shape 32,64,56,56 --format csv",
    tables,
    run_bench};
