/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "options.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const char *one_norm(const char *text, struct options *options, void *target) {
  (void)target;
  if (value_norm(text, &options->norms.values[0])) {
    options->norms.count = 1;
    return NULL;
  }
  static char why[sizeof "unknown norm: known are " + LIST_LIMIT * 24];
  snprintf(why, sizeof why, "unknown norm: known are %s", value_norm_names());
  return why;
}

static const char *norm_list(const char *text, struct options *options, void *target) {
  if (strcmp(text, "all") == 0) {
    value_all_norms(&options->norms);
    return NULL;
  }
  struct norm_list list = {.count = 0};
  while (text != NULL) {
    char part[32];
    if (!value_next_part(&text, part, sizeof part)) part[0] = '\0', text = NULL;
    if (list.count == LIST_LIMIT) return "too many norms";
    const char *why = one_norm(part, options, target);
    if (why != NULL) return why;
    list.values[list.count++] = options->norms.values[0];
  }
  options->norms = list;
  return NULL;
}

static const char *positive(const char *text, struct options *options, void *target) {
  (void)options;
  return value_integer(text, 1, INT64_MAX, target) ? NULL : "must be a whole number, at least 1";
}

static const char *axis(const char *text, struct options *options, void *target) {
  if (!value_integer(text, -AXN_MAX_RANK, AXN_MAX_RANK, target))
    return "must be a whole number: an axis of N,C,spatial from 0, or from the end below 0";
  options->axis_given = true;
  return NULL;
}

static const char *epsilon(const char *text, struct options *options, void *target) {
  (void)options;
  double value;
  const char *why = value_number(text, &value);
  if (why != NULL) return why;
  if (value <= 0) return "must be above 0";
  *(double *)target = value;
  return NULL;
}

static const char *layout(const char *text, struct options *options, void *target) {
  (void)target;
  bool last = strcmp(text, "nhwc") == 0;
  if (!last && strcmp(text, "nchw") != 0) return "unknown layout: known are nchw, nhwc";
  options->layout = last ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
  return NULL;
}

static const char *dtype(const char *text, struct options *options, void *target) {
  (void)options;
  return value_dtype(text, target) ? NULL : "unknown type: known are f32, f64, bf16, f16";
}

static const char *activation(const char *text, struct options *options, void *target) {
  (void)options;
  if (value_activation(text, target)) return NULL;
  return "unknown activation: known are none, relu, leaky-relu, silu, gelu, gelu-tanh";
}

static const char *negative_slope(const char *text, struct options *options, void *target) {
  options->slope_given = true;
  return value_number(text, target);
}

static const char *threads(const char *text, struct options *options, void *target) {
  (void)options;
  return value_integer(text, 0, 1024, target) ? NULL
                                              : "must be a whole number from 0 (all) to 1024";
}

static const char *isa(const char *text, struct options *options, void *target) {
  (void)target;
  for (int value = 1; axn_isa_name((axn_isa)value) != NULL; value++) {
    if (strcmp(text, axn_isa_name((axn_isa)value)) != 0) continue;
    if (!axn_isa_available((axn_isa)value))
      return "not available: this machine or this build lacks it";
    options->isa = (axn_isa)value;
    return NULL;
  }
  return "unknown instruction set: known are baseline, avx2, avx512, neon";
}

static const char *format(const char *text, struct options *options, void *target) {
  (void)target;
  static const char *const names[] = {NULL, "table", "json", "csv"};
  for (int i = FORMAT_TABLE; i <= FORMAT_CSV; i++)
    if (strcmp(text, names[i]) == 0) {
      options->format = (enum format)i;
      return NULL;
    }
  return "unknown format: known are table, json, csv";
}

const struct option_row options_norm[] = {
    {"norm", "NORM", "batch, layer, instance, group, rms, positional or ghost", one_norm, 0},
    {NULL, NULL, NULL, NULL, 0}};

#define NORMS_KNOWN "of batch, layer, instance, group, rms, positional, ghost;\nor all "

const struct option_row options_norms[] = {
    {"norms", "LIST", NORMS_KNOWN "(default: batch,layer,instance,group)", norm_list, 0},
    {"norm", "LIST", "the same", norm_list, 0},
    {NULL, NULL, NULL, NULL, 0}};

const struct option_row options_all_norms[] = {
    {"norms", "LIST", NORMS_KNOWN "(default: all)", norm_list, 0},
    {"norm", "LIST", "the same", norm_list, 0},
    {NULL, NULL, NULL, NULL, 0}};

const struct option_row options_common[] = {
    {"groups", "G",
     "group: number of groups. Default: 32 where C is divisible by\n"
     "32 and at least 64; else the largest divisor of C that is at\n"
     "most C/2 and at most 32 (1 where C is 1)",
     positive, offsetof(struct options, groups)},
    {"ghost-batch", "B",
     "ghost: samples that share statistics; divides N. Default: the\n"
     "largest divisor of N from 2 to 16 that is at most N/2; else N.\n"
     "compare: the most, cut to a divisor of each batch (default 8)",
     positive, offsetof(struct options, ghost_batch)},
    {"axis", "K",
     "layer, rms: first normalized axis of N,C,spatial; negative\nfrom the end (default 1)", axis,
     offsetof(struct options, axis)},
    {"epsilon", "E", "added to the variance (default 1e-5)", epsilon,
     offsetof(struct options, epsilon)},
    {"layout", "nchw|nhwc", "order of the axes in memory and in files (default nchw)", layout, 0},
    {"dtype", "f32|f64|bf16|f16",
     "type of the data (default f32). Files have types of their own,\n"
     "with which it must agree; bf16 reads uint16 as bfloat16",
     dtype, offsetof(struct options, dtype)},
    {"activation", "NAME",
     "none (default), relu, leaky-relu, silu, gelu or gelu-tanh:\nfused into every pass",
     activation, offsetof(struct options, activation)},
    {"negative-slope", "A", "leaky-relu: the factor below 0 (default 0.01)", negative_slope,
     offsetof(struct options, negative_slope)},
    {"threads", "T", "the most threads to use, up to 1024; 0: all (default)", threads,
     offsetof(struct options, threads)},
    {"isa", "NAME", "baseline, avx2, avx512 or neon (default: the best here)", isa, 0},
    {"format", "table|json|csv", "form of the results (default table; apply: prints none)", format,
     0},
    {NULL, NULL, NULL, NULL, 0}};

static void set_defaults(struct options *options) {
  axn_desc desc = axn_desc_init();
  *options = (struct options){.axis = desc.axis,
                              .epsilon = desc.epsilon,
                              .momentum = desc.momentum,
                              .running_variance = desc.running_variance,
                              .layout = desc.layout,
                              .activation = desc.activation,
                              .negative_slope = desc.negative_slope,
                              .isa = desc.isa,
                              .seed = 1,
                              .passes = {true, true, true}};
}

static const struct option_row *find_option(const struct command *command, const char *name,
                                            size_t length) {
  for (int t = 0; command->tables[t] != NULL; t++)
    for (const struct option_row *row = command->tables[t]; row->name != NULL; row++)
      if (strlen(row->name) == length && strncmp(row->name, name, length) == 0) return row;
  return NULL;
}

bool options_ask_help(const char *argument) {
  return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

enum outcome options_parse(const struct command *command, int count, char **arguments,
                           struct options *options, bool *help) {
  set_defaults(options);
  *help = false;
  for (int i = 0; i < count; i++) {
    const char *argument = arguments[i];
    if (options_ask_help(argument)) {
      *help = true;
      return DONE;
    }
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
      return message_misused(argument, "not an option of %s; see axisnorm %s --help", command->name,
                             command->name);
    size_t length = strcspn(argument + 2, "=");
    const struct option_row *row = find_option(command, argument + 2, length);
    if (row == NULL)
      return message_misused(argument, "unknown option of %s; see axisnorm %s --help",
                             command->name, command->name);
    char name[40];
    snprintf(name, sizeof name, "--%s", row->name);
    const char *text = argument[2 + length] == '=' ? argument + 3 + length : arguments[++i];
    if (text == NULL) return message_misused(name, "a value is missing: %s", row->argument);
    const char *why = row->parse(text, options, (char *)options + row->offset);
    if (why != NULL) return message_misused(name, "'%.80s': %s", text, why);
  }
  return DONE;
}

/* Further lines of a help text stand under the first. */
static void print_option_help(const struct option_row *row) {
  enum { COLUMN = 28 };
  char head[64];
  snprintf(head, sizeof head, "  --%s %s", row->name, row->argument);
  printf("%-*s", COLUMN, head);
  if (strlen(head) >= COLUMN) printf("\n%*s", COLUMN, "");
  for (const char *c = row->help; *c != '\0'; c++) {
    putchar(*c);
    if (*c == '\n') printf("%*s", COLUMN, "");
  }
  putchar('\n');
}

void options_print_help(const struct command *command) {
  printf("axisnorm %s: %s\n\n%s\n\nOptions:\n", command->name, command->summary, command->details);
  for (int t = 0; command->tables[t] != NULL; t++)
    for (const struct option_row *row = command->tables[t]; row->name != NULL; row++)
      print_option_help(row);
  printf("%-28s%s\n\nExample:\n%s\n", "  --help, -h", "this text", command->example);
}
