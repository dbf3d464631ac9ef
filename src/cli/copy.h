/* SPDX-License-Identifier: MIT */
/* The fastest passes over memory that this machine allows, on a given number of threads: what a
 * normalization is measured against. */
#ifndef AXISNORM_COPY_H
#define AXISNORM_COPY_H

#include <stddef.h>

/* The kinds of pass. The three copies differ in how they store. The streaming one comes first: what
 * is measured next finds its arrays in no cache, and that is not to be the norm. */
enum memory_pass {
  MEMORY_COPY_STREAMING, /* stores that leave the caches alone */
  MEMORY_COPY_LIBRARY,   /* memcpy */
  MEMORY_COPY_LOOP,
  MEMORY_TRIAD_STREAMING,
  MEMORY_TRIAD,    /* reads two, writes a third */
  MEMORY_READ,     /* reads one array */
  MEMORY_READ_TWO, /* reads two */
  MEMORY_PASSES
};

/* The work of a timed pass, whatever the bytes stand for; the context is a struct memory_work. */
struct memory_work {
  enum memory_pass pass;
  const void *from, *other; /* `other`: the second array that is read, or null */
  void *to;                 /* or null where nothing is written */
  size_t bytes;             /* in each, rounded up to whole cache lines, which must be there */
  int threads;
};

void memory_run(void *context);

#endif
