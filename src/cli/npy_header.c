/* SPDX-License-Identifier: MIT */
#include "npy_header.h"

#include <string.h>

/* What is left to read. Nothing here looks past `end`. */
struct cursor {
  const char *at, *end;
};

static void skip_space(struct cursor *c) {
  while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
    c->at++;
}

static bool take(struct cursor *c, char wanted) {
  skip_space(c);
  if (c->at == c->end || *c->at != wanted) return false;
  c->at++;
  return true;
}

static bool take_word(struct cursor *c, const char *word) {
  size_t length = strlen(word);
  skip_space(c);
  if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0) return false;
  c->at += length;
  return true;
}

static bool is_plain(char c) {
  return c > ' ' && c < 0x7f && c != '\\';
}

/* A quoted text without escapes: no key and no type that we know has any. */
static bool take_string(struct cursor *c, char *text, size_t room) {
  skip_space(c);
  if (c->at == c->end || (*c->at != '\'' && *c->at != '"')) return false;
  char quote = *c->at++;
  const char *start = c->at;
  while (c->at < c->end && *c->at != quote && is_plain(*c->at)) c->at++;
  size_t length = (size_t)(c->at - start);
  if (c->at == c->end || *c->at != quote || length >= room) return false;
  c->at++;
  memcpy(text, start, length);
  text[length] = '\0';
  return true;
}

/* "L" after a number: NumPy under Python 2 wrote long integers so. */
static const char *take_extent(struct cursor *c, int64_t *extent) {
  skip_space(c);
  if (c->at < c->end && *c->at == '-') return "an extent in its shape is negative";
  const char *start = c->at;
  *extent = 0;
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
    int digit = *c->at - '0';
    if (*extent > (INT64_MAX - digit) / 10) return "an extent in its shape overflows";
    *extent = *extent * 10 + digit;
  }
  if (c->at == start) return "its shape is not a tuple of whole numbers";
  if (c->at < c->end && *c->at == 'L') c->at++;
  return NULL;
}

static const char *take_shape(struct cursor *c, struct shape *shape) {
  shape->rank = 0;
  if (!take(c, '(')) return "its shape is not a tuple";
  while (!take(c, ')')) {
    if (shape->rank == AXN_MAX_RANK) return "it has more axes than the 5 that are possible";
    const char *wrong = take_extent(c, &shape->extents[shape->rank]);
    if (wrong != NULL) return wrong;
    shape->rank++;
    if (take(c, ',')) continue;
    if (shape->rank == 1) return "its shape is not a tuple"; /* (3) is a number, (3,) a tuple */
    if (!take(c, ')')) return "its shape is not a tuple of whole numbers";
    break;
  }
  return NULL;
}

enum key { KEY_DESCR, KEY_FORTRAN_ORDER, KEY_SHAPE, KEYS };

static const char *take_value(struct cursor *c, enum key key, struct npy_header *header) {
  if (key == KEY_SHAPE) return take_shape(c, &header->shape);
  if (key == KEY_DESCR) {
    if (take(c, '[')) return "its elements are records: only plain numbers are possible";
    return take_string(c, header->type, sizeof header->type) ? NULL : "its descr is not a type";
  }
  header->fortran_order = take_word(c, "True");
  if (header->fortran_order || take_word(c, "False")) return NULL;
  return "its fortran_order is neither True nor False";
}

const char *npy_header_parse(const char *text, size_t length, struct npy_header *header) {
  static const char *const names[KEYS] = {"descr", "fortran_order", "shape"};
  bool seen[KEYS] = {false};
  struct cursor c = {text, text + length};
  if (!take(&c, '{')) return "its header is not a dictionary";
  while (!take(&c, '}')) {
    char name[24];
    if (!take_string(&c, name, sizeof name)) return "its header is malformed: expected a key";
    int key = 0;
    while (key < KEYS && strcmp(name, names[key]) != 0) key++;
    if (key == KEYS) return "its header has an unknown key";
    if (seen[key]) return "its header has a key twice";
    seen[key] = true;
    if (!take(&c, ':')) return "its header is malformed: expected a colon";
    const char *wrong = take_value(&c, (enum key)key, header);
    if (wrong != NULL) return wrong;
    if (take(&c, ',')) continue;
    if (!take(&c, '}')) return "its header is malformed: expected a comma or the end";
    break;
  }
  skip_space(&c);
  if (c.at != c.end) return "its header goes on after the dictionary";
  for (int key = 0; key < KEYS; key++)
    if (!seen[key]) return "its header lacks one of descr, fortran_order, shape";
  return NULL;
}
