/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "layers.h"

#include <stdio.h>
#include <stdlib.h>

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

static struct layer layer_of(const struct table *table, const struct layer *common) {
  struct layer layer = *common;
  snprintf(layer.model, sizeof layer.model, "%s", text_of(table, "model"));
  layer.desc.norm = norm_of(table);
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

struct layer *layers_read(const char *path, const struct layer *common, int *count) {
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
    layers[(*count)++] = layer_of(&table, common);
  }
  fclose(file);
  return layers;
}

int layer_is_of_images(const axn_desc *desc) {
  return desc->norm == AXN_LAYER_NORM && desc->parameters == AXN_PARAMETERS_PER_CHANNEL;
}
