/* SPDX-License-Identifier: MIT */
/* Parallel loops as a host may pass them: honest, and as awkward as the contract allows. */
#ifndef AXISNORM_TESTS_LOOPS_H
#define AXISNORM_TESTS_LOOPS_H

#include <axisnorm/axisnorm.h>

/* What a loop saw; pass one as parallel_context, or null. */
typedef struct loop_record {
  int calls;
  int threads; /* of the last call */
} loop_record;

/* A range per pthread, as many as asked for (3 where 0 is asked for). */
void loop_pthreads(void *context, int threads, int64_t count, axn_task task, void *data);

/* All at once on the calling thread. */
void loop_whole(void *context, int threads, int64_t count, axn_task task, void *data);

/* Index by index, from the last to the first. */
void loop_reversed_singles(void *context, int threads, int64_t count, axn_task task, void *data);

/* Ranges of uneven size, the odd ones first, two threads taking them in turn. */
void loop_uneven(void *context, int threads, int64_t count, axn_task task, void *data);

/* 64 pthreads whatever was asked for, an index each where there are no more. */
void loop_many_pthreads(void *context, int threads, int64_t count, axn_task task, void *data);

#endif
