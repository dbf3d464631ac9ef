/* SPDX-License-Identifier: MIT */
/* The CSV file of shapes. */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum column {
  COLUMN_NORM,
  COLUMN_N,
  COLUMN_C,
  COLUMN_D,
  COLUMN_H,
  COLUMN_W,
  COLUMN_GROUPS,
  COLUMN_GHOST_BATCH,
  COLUMNS
};
static const char *const column_names[COLUMNS] = {"norm", "n", "c",      "d",
                                                  "h",    "w", "groups", "ghost_batch"};
enum { FIELD_LIMIT = 32 };

struct table {
  const char *path;
  const struct norm_list *norms;
  int line;
  int positions[COLUMNS]; /* of the columns in a line, -1 where the file lacks one */
  int field_count;
  struct wanted *cases;
  int count, room;
};

/* Cuts the line at its commas, in place. Returns the number of fields, FIELD_LIMIT + 1 for more. */
static int split_line(char *line, char *fields[FIELD_LIMIT]) {
  line[strcspn(line, "\r\n")] = '\0';
  int count = 0;
  for (char *field = line; field != NULL;) {
    if (count == FIELD_LIMIT) return FIELD_LIMIT + 1;
    fields[count++] = field;
    field = strchr(field, ',');
    if (field != NULL) *field++ = '\0';
  }
  return count;
}

/* Spreadsheets begin a file in UTF-8 with a byte order mark. */
static char *after_mark(char *line) {
  return strncmp(line, "\xef\xbb\xbf", 3) == 0 ? line + 3 : line;
}

static enum outcome read_names(struct table *table, char *line) {
  char *fields[FIELD_LIMIT];
  table->field_count = split_line(line, fields);
  for (int c = 0; c < COLUMNS; c++) {
    table->positions[c] = -1;
    for (int i = 0; i < table->field_count && i < FIELD_LIMIT; i++)
      if (strcmp(fields[i], column_names[c]) == 0) table->positions[c] = i;
  }
  static const enum column due[] = {COLUMN_NORM, COLUMN_N, COLUMN_C};
  for (int i = 0; i < 3; i++)
    if (table->positions[due[i]] < 0)
      return message_failed(table->path, "its first line names no column %s", column_names[due[i]]);
  return DONE;
}

static enum outcome wrong_line(const struct table *table, const char *why) {
  return message_failed(table->path, "line %d: %s", table->line, why);
}

/* An empty field or a column that is not there is no extent. */
static bool read_extent(const char *field, struct shape *shape) {
  if (*field == '\0') return true;
  return value_integer(field, 1, INT64_MAX, &shape->extents[shape->rank++]);
}

/* Left alone where the field is empty. */
static bool read_count(const char *field, int64_t *count) {
  return *field == '\0' || value_integer(field, 1, INT64_MAX, count);
}

static enum outcome read_case(struct table *table, char *line, struct wanted *result) {
  char *fields[FIELD_LIMIT], empty[] = "";
  if (split_line(line, fields) != table->field_count)
    return wrong_line(table, "not as many fields as the first line has");
  const char *values[COLUMNS];
  for (int c = 0; c < COLUMNS; c++)
    values[c] = table->positions[c] < 0 ? empty : fields[table->positions[c]];
  *result = (struct wanted){.source = {table->path, table->line}};
  if (!value_norm(values[COLUMN_NORM], &result->norm)) return wrong_line(table, "unknown norm");
  if (*values[COLUMN_N] == '\0' || *values[COLUMN_C] == '\0')
    return wrong_line(table, "n and c are missing");
  for (int c = COLUMN_N; c <= COLUMN_W; c++)
    if (!read_extent(values[c], &result->shape))
      return wrong_line(table, "extents must be whole numbers, at least 1");
  int64_t elements;
  if (!value_shape_elements(&result->shape, &elements))
    return wrong_line(table, "the product of the extents overflows");
  if (!read_count(values[COLUMN_GROUPS], &result->groups))
    return wrong_line(table, "groups must be a whole number, at least 1");
  if (!read_count(values[COLUMN_GHOST_BATCH], &result->ghost_batch))
    return wrong_line(table, "ghost_batch must be a whole number, at least 1");
  return DONE;
}

static enum outcome keep_case(struct table *table, const struct wanted *found) {
  bool wanted = false;
  for (int i = 0; i < table->norms->count; i++)
    wanted = wanted || table->norms->values[i] == found->norm;
  if (!wanted) return DONE;
  if (table->count == table->room) {
    int room = table->room > 0 ? 2 * table->room : 64;
    if (room > 1 << 20) return message_failed(table->path, "too many lines");
    void *grown = realloc(table->cases, (size_t)room * sizeof *table->cases);
    if (grown == NULL) return message_no_memory();
    table->cases = grown;
    table->room = room;
  }
  table->cases[table->count++] = *found;
  return DONE;
}

static enum outcome read_lines(struct table *table, FILE *stream) {
  char *line = NULL;
  size_t room = 0;
  enum outcome outcome = DONE;
  errno = 0;
  while (outcome == DONE && getline(&line, &room, stream) >= 0) {
    table->line++;
    if (table->line == 1) {
      outcome = read_names(table, after_mark(line));
    } else if (line[strspn(line, "\r\n")] != '\0') {
      struct wanted found;
      outcome = read_case(table, line, &found);
      if (outcome == DONE) outcome = keep_case(table, &found);
    }
  }
  if (outcome == DONE && !feof(stream))
    outcome = message_failed(table->path, "%s", strerror(errno != 0 ? errno : EIO));
  if (outcome == DONE && table->count == 0)
    outcome = message_failed(table->path, "holds no shapes for these norms");
  free(line);
  return outcome;
}

enum outcome bench_read_cases(const char *path, const struct norm_list *norms,
                              struct wanted **cases, int *count) {
  FILE *stream = fopen(path, "r");
  if (stream == NULL) return message_failed(path, "%s", strerror(errno));
  struct table table = {.path = path, .norms = norms};
  enum outcome outcome = read_lines(&table, stream);
  fclose(stream);
  *cases = table.cases; /* the caller's also where reading failed */
  *count = table.count;
  return outcome;
}
