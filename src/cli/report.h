/* SPDX-License-Identifier: MIT */
/* Rows of typed fields, written as an aligned table, as JSON or as CSV from one definition. */
#ifndef AXISNORM_REPORT_H
#define AXISNORM_REPORT_H

#include "options.h"

#include <stddef.h>

/* What a field is in the struct of its row. */
enum report_kind {
  REPORT_TEXT,    /* const char *; null: does not apply */
  REPORT_INTEGER, /* int64_t; REPORT_NO_INTEGER: does not apply */
  REPORT_NUMBER,  /* double; not a number: does not apply */
  REPORT_SHAPE    /* struct shape */
};

#define REPORT_NO_INTEGER INT64_MIN

/* A number for REPORT_INTEGER that is 0 where it does not apply. */
static inline int64_t report_if_any(int64_t number) {
  return number != 0 ? number : REPORT_NO_INTEGER;
}

/* A text for REPORT_TEXT that does not apply where there is no activation. */
static inline const char *report_activation(axn_activation activation) {
  return activation != AXN_ACTIVATION_NONE ? axn_activation_name(activation) : NULL;
}

/* How the table shows a number; JSON and CSV always have it as it is. */
enum report_style { REPORT_PLAIN, REPORT_PERCENT, REPORT_MICROSECONDS, REPORT_TIMES };

struct report_column {
  const char *name;    /* of the field; null: only in the table */
  const char *heading; /* in the table, '|' starts its second line; null: not in the table, where
                          an integer or text that applies to no row is not either */
  enum report_kind kind;
  enum report_style style;
  size_t offset;
};

struct report {
  const struct report_column *columns;
  size_t column_count;
  const void *rows;
  size_t row_size, row_count;
  int threads;
  const char *isa;
  const char *source; /* null: JSON without "input" */
  struct shape source_shape;
  axn_dtype source_dtype;
  bool grouped;        /* an empty line in the table where the first field changes */
  const char *legend;  /* lines under the table; null: none */
  const char *missing; /* a further one where a number is a dash; null: none */
};

/* Writes to standard output. */
enum outcome report_write(const struct report *report, enum format format);

#endif
