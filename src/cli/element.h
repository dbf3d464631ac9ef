/* SPDX-License-Identifier: MIT */
/* Single elements of memory of any type. */
#ifndef AXISNORM_ELEMENT_H
#define AXISNORM_ELEMENT_H

#include <axisnorm/axisnorm.h>

double element_get(const void *data, axn_dtype dtype, int64_t at);

/* Rounded to the nearest, ties to even; the 16-bit types by way of float32. */
void element_set(void *data, axn_dtype dtype, int64_t at, double value);

/* "float32", as NumPy calls it. */
const char *element_type_name(axn_dtype dtype);

#endif
