/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CELL_LIMIT = 200 };

static const void *field_of(const struct report *report, size_t row, size_t column) {
  return (const char *)report->rows + row * report->row_size + report->columns[column].offset;
}

/* The length of the UTF-8 character that starts there, 0 where it is none. */
static size_t utf8_length(const unsigned char *text) {
  size_t length = text[0] < 0x80                      ? 1
                  : text[0] >= 0xc2 && text[0] < 0xe0 ? 2
                  : text[0] >= 0xe0 && text[0] < 0xf0 ? 3
                  : text[0] >= 0xf0 && text[0] < 0xf5 ? 4
                                                      : 0;
  for (size_t i = 1; i < length; i++)
    if ((text[i] & 0xc0) != 0x80) return 0;
  if (length == 3 && text[0] == 0xe0 && text[1] < 0xa0) return 0; /* not the shortest form */
  if (length == 3 && text[0] == 0xed && text[1] > 0x9f) return 0; /* half of a pair */
  if (length == 4 && text[0] == 0xf0 && text[1] < 0x90) return 0;
  if (length == 4 && text[0] == 0xf4 && text[1] > 0x8f) return 0;
  return length;
}

/* File names may hold any bytes; JSON is UTF-8. */
static void write_json_text(const char *text) {
  putchar('"');
  for (const unsigned char *c = (const unsigned char *)text; *c != '\0';) {
    size_t length = utf8_length(c);
    if (length == 0)
      fputs("\\ufffd", stdout);
    else if (*c < 0x20 || *c == 0x7f)
      printf("\\u%04x", *c);
    else {
      if (*c == '"' || *c == '\\') putchar('\\');
      fwrite(c, 1, length, stdout);
    }
    c += length > 0 ? length : 1;
  }
  putchar('"');
}

static void write_json_field(enum report_kind kind, const void *field) {
  char shape[SHAPE_TEXT_LIMIT];
  switch (kind) {
  case REPORT_TEXT:
    if (*(const char *const *)field == NULL)
      fputs("null", stdout);
    else
      write_json_text(*(const char *const *)field);
    break;
  case REPORT_INTEGER:
    if (*(const int64_t *)field == REPORT_NO_INTEGER)
      fputs("null", stdout);
    else
      printf("%" PRId64, *(const int64_t *)field);
    break;
  case REPORT_NUMBER:
    if (isfinite(*(const double *)field))
      printf("%.9g", *(const double *)field);
    else
      fputs("null", stdout);
    break;
  case REPORT_SHAPE:
    value_shape_text(field, shape);
    printf("[%s]", shape);
    break;
  }
}

static void write_json(const struct report *report) {
  fputs("{\n", stdout);
  if (report->source != NULL) {
    fputs("  \"input\": {\"source\": ", stdout);
    write_json_text(report->source);
    fputs(", \"shape\": ", stdout);
    write_json_field(REPORT_SHAPE, &report->source_shape);
    printf(", \"dtype\": \"%s\"},\n", axn_dtype_name(report->source_dtype));
  }
  printf("  \"threads\": %d,\n  \"isa\": \"%s\",\n  \"rows\": [", report->threads, report->isa);
  for (size_t row = 0; row < report->row_count; row++) {
    fputs(row > 0 ? ",\n    {" : "\n    {", stdout);
    const char *separator = "";
    for (size_t c = 0; c < report->column_count; c++) {
      if (report->columns[c].name == NULL) continue;
      printf("%s\"%s\": ", separator, report->columns[c].name);
      write_json_field(report->columns[c].kind, field_of(report, row, c));
      separator = ", ";
    }
    putchar('}');
  }
  fputs("\n  ]\n}\n", stdout);
}

static void write_csv_field(enum report_kind kind, const void *field) {
  char shape[SHAPE_TEXT_LIMIT];
  const char *text = kind == REPORT_TEXT ? *(const char *const *)field : shape;
  if (kind == REPORT_INTEGER) {
    if (*(const int64_t *)field != REPORT_NO_INTEGER) printf("%" PRId64, *(const int64_t *)field);
    return;
  }
  if (kind == REPORT_NUMBER) {
    if (isfinite(*(const double *)field)) printf("%.9g", *(const double *)field);
    return;
  }
  if (kind == REPORT_SHAPE) value_shape_text(field, shape);
  if (text == NULL) return;
  bool quoted = strpbrk(text, ",\"\n\r") != NULL;
  if (quoted) putchar('"');
  for (const char *c = text; *c != '\0'; c++) {
    if (*c == '"') putchar('"');
    putchar(*c);
  }
  if (quoted) putchar('"');
}

static void write_csv(const struct report *report) {
  for (int row = -1; row < (int)report->row_count; row++) {
    const char *separator = "";
    for (size_t c = 0; c < report->column_count; c++) {
      if (report->columns[c].name == NULL) continue;
      fputs(separator, stdout);
      if (row < 0)
        fputs(report->columns[c].name, stdout);
      else
        write_csv_field(report->columns[c].kind, field_of(report, (size_t)row, c));
      separator = ",";
    }
    putchar('\n');
  }
}

static void number_cell(double number, enum report_style style, char cell[CELL_LIMIT]) {
  if (!isfinite(number)) {
    snprintf(cell, CELL_LIMIT, "-");
    return;
  }
  switch (style) {
  case REPORT_PLAIN:
    snprintf(cell, CELL_LIMIT, "%.4g", number);
    break;
  case REPORT_TIMES:
    snprintf(cell, CELL_LIMIT, "%.2fx", number);
    break;
  case REPORT_MICROSECONDS:
    snprintf(cell, CELL_LIMIT, "%.*f", number < 1e-5 ? 2 : number < 1e-4 ? 1 : 0, number * 1e6);
    break;
  case REPORT_PERCENT:
    /* An exact zero says that the batch has no influence: it must not look like a rounded one. */
    if (number == 0)
      snprintf(cell, CELL_LIMIT, "0");
    else if (number < 5e-5)
      snprintf(cell, CELL_LIMIT, "<0.01%%");
    else
      snprintf(cell, CELL_LIMIT, "%.2f%%", number * 100);
    break;
  }
}

static void make_cell(const struct report *report, size_t row, size_t column,
                      char cell[CELL_LIMIT]) {
  const void *field = field_of(report, row, column);
  const char *text;
  switch (report->columns[column].kind) {
  case REPORT_TEXT:
    text = *(const char *const *)field;
    snprintf(cell, CELL_LIMIT, "%s", text != NULL ? text : "-");
    break;
  case REPORT_INTEGER:
    if (*(const int64_t *)field == REPORT_NO_INTEGER)
      snprintf(cell, CELL_LIMIT, "-");
    else
      snprintf(cell, CELL_LIMIT, "%" PRId64, *(const int64_t *)field);
    break;
  case REPORT_NUMBER:
    number_cell(*(const double *)field, report->columns[column].style, cell);
    break;
  case REPORT_SHAPE:
    value_shape_text(field, cell);
    break;
  }
}

/* A line of a heading: 0 the first, 1 what follows '|'. Returns where it starts, and its length. */
static const char *heading_line(const char *heading, int line, int *length) {
  size_t first = strcspn(heading, "|");
  if (line == 0) {
    *length = (int)first;
    return heading;
  }
  const char *second = heading[first] == '|' ? heading + first + 1 : heading + first;
  *length = (int)strlen(second);
  return second;
}

/* A column of dashes alone says nothing. */
static bool is_shown(const struct report *report, size_t column) {
  if (report->columns[column].heading == NULL) return false;
  enum report_kind kind = report->columns[column].kind;
  if (kind != REPORT_INTEGER && kind != REPORT_TEXT) return true;
  for (size_t row = 0; row < report->row_count; row++) {
    const void *field = field_of(report, row, column);
    if (kind == REPORT_INTEGER && *(const int64_t *)field != REPORT_NO_INTEGER) return true;
    if (kind == REPORT_TEXT && *(const char *const *)field != NULL) return true;
  }
  return false;
}

static int column_width(const struct report *report, size_t column) {
  int width = 0;
  for (int line = 0; line < 2; line++) {
    int length;
    heading_line(report->columns[column].heading, line, &length);
    if (length > width) width = length;
  }
  for (size_t row = 0; row < report->row_count; row++) {
    char cell[CELL_LIMIT];
    make_cell(report, row, column, cell);
    if ((int)strlen(cell) > width) width = (int)strlen(cell);
  }
  return width;
}

/* Text stands left and numbers right; no spaces at the end of a line. */
static void put_cell(const struct report *report, size_t column, const char *text, int length,
                     bool first) {
  bool left = report->columns[column].kind == REPORT_TEXT;
  bool last = column + 1 == report->column_count;
  if (!first) fputs("  ", stdout);
  int width = left && last ? 0 : column_width(report, column);
  printf(left ? "%-*.*s" : "%*.*s", width, length, text);
}

static void write_table(const struct report *report) {
  char cell[CELL_LIMIT], previous[CELL_LIMIT] = "";
  for (int row = -2; row < (int)report->row_count; row++) {
    if (row >= 0) {
      make_cell(report, (size_t)row, 0, cell);
      if (report->grouped && strcmp(cell, previous) != 0) putchar('\n');
      memcpy(previous, cell, sizeof previous);
    }
    bool first = true;
    for (size_t c = 0; c < report->column_count; c++) {
      if (!is_shown(report, c)) continue;
      int length;
      const char *text = cell;
      if (row < 0) {
        text = heading_line(report->columns[c].heading, row + 2, &length);
      } else {
        make_cell(report, (size_t)row, c, cell);
        length = (int)strlen(cell);
      }
      put_cell(report, c, text, length, first);
      first = false;
    }
    putchar('\n');
  }
}

static bool misses_number(const struct report *report) {
  for (size_t row = 0; row < report->row_count; row++)
    for (size_t c = 0; c < report->column_count; c++)
      if (report->columns[c].kind == REPORT_NUMBER &&
          !isfinite(*(const double *)field_of(report, row, c)))
        return true;
  return false;
}

static void write_legend(const struct report *report) {
  if (report->legend != NULL) printf("\n%s", report->legend);
  if (report->missing != NULL && misses_number(report)) fputs(report->missing, stdout);
}

enum outcome report_write(const struct report *report, enum format format) {
  if (format == FORMAT_JSON)
    write_json(report);
  else if (format == FORMAT_CSV)
    write_csv(report);
  else {
    write_table(report);
    write_legend(report);
  }
  return DONE; /* main looks at the stream once, at the end */
}
