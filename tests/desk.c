/* SPDX-License-Identifier: MIT */
#include "desk.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(args, name, due, written, counter, size)                                             \
  { #name, offsetof(args, name), due, written, counter, size }

static const desk_field training_fields[] = {
    FIELD(axn_training_args, x, 1, 0, 0, 'e'),
    FIELD(axn_training_args, y, 1, 1, 0, 'e'),
    FIELD(axn_training_args, scale, 0, 0, 0, 'p'),
    FIELD(axn_training_args, shift, 0, 0, 0, 'p'),
    FIELD(axn_training_args, mean, 0, 1, 0, 's'),
    FIELD(axn_training_args, rstd, 0, 1, 0, 's'),
    FIELD(axn_training_args, running_mean, 0, 1, 0, 'r'),
    FIELD(axn_training_args, running_variance, 0, 1, 0, 'r'),
    FIELD(axn_training_args, batch_count, 0, 1, 1, '1'),
    FIELD(axn_training_args, workspace, 0, 1, 0, 'w'),
    {NULL, 0, 0, 0, 0, 0},
};

static const desk_field inference_fields[] = {
    FIELD(axn_inference_args, x, 1, 0, 0, 'e'),
    FIELD(axn_inference_args, y, 1, 1, 0, 'e'),
    FIELD(axn_inference_args, scale, 0, 0, 0, 'p'),
    FIELD(axn_inference_args, shift, 0, 0, 0, 'p'),
    FIELD(axn_inference_args, running_mean, 0, 0, 0, 'r'),
    FIELD(axn_inference_args, running_variance, 0, 0, 0, 'r'),
    {NULL, 0, 0, 0, 0, 0},
};

static const desk_field backward_fields[] = {
    FIELD(axn_backward_args, x, 1, 0, 0, 'e'),
    FIELD(axn_backward_args, grad_y, 1, 0, 0, 'e'),
    FIELD(axn_backward_args, scale, 0, 0, 0, 'p'),
    FIELD(axn_backward_args, mean, 0, 0, 0, 's'),
    FIELD(axn_backward_args, rstd, 0, 0, 0, 's'),
    FIELD(axn_backward_args, grad_x, 0, 1, 0, 'e'),
    FIELD(axn_backward_args, grad_scale, 0, 1, 0, 'p'),
    FIELD(axn_backward_args, grad_shift, 0, 1, 0, 'p'),
    FIELD(axn_backward_args, workspace, 0, 1, 0, 'w'),
    {NULL, 0, 0, 0, 0, 0},
};

const desk_field *desk_fields(pass which) {
  const desk_field *const fields[] = {training_fields, inference_fields, backward_fields};
  return fields[which];
}

/* ---- making ---- */

axn_desc desk_desc(axn_norm norm) {
  axn_desc desc = desc_of(norm, 4, 6, 5, 7, 0);
  if (norm == AXN_GROUP_NORM) desc.groups = 3;
  return desc;
}

desk desk_make(axn_norm norm) {
  axn_desc desc = desk_desc(norm);
  return desk_of(&desc);
}

/* The next buffer of the block, apart from the last one by a line. */
static void *place(desk *self, size_t *used, int64_t bytes) {
  unsigned char *start = self->block + *used;
  *used += ((size_t)bytes + 127) / 64 * 64;
  cr_assert(*used <= self->size, "the desk is too small");
  return start;
}

static void place_all(desk *self) {
  const axn_plan_info *info = &self->info;
  size_t used = 4096; /* room before, for outputs moved towards the front */
  float **const by_element[] = {&self->x, &self->y, &self->grad_y, &self->grad_x};
  float **const by_parameter[] = {&self->scale, &self->shift, &self->grad_scale, &self->grad_shift};
  float **const by_statistic[] = {&self->mean, &self->rstd};
  for (int i = 0; i < 4; i++) *by_element[i] = place(self, &used, 4 * info->elements);
  for (int i = 0; i < 4; i++) *by_parameter[i] = place(self, &used, 4 * info->parameters);
  for (int i = 0; i < 2; i++) *by_statistic[i] = place(self, &used, 4 * info->statistics);
  self->running_mean = place(self, &used, 4 * info->running_statistics);
  self->running_variance = place(self, &used, 4 * info->running_statistics);
  self->batch_count = place(self, &used, 8);
  self->spare = place(self, &used, 1024);
  size_t workspace = info->training_workspace;
  if (info->inference_workspace > workspace) workspace = info->inference_workspace;
  if (info->backward_workspace > workspace) workspace = info->backward_workspace;
  self->workspace = place(self, &used, (int64_t)workspace);
}

desk desk_of(const axn_desc *desc) {
  desk self = {0};
  self.desc = *desc;
  self.info = axn_plan_info_init();
  cr_assert(axn_plan_create(&self.plan, desc, NULL) == AXN_OK, "%s", desc_text(desc));
  cr_assert(axn_plan_describe(self.plan, &self.info, NULL) == AXN_OK);
  self.size = (size_t)1 << 18;
  self.block = aligned_alloc(64, self.size);
  self.kept = malloc(self.size);
  cr_assert(self.block && self.kept);
  place_all(&self);
  return self;
}

void desk_free(desk *self) {
  free(self->block);
  free(self->kept);
  axn_plan_destroy(self->plan);
  *self = (desk){0};
}

/* ---- arguments ---- */

static void reset_training(desk *self) {
  int keeps = keeps_running(&self->desc);
  self->training = axn_training_init();
  self->training.x = self->x;
  self->training.y = self->y;
  self->training.scale = self->scale;
  self->training.shift = self->shift;
  self->training.mean = self->mean;
  self->training.rstd = self->rstd;
  self->training.running_mean = keeps ? self->running_mean : NULL;
  self->training.running_variance = keeps ? self->running_variance : NULL;
  self->training.batch_count = self->batch_count;
  self->training.workspace = self->workspace;
  self->training.workspace_size = self->info.training_workspace;
}

static void reset_inference(desk *self) {
  int keeps = keeps_running(&self->desc);
  self->inference = axn_inference_init();
  self->inference.x = self->x;
  self->inference.y = self->y;
  self->inference.scale = self->scale;
  self->inference.shift = self->shift;
  self->inference.running_mean = keeps ? self->running_mean : NULL;
  self->inference.running_variance = keeps ? self->running_variance : NULL;
  self->inference.workspace = self->workspace;
  self->inference.workspace_size = self->info.inference_workspace;
}

static void reset_backward(desk *self) {
  self->backward = axn_backward_init();
  self->backward.x = self->x;
  self->backward.grad_y = self->grad_y;
  self->backward.scale = self->scale;
  self->backward.mean = self->mean;
  self->backward.rstd = self->rstd;
  self->backward.grad_x = self->grad_x;
  self->backward.grad_scale = self->grad_scale;
  self->backward.grad_shift = self->grad_shift;
  self->backward.workspace = self->workspace;
  self->backward.workspace_size = self->info.backward_workspace;
}

static void fill(float *values, int64_t count) {
  for (int64_t i = 0; i < count; i++) values[i] = (float)(1 + i % 7);
}

void desk_reset(desk *self) {
  memset(self->block, DESK_PATTERN, self->size);
  fill(self->x, self->info.elements);
  fill(self->grad_y, self->info.elements);
  fill(self->spare, 256);
  *self->batch_count = 3;
  memset(self->tail, 0, sizeof self->tail);
  self->no_plan = self->no_args = 0;
  reset_training(self);
  reset_inference(self);
  reset_backward(self);
}

void desk_freeze(desk *self) {
  self->backward.mean = self->backward.rstd = NULL;
  self->backward.running_mean = self->running_mean;
  self->backward.running_variance = self->running_variance;
}

static void *args_of(desk *self, pass which) {
  void *const args[] = {&self->training, &self->inference, &self->backward};
  return args[which];
}

size_t desk_args_size(pass which) {
  const size_t sizes[] = {sizeof(axn_training_args), sizeof(axn_inference_args),
                          sizeof(axn_backward_args)};
  return sizes[which];
}

size_t *desk_struct_size(desk *self, pass which) {
  return args_of(self, which); /* the first member of each */
}

const void **desk_pointer(desk *self, pass which, const desk_field *field) {
  return (const void **)(void *)((char *)args_of(self, which) + field->offset);
}

int64_t desk_bytes(const desk *self, pass which, const desk_field *field) {
  const size_t workspaces[] = {self->info.training_workspace, self->info.inference_workspace,
                               self->info.backward_workspace};
  switch (field->size) {
  case 'e':
    return 4 * self->info.elements;
  case 's':
    return 4 * self->info.statistics;
  case 'p':
    return 4 * self->info.parameters;
  case 'r':
    return 4 * self->info.running_statistics;
  case 'w':
    return (int64_t)workspaces[which];
  default:
    return 8;
  }
}

/* ---- running ---- */

axn_status desk_run(desk *self, pass which, axn_error *error) {
  const axn_plan *plan = self->no_plan ? NULL : self->plan;
  union {
    size_t struct_size;
    axn_training_args training;
    axn_inference_args inference;
    axn_backward_args backward;
    unsigned char bytes[sizeof(axn_backward_args) + sizeof(axn_training_args)];
  } copy;
  memset(&copy, 0, sizeof copy);
  memcpy(&copy, args_of(self, which), desk_args_size(which));
  memcpy(copy.bytes + desk_args_size(which), self->tail, sizeof self->tail);
  if (which == TRAINING) {
    return axn_forward_training(plan, self->no_args ? NULL : &copy.training, error);
  }
  if (which == INFERENCE) {
    return axn_forward_inference(plan, self->no_args ? NULL : &copy.inference, error);
  }
  return axn_backward(plan, self->no_args ? NULL : &copy.backward, error);
}

void desk_remember(desk *self) {
  memcpy(self->kept, self->block, self->size);
}

void desk_unchanged(const desk *self, int line) {
  cr_assert(memcmp(self->kept, self->block, self->size) == 0, "%s, line %d: something was written",
            desc_text(&self->desc), line);
}

void desk_refuses_any(desk *self, pass which, axn_status status, const char *one, const char *other,
                      int line) {
  axn_error error;
  memset(&error, DESK_PATTERN, sizeof error);
  desk_remember(self);
  axn_status got = desk_run(self, which, &error);
  cr_assert(got == status, "%s, pass %d, line %d (%s, %s): status %d, not %d: %.239s",
            desc_text(&self->desc), (int)which, line, one, other, (int)got, (int)status,
            got ? error.message : "");
  desk_unchanged(self, line);
  cr_assert(error.status == status && memchr(error.message, 0, sizeof error.message));
  cr_assert(strstr(error.message, one) || strstr(error.message, other),
            "line %d: the message names neither '%s' nor '%s': %s", line, one, other,
            error.message);
  cr_assert(desk_run(self, which, NULL) == status);
  desk_unchanged(self, line);
}

void desk_refuses(desk *self, pass which, axn_status status, const char *field, int line) {
  const char *name = field ? field : "";
  desk_refuses_any(self, which, status, name, name, line);
}

void desk_accepts(desk *self, pass which, int line) {
  axn_error error = {AXN_OK, ""};
  axn_status status = desk_run(self, which, &error);
  cr_assert(status == AXN_OK, "%s, pass %d, line %d: %s", desc_text(&self->desc), (int)which, line,
            error.message);
}
