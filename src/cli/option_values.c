/* SPDX-License-Identifier: MIT */
/* The readers of option values that the tables name. */
#define _POSIX_C_SOURCE 200809L
#include "options.h"
#include "plot.h"

#include <stdlib.h>
#include <string.h>

const char *const pass_names[PASS_COUNT] = {"forward-training", "forward-inference", "backward"};

/* Unused parameters come with the one signature that all readers share. */
const char *option_path(const char *text, struct options *options, void *target) {
  (void)options;
  if (*text == '\0') return "the file name is empty";
  *(const char **)target = text;
  return NULL;
}

const char *option_plot(const char *text, struct options *options, void *target) {
  if (!plot_has_known_suffix(text)) return "the file name must end in .svg or .png";
  return option_path(text, options, target);
}

const char *option_shape(const char *text, struct options *options, void *target) {
  (void)options;
  struct integer_list list;
  if (!value_integers(text, 0, INT64_MAX, &list))
    return "not a shape: expected whole numbers such as 32,64,56,56";
  if (list.count < 2 || list.count > 5) return "a shape has 2 to 5 extents: N,C, then spatial";
  struct shape shape = {.rank = list.count};
  for (int k = 0; k < list.count; k++) {
    if (list.values[k] == 0) return "every extent must be at least 1";
    shape.extents[k] = list.values[k];
  }
  int64_t elements;
  if (!value_shape_elements(&shape, &elements)) return "the product of the extents overflows";
  *(struct shape *)target = shape;
  return NULL;
}

static int compare_integers(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Ascending, each size once: so they stand in table and figure. */
const char *option_batches(const char *text, struct options *options, void *target) {
  (void)options;
  struct integer_list list, *sizes = target;
  if (!value_integers(text, 1, INT64_MAX, &list))
    return "not a list of batch sizes such as 1,2,4 (at most 32 of them, each at least 1)";
  qsort(list.values, (size_t)list.count, sizeof list.values[0], compare_integers);
  sizes->count = 0;
  for (int i = 0; i < list.count; i++)
    if (i == 0 || list.values[i] != list.values[i - 1])
      sizes->values[sizes->count++] = list.values[i];
  return NULL;
}

const char *option_passes(const char *text, struct options *options, void *target) {
  (void)target;
  bool chosen[PASS_COUNT] = {false};
  while (text != NULL) {
    char part[32];
    int pass = PASS_COUNT;
    if (value_next_part(&text, part, sizeof part))
      for (pass = 0; pass < PASS_COUNT && strcmp(part, pass_names[pass]) != 0;) pass++;
    if (pass == PASS_COUNT)
      return "not a list of passes: known are forward-training, forward-inference, backward";
    chosen[pass] = true;
  }
  memcpy(options->passes, chosen, sizeof chosen);
  return NULL;
}

const char *option_mode(const char *text, struct options *options, void *target) {
  (void)target;
  bool inference = strcmp(text, "inference") == 0;
  if (!inference && strcmp(text, "training") != 0) return "known are training, inference";
  options->mode = inference ? MODE_INFERENCE : MODE_TRAINING;
  return NULL;
}

const char *option_momentum(const char *text, struct options *options, void *target) {
  (void)target;
  if (strcmp(text, "cumulative") == 0) {
    options->momentum = AXN_MOMENTUM_CUMULATIVE;
    return NULL;
  }
  double value;
  const char *why = value_number(text, &value);
  if (why != NULL) return why;
  if (value < 0 || value > 1) return "must be from 0 to 1, or cumulative";
  options->momentum = value;
  return NULL;
}

const char *option_running_variance(const char *text, struct options *options, void *target) {
  (void)target;
  bool biased = strcmp(text, "biased") == 0;
  if (!biased && strcmp(text, "unbiased") != 0) return "known are unbiased, biased";
  options->running_variance = biased ? AXN_RUNNING_VARIANCE_BIASED : AXN_RUNNING_VARIANCE_UNBIASED;
  return NULL;
}

const char *option_seed(const char *text, struct options *options, void *target) {
  (void)options;
  return value_integer(text, 0, INT64_MAX, target) ? NULL : "must be a whole number, 0 or more";
}

const char *option_yes_no(const char *text, struct options *options, void *target) {
  (void)options;
  bool yes = strcmp(text, "yes") == 0;
  if (!yes && strcmp(text, "no") != 0) return "known are yes, no";
  *(bool *)target = yes;
  return NULL;
}
