/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "npy.h"
#include "element.h"
#include "npy_header.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian, and this code copies their bytes"
#endif

enum {
  PREFIX_BYTES = 8,             /* magic text and version */
  HEADER_BYTES_LIMIT = 1 << 16, /* far more than any plain array needs */
  FIRST_PART = 1 << 20          /* what is allocated on the mere promise of a pipe */
};

static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

/* Where the bytes come from: a stream, or memory where that is null. */
struct source {
  const char *name;
  FILE *stream;
  const unsigned char *bytes;
  size_t left;  /* of the bytes in memory */
  int64_t size; /* of all, -1 where only reading to the end can tell */
  int64_t taken;
};

static size_t source_read(struct source *source, void *target, size_t wanted) {
  size_t got = wanted;
  if (source->stream != NULL) {
    got = fread(target, 1, wanted, source->stream);
  } else {
    if (got > source->left) got = source->left;
    memcpy(target, source->bytes, got);
    source->bytes += got;
    source->left -= got;
  }
  source->taken += (int64_t)got;
  return got;
}

/* Fewer bytes than are due: an error of the device, or the end of the file. */
static enum outcome source_ended(const struct source *source, const char *where) {
  if (source->stream != NULL && ferror(source->stream))
    return message_failed(source->name, "%s", strerror(errno != 0 ? errno : EIO));
  return message_failed(source->name, "ends within its %s", where);
}

/* From the first bytes: what a file is that is no array. */
static enum outcome not_an_array(const char *name, const unsigned char *bytes, size_t count) {
  if (count == 0) return message_failed(name, "the file is empty");
  if (count >= 4 && memcmp(bytes, "PK\3\4", 4) == 0)
    return message_failed(name, "not a .npy file but a zip archive, as of numpy.savez: write one "
                                "of its arrays with numpy.save");
  return message_failed(name, "not a .npy file");
}

static enum outcome read_header_length(struct source *source, size_t *length) {
  unsigned char prefix[PREFIX_BYTES];
  errno = 0;
  size_t count = source_read(source, prefix, sizeof prefix);
  if (count != sizeof prefix && source->stream != NULL && ferror(source->stream))
    return source_ended(source, "header");
  if (count != sizeof prefix || memcmp(prefix, magic, sizeof magic) != 0)
    return not_an_array(source->name, prefix, count);
  int major = prefix[6], minor = prefix[7];
  if (major < 1 || major > 3 || minor != 0)
    return message_failed(source->name, ".npy version %d.%d: known are 1.0, 2.0, 3.0", major,
                          minor);
  unsigned char bytes[4] = {0};
  size_t due = major == 1 ? 2 : 4;
  if (source_read(source, bytes, due) != due) return source_ended(source, "header");
  *length =
      (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
  if (*length > HEADER_BYTES_LIMIT)
    return message_failed(source->name, "its header claims %zu bytes; at most %d are possible",
                          *length, HEADER_BYTES_LIMIT);
  return DONE;
}

static enum outcome read_header(struct source *source, struct npy_header *header) {
  size_t length = 0;
  enum outcome outcome = read_header_length(source, &length);
  if (outcome != DONE) return outcome;
  char *text = malloc(length > 0 ? length : 1);
  if (text == NULL) return message_no_memory();
  if (source_read(source, text, length) != length) {
    outcome = source_ended(source, "header");
  } else {
    const char *wrong = npy_header_parse(text, length, header);
    if (wrong != NULL) outcome = message_failed(source->name, "%s", wrong);
  }
  free(text);
  return outcome;
}

static const char *const type_texts[] = {
    [AXN_FLOAT32] = "<f4", [AXN_FLOAT64] = "<f8", [AXN_BFLOAT16] = "<u2", [AXN_FLOAT16] = "<f2"};
enum { DTYPES_END = sizeof type_texts / sizeof type_texts[0] };

static const unsigned plain_types = 1u << AXN_FLOAT32 | 1u << AXN_FLOAT64 | 1u << AXN_FLOAT16;

struct npy_due npy_due_input(axn_dtype dtype) {
  if (dtype == 0) return (struct npy_due){plain_types, "; <u2 is bfloat16 by --dtype bf16"};
  return (struct npy_due){1u << dtype, ", as --dtype asks"};
}

/* "<f4 (float32) or <f8 (float64)" */
static void list_types(unsigned types, char *text, size_t room) {
  size_t length = 0;
  for (int dtype = 1; dtype < DTYPES_END && length < room; dtype++) {
    if ((types >> dtype & 1) == 0) continue;
    const char *separator = length == 0 ? "" : types >> (dtype + 1) != 0 ? ", " : " or ";
    length += (size_t)snprintf(text + length, room - length, "%s%s (%s)", separator,
                               type_texts[dtype], element_type_name((axn_dtype)dtype));
  }
}

/* In NumPy's words, for those that a file may well have; else "". */
static const char *type_in_words(const char *type) {
  static const char *const named[][2] = {
      {"<f4", " (float32)"}, {"<f8", " (float64)"}, {"<f2", " (float16)"}, {"<u2", " (uint16)"}};
  for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
    if (strcmp(type, named[i][0]) == 0) return named[i][1];
  return "";
}

/* Nothing is converted: losing digits in silence would be worse than the extra step for the user. */
static enum outcome check_type(const char *name, const struct npy_header *header,
                               struct npy_due due, axn_dtype *dtype) {
  const char *type = header->type;
  if (type[0] == '>')
    return message_failed(name,
                          "type %s is big-endian: write it little-endian, with numpy's "
                          "astype('<%s')",
                          type, type + 1);
  if (strcmp(type, "<V2") == 0 || strcmp(type, "|V2") == 0)
    return message_failed(name, "type %s: if it is bfloat16, write it with numpy's view('uint16')",
                          type);
  for (int candidate = 1; candidate < DTYPES_END; candidate++)
    if ((due.types >> candidate & 1) != 0 && strcmp(type, type_texts[candidate]) == 0)
      *dtype = (axn_dtype)candidate;
  if (*dtype == 0) {
    char wanted[96];
    list_types(due.types, wanted, sizeof wanted);
    return message_failed(name, "type %s%s, expected %s%s", type, type_in_words(type), wanted,
                          due.reason);
  }
  if (header->fortran_order)
    return message_failed(name, "in Fortran order: write it in C order, with numpy's "
                                "ascontiguousarray");
  return DONE;
}

/* Before anything is allocated: does the file hold what its header promises? */
static enum outcome check_size(const struct source *source, int64_t bytes) {
  if (source->size < 0) return DONE;
  int64_t held = source->size - source->taken;
  if (held == bytes) return DONE;
  return message_failed(source->name,
                        "its header promises %" PRId64 " bytes of data, the file holds %" PRId64,
                        bytes, held);
}

/* From a pipe: grows with what has really come. */
static enum outcome read_growing(struct source *source, struct tensor *tensor, size_t bytes) {
  size_t room = bytes < FIRST_PART ? bytes : FIRST_PART, got = 0;
  tensor->data = malloc(room > 0 ? room : 1);
  if (tensor->data == NULL) return message_no_memory();
  while (got < bytes) {
    if (got == room) {
      room = room > bytes / 2 ? bytes : room * 2;
      void *grown = realloc(tensor->data, room);
      if (grown == NULL) return message_no_memory();
      tensor->data = grown;
    }
    size_t part = source_read(source, (char *)tensor->data + got, room - got);
    if (part == 0) return source_ended(source, "data");
    got += part;
  }
  char extra;
  if (source_read(source, &extra, 1) != 0)
    return message_failed(source->name, "holds more bytes than its header promises");
  return DONE;
}

static enum outcome read_tensor(struct source *source, struct npy_due due, struct tensor *tensor) {
  struct npy_header header = {.type = ""};
  enum outcome outcome = read_header(source, &header);
  tensor->dtype = 0;
  if (outcome == DONE) outcome = check_type(source->name, &header, due, &tensor->dtype);
  if (outcome != DONE) return outcome;
  tensor->shape = header.shape;
  if (!value_shape_elements(&header.shape, &tensor->count))
    return message_failed(source->name, "the product of its extents overflows");
  size_t bytes = tensor_bytes(tensor);
  outcome = check_size(source, (int64_t)bytes);
  if (outcome != DONE) return outcome;
  if (source->size < 0) return read_growing(source, tensor, bytes);
  tensor->data = malloc(bytes > 0 ? bytes : 1);
  if (tensor->data == NULL) return message_no_memory();
  if (source_read(source, tensor->data, bytes) != bytes) return source_ended(source, "data");
  return DONE;
}

enum outcome npy_read_file(const char *path, struct npy_due due, struct tensor *tensor) {
  FILE *stream = fopen(path, "rb");
  if (stream == NULL) return message_failed(path, "%s", strerror(errno));
  struct stat status;
  enum outcome outcome;
  if (fstat(fileno(stream), &status) != 0) {
    outcome = message_failed(path, "%s", strerror(errno));
  } else if (S_ISDIR(status.st_mode)) {
    outcome = message_failed(path, "%s", strerror(EISDIR));
  } else {
    /* Standard input may be a regular file that was read in part: then its size tells nothing. */
    bool whole = S_ISREG(status.st_mode) && ftello(stream) == 0;
    struct source source = {
        .name = path, .stream = stream, .size = whole ? (int64_t)status.st_size : -1};
    outcome = read_tensor(&source, due, tensor);
  }
  fclose(stream);
  if (outcome != DONE) tensor_release(tensor);
  return outcome;
}

enum outcome npy_read_memory(const char *name, const unsigned char *bytes, size_t size,
                             struct npy_due due, struct tensor *tensor) {
  struct source source = {.name = name, .bytes = bytes, .left = size, .size = (int64_t)size};
  enum outcome outcome = read_tensor(&source, due, tensor);
  if (outcome != DONE) tensor_release(tensor);
  return outcome;
}

enum outcome npy_write(struct output_file *output, const struct tensor *tensor) {
  enum { ALIGNMENT = 64, LENGTH_BYTES = 2 };
  char shape[SHAPE_TEXT_LIMIT], header[512];
  value_shape_text(&tensor->shape, shape);
  int length =
      snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }",
               type_texts[tensor->dtype], shape, tensor->shape.rank == 1 ? "," : "");
  /* Padded with spaces so that the data begin at a multiple of 64, as NumPy does. */
  int start = PREFIX_BYTES + LENGTH_BYTES;
  while ((start + length + 1) % ALIGNMENT != 0) header[length++] = ' ';
  header[length++] = '\n';

  FILE *stream = output_stream(output);
  unsigned char prefix[PREFIX_BYTES + LENGTH_BYTES] = {0};
  memcpy(prefix, magic, sizeof magic);
  prefix[6] = 1;
  prefix[PREFIX_BYTES] = (unsigned char)(length & 0xff);
  prefix[PREFIX_BYTES + 1] = (unsigned char)(length >> 8);
  size_t bytes = tensor_bytes(tensor);
  errno = 0;
  if (fwrite(prefix, 1, sizeof prefix, stream) == sizeof prefix &&
      fwrite(header, 1, (size_t)length, stream) == (size_t)length &&
      fwrite(tensor->data, 1, bytes, stream) == bytes)
    return DONE;
  return message_failed(output_path(output), "%s", strerror(errno != 0 ? errno : EIO));
}
