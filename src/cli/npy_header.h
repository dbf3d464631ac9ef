/* SPDX-License-Identifier: MIT */
/* The header of a NumPy .npy file: a Python dictionary, read strictly.
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef AXISNORM_NPY_HEADER_H
#define AXISNORM_NPY_HEADER_H

#include "values.h"

#include <stddef.h>

struct npy_header {
  char type[16]; /* "<f4", as NumPy writes it */
  bool fortran_order;
  struct shape shape;
};

/* Reads the dictionary in `text`. Returns null, or what is wrong with it. */
const char *npy_header_parse(const char *text, size_t length, struct npy_header *header);

#endif
