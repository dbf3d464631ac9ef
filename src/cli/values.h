/* SPDX-License-Identifier: MIT */
/* Strict reading of option values: all of the text must be the value. */
#ifndef AXISNORM_VALUES_H
#define AXISNORM_VALUES_H

#include <axisnorm/axisnorm.h>

#include <stdbool.h>
#include <stddef.h>

enum {
  LIST_LIMIT = 32,       /* most entries of a list of integers or norms */
  SHAPE_TEXT_LIMIT = 192 /* room for a shape as text */
};

struct shape {
  int rank;
  int64_t extents[AXN_MAX_RANK];
};

struct integer_list {
  int count;
  int64_t values[LIST_LIMIT];
};

struct norm_list {
  int count;
  axn_norm values[LIST_LIMIT];
};

bool value_integer(const char *text, int64_t lowest, int64_t highest, int64_t *result);
bool value_integers(const char *text, int64_t lowest, int64_t highest, struct integer_list *list);
bool value_norm(const char *text, axn_norm *norm);
bool value_dtype(const char *text, axn_dtype *dtype);
bool value_activation(const char *text, axn_activation *activation);

/* A decimal number. Returns null, or why the text is none. */
const char *value_number(const char *text, double *result);

/* The next part of a comma-separated text, copied to `part`; *text moves past it and becomes null
 * after the last. False for a part that is empty or too long. */
bool value_next_part(const char **text, char *part, size_t room);

/* The norms that the library knows, and their names in one line: "batch, layer, ...". */
void value_all_norms(struct norm_list *list);
const char *value_norm_names(void);

/* The four that are measured where none are asked for: batch, layer, instance, group. */
void value_usual_norms(struct norm_list *list);

/* "2,4,3,3" */
void value_shape_text(const struct shape *shape, char text[SHAPE_TEXT_LIMIT]);

/* The product of the extents; false where it or its bytes in the widest type overflow, or where an
 * extent is negative. */
bool value_shape_elements(const struct shape *shape, int64_t *elements);

#endif
