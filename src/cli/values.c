/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "values.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool value_integer(const char *text, int64_t lowest, int64_t highest, int64_t *result) {
  const char *digits = *text == '-' ? text + 1 : text;
  if (!isdigit((unsigned char)*digits)) return false; /* strtoll would skip spaces */
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (errno != 0 || *end != '\0' || value < lowest || value > highest) return false;
  *result = value;
  return true;
}

const char *value_number(const char *text, double *result) {
  static const char digits[] = "0123456789";
  char *end;
  errno = 0;
  double value = strtod(text, &end);
  bool decimal = strspn(text, "0123456789+-.eE") == strlen(text); /* no hex, nan, inf, no space */
  if (!decimal || strpbrk(text, digits) == NULL || *end != '\0') return "not a decimal number";
  if (isinf(value)) return "too large for a double";
  if (errno == ERANGE && value == 0) return "too close to 0 for a double";
  *result = value;
  return NULL;
}

bool value_next_part(const char **text, char *part, size_t room) {
  size_t length = strcspn(*text, ",");
  if (length == 0 || length >= room) return false;
  memcpy(part, *text, length);
  part[length] = '\0';
  *text = (*text)[length] == ',' ? *text + length + 1 : NULL;
  return true;
}

bool value_integers(const char *text, int64_t lowest, int64_t highest, struct integer_list *list) {
  list->count = 0;
  while (text != NULL) {
    char part[32];
    if (list->count == LIST_LIMIT || !value_next_part(&text, part, sizeof part)) return false;
    if (!value_integer(part, lowest, highest, &list->values[list->count])) return false;
    list->count++;
  }
  return true;
}

bool value_norm(const char *text, axn_norm *norm) {
  struct norm_list all;
  value_all_norms(&all);
  for (int i = 0; i < all.count; i++) {
    if (strcmp(text, axn_norm_name(all.values[i])) != 0) continue;
    *norm = all.values[i];
    return true;
  }
  return false;
}

bool value_dtype(const char *text, axn_dtype *dtype) {
  for (int value = 1; axn_dtype_name((axn_dtype)value) != NULL; value++) {
    if (strcmp(text, axn_dtype_name((axn_dtype)value)) != 0) continue;
    *dtype = (axn_dtype)value;
    return true;
  }
  return false;
}

bool value_activation(const char *text, axn_activation *activation) {
  for (int value = 0; axn_activation_name((axn_activation)value) != NULL; value++) {
    if (strcmp(text, axn_activation_name((axn_activation)value)) != 0) continue;
    *activation = (axn_activation)value;
    return true;
  }
  return false;
}

void value_all_norms(struct norm_list *list) {
  list->count = 0;
  for (int value = 1; list->count < LIST_LIMIT && axn_norm_name((axn_norm)value) != NULL; value++)
    list->values[list->count++] = (axn_norm)value;
}

const char *value_norm_names(void) {
  static char names[LIST_LIMIT * 24];
  struct norm_list all;
  value_all_norms(&all);
  size_t length = 0;
  names[0] = '\0';
  for (int i = 0; i < all.count && length < sizeof names; i++)
    length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i > 0 ? ", " : "",
                               axn_norm_name(all.values[i]));
  return names;
}

void value_usual_norms(struct norm_list *list) {
  *list =
      (struct norm_list){4, {AXN_BATCH_NORM, AXN_LAYER_NORM, AXN_INSTANCE_NORM, AXN_GROUP_NORM}};
}

void value_shape_text(const struct shape *shape, char text[SHAPE_TEXT_LIMIT]) {
  size_t length = 0;
  text[0] = '\0';
  for (int k = 0; k < shape->rank; k++)
    length += (size_t)snprintf(text + length, SHAPE_TEXT_LIMIT - length, "%s%" PRId64,
                               k > 0 ? "," : "", shape->extents[k]);
}

bool value_shape_elements(const struct shape *shape, int64_t *elements) {
  const int64_t most = INT64_MAX / (int64_t)sizeof(double);
  int64_t product = 1;
  bool empty = false;
  for (int k = 0; k < shape->rank; k++) {
    int64_t extent = shape->extents[k];
    if (extent < 0) return false;
    if (extent == 0) {
      empty = true; /* the other extents must still multiply without overflow */
      continue;
    }
    if (product > most / extent) return false;
    product *= extent;
  }
  *elements = empty ? 0 : product;
  return true;
}
