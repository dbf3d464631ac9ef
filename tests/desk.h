/* SPDX-License-Identifier: MIT */
/*
 * A plan with valid arguments for every pass, all buffers side by side in one block of memory: a
 * test spoils one argument, and the whole block shows whether anything was written.
 */
#ifndef AXISNORM_TESTS_DESK_H
#define AXISNORM_TESTS_DESK_H

#include "cases.h"

typedef enum pass { TRAINING, INFERENCE, BACKWARD } pass;

enum { DESK_PATTERN = 0x5a };

typedef struct desk {
  axn_desc desc;
  axn_plan *plan;
  axn_plan_info info;
  /* What a run is called with; each struct with room after it, for that of a newer header. */
  axn_training_args training;
  axn_inference_args inference;
  axn_backward_args backward;
  int no_plan, no_args;
  unsigned char tail[24];
  /* The block: inputs first filled with ones, outputs with the pattern. */
  unsigned char *block, *kept;
  size_t size;
  float *x, *y, *scale, *shift, *mean, *rstd, *running_mean, *running_variance;
  float *grad_y, *grad_x, *grad_scale, *grad_shift, *spare;
  int64_t *batch_count;
  unsigned char *workspace;
} desk;

/* A pointer in a pass's arguments. */
typedef struct desk_field {
  const char *name;
  size_t offset; /* in the struct */
  int due;       /* never optional */
  int written;
  int counter; /* int64_t, not float */
  char size;   /* e: elements, s: statistics, p: parameters, r: running, w: workspace, 1: one */
} desk_field;

axn_desc desk_desc(axn_norm norm);
desk desk_make(axn_norm norm);
desk desk_of(const axn_desc *desc);
void desk_free(desk *self);

/* All arguments valid again, all buffers as at first. */
void desk_reset(desk *self);
void desk_freeze(desk *self); /* backward from running statistics */

const desk_field *desk_fields(pass which); /* the last has no name */
const void **desk_pointer(desk *self, pass which, const desk_field *field);
int64_t desk_bytes(const desk *self, pass which, const desk_field *field);
size_t desk_args_size(pass which);
size_t *desk_struct_size(desk *self, pass which);

axn_status desk_run(desk *self, pass which, axn_error *error);
void desk_remember(desk *self);
void desk_unchanged(const desk *self, int line);

/* The run fails with this status, names this field (null: any) and writes nothing; with and without
 * an error struct. */
void desk_refuses(desk *self, pass which, axn_status status, const char *field, int line);

/* The same where the message may name either of two fields. */
void desk_refuses_any(desk *self, pass which, axn_status status, const char *one, const char *other,
                      int line);
void desk_accepts(desk *self, pass which, int line);

#endif
