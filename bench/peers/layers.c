/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const double TOLERANCE = 1e-4;

enum { FIELDS_MOST = 16, LINE_MOST = 1024 };

const char *const pass_names[PASSES] = {"forward-training", "forward-inference", "backward"};

void fail(const char *what, const char *why) {
  fprintf(stderr, "onednn: %s: %s\n", what, why);
  exit(1);
}

/* Cuts at the commas, in place. */
static int split(char *line, char *fields[FIELDS_MOST]) {
  line[strcspn(line, "\r\n")] = '\0';
  int count = 0;
  for (char *field = line; field != NULL && count < FIELDS_MOST;) {
    fields[count++] = field;
    field = strchr(field, ',');
    if (field != NULL) *field++ = '\0';
  }
  return count;
}

struct table {
  const char *path;
  char header[LINE_MOST], line[LINE_MOST];
  char *names[FIELDS_MOST], *fields[FIELDS_MOST];
  int name_count, field_count;
};

/* Empty where the file lacks the column or the line ends before it. */
static const char *text_of(const struct table *table, const char *name) {
  for (int i = 0; i < table->name_count && i < table->field_count; i++)
    if (strcmp(table->names[i], name) == 0) return table->fields[i];
  return "";
}

static int64_t number_of(const struct table *table, const char *name) {
  const char *text = text_of(table, name);
  if (*text == '\0') return 1;
  char *end;
  long long number = strtoll(text, &end, 10);
  if (*end != '\0' || number < 1) fail(table->path, "an extent or groups is no positive number");
  return number;
}

static axn_norm norm_of(const struct table *table) {
  const char *wanted = text_of(table, "norm"), *name;
  for (int norm = 1; (name = axn_norm_name((axn_norm)norm)) != NULL; norm++)
    if (strcmp(name, wanted) == 0) return (axn_norm)norm;
  fail(table->path, "a line names no normalization");
  return AXN_BATCH_NORM;
}

static void set_shape(axn_desc *desc, const struct table *table) {
  static const char *const names[] = {"n", "c", "d", "h", "w"};
  int is_matrix =
      number_of(table, "d") == 1 && number_of(table, "h") == 1 && number_of(table, "w") == 1;
  desc->rank = 0;
  for (int i = 0; i < (is_matrix ? 2 : 5); i++)
    if (i != 2 || *text_of(table, names[i]) != '\0')
      desc->shape[desc->rank++] = number_of(table, names[i]);
}

static struct layer layer_of(const struct table *table, axn_layout layout, int threads) {
  struct layer layer = {.desc = axn_desc_init()};
  snprintf(layer.model, sizeof layer.model, "%s", text_of(table, "model"));
  layer.desc.norm = norm_of(table);
  layer.desc.layout = layout;
  layer.desc.threads = threads;
  layer.desc.groups = number_of(table, "groups");
  set_shape(&layer.desc, table);
  if (layer.desc.norm == AXN_LAYER_NORM && layer.desc.rank == 2)
    layer.desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
  return layer;
}

static void *room_for(void *old, size_t size) {
  void *room = realloc(old, size);
  if (room == NULL) fail("memory", "there is not enough");
  return room;
}

struct layer *layers_read(const char *path, axn_layout layout, int threads, int *count) {
  static struct table table;
  table.path = path;
  FILE *file = fopen(path, "r");
  if (file == NULL || fgets(table.header, LINE_MOST, file) == NULL) fail(path, "cannot be read");
  table.name_count = split(table.header, table.names);
  struct layer *layers = NULL;
  *count = 0;
  while (fgets(table.line, LINE_MOST, file) != NULL) {
    table.field_count = split(table.line, table.fields);
    if (*table.fields[0] == '\0' && table.field_count == 1) continue;
    layers = room_for(layers, (size_t)(*count + 1) * sizeof *layers);
    layers[(*count)++] = layer_of(&table, layout, threads);
  }
  fclose(file);
  return layers;
}

int layer_is_of_images(const axn_desc *desc) {
  return desc->norm == AXN_LAYER_NORM && desc->parameters == AXN_PARAMETERS_PER_CHANNEL;
}

/* Of a cache line's alignment, as a framework would allocate it. NaN first: what an implementation
 * leaves unwritten then differs from any result. */
static float *array_make(int64_t count) {
  enum { LINE = 64 };
  size_t bytes = ((size_t)count * sizeof(float) + LINE - 1) / LINE * LINE;
  float *array = aligned_alloc(LINE, bytes);
  if (array == NULL) fail("memory", "there is not enough");
  for (int64_t i = 0; i < count; i++) array[i] = NAN;
  return array;
}

static float uniform(uint64_t *state) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (float)(*state >> 40) * 0x1p-24f;
}

/* Sums of four uniform values, close to normal ones. */
static float *random_make(int64_t count, float center, float width, uint64_t seed) {
  float *array = array_make(count);
  uint64_t state = seed;
  for (int64_t i = 0; i < count; i++) {
    float sum = uniform(&state) + uniform(&state) + uniform(&state) + uniform(&state);
    array[i] = center + width * (sum - 2);
  }
  return array;
}

struct inputs inputs_make(const axn_desc *desc) {
  axn_plan *plan;
  axn_error error;
  if (axn_plan_create(&plan, desc, &error) != AXN_OK) fail("axisnorm", error.message);
  axn_plan_info info = axn_plan_info_init();
  if (axn_plan_describe(plan, &info, &error) != AXN_OK) fail("axisnorm", error.message);
  axn_plan_destroy(plan);
  struct inputs inputs = {
      .elements = info.elements,
      .parameters = info.parameters,
      .statistics = info.statistics,
      .channels = desc->shape[1],
      .x = random_make(info.elements, 0.5f, 2, 1),
      .grad_y = random_make(info.elements, 0, 2, 2),
      .scale = random_make(info.parameters, 1, 0.5f, 3),
      .shift = random_make(info.parameters, 0, 0.5f, 4),
      .running_mean = random_make(desc->shape[1], 0.5f, 0.25f, 5),
      .running_variance = random_make(desc->shape[1], 1.5f, 0.25f, 6),
  };
  return inputs;
}

void inputs_free(struct inputs *inputs) {
  free(inputs->x), free(inputs->grad_y), free(inputs->scale), free(inputs->shift);
  free(inputs->running_mean), free(inputs->running_variance);
}

struct outputs outputs_make(const struct inputs *inputs) {
  struct outputs outputs = {
      .y = array_make(inputs->elements),
      .mean = array_make(inputs->statistics),
      .deviation = array_make(inputs->statistics),
      .grad_x = array_make(inputs->elements),
      .grad_scale = array_make(inputs->parameters),
      .grad_shift = array_make(inputs->parameters),
  };
  return outputs;
}

void outputs_free(struct outputs *outputs) {
  free(outputs->y), free(outputs->mean), free(outputs->deviation);
  free(outputs->grad_x), free(outputs->grad_scale), free(outputs->grad_shift);
}

static void compare(const float *ours, const float *theirs, int64_t count, const char *array,
                    const char *what) {
  double largest = 0, difference = 0;
  int unwritten = 0;
  for (int64_t i = 0; i < count; i++) {
    largest = fmax(largest, fabs((double)ours[i]));
    difference = fmax(difference, fabs((double)ours[i] - (double)theirs[i]));
    unwritten |= isnan(ours[i]) || isnan(theirs[i]);
  }
  if (!unwritten && difference <= TOLERANCE * largest) return;
  char why[128];
  snprintf(why, sizeof why, "%s differs by %g, its largest magnitude is %g%s", array, difference,
           largest, unwritten ? ", and there are NaNs" : "");
  fail(what, why);
}

void outputs_compare(const struct inputs *inputs, enum pass pass, const struct outputs *ours,
                     const struct outputs *theirs, const char *what) {
  if (pass != BACKWARD) {
    compare(ours->y, theirs->y, inputs->elements, "y", what);
    return;
  }
  compare(ours->grad_x, theirs->grad_x, inputs->elements, "grad_x", what);
  compare(ours->grad_scale, theirs->grad_scale, inputs->parameters, "grad_scale", what);
  compare(ours->grad_shift, theirs->grad_shift, inputs->parameters, "grad_shift", what);
}
