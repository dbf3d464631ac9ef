/* SPDX-License-Identifier: MIT */
/* Every bad argument of the three runs: the pinned status, a message that names the field, and not
 * one byte written to any buffer. */
#include "desk.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define REFUSED(desk, pass, status, field) desk_refuses(desk, pass, status, field, __LINE__)

static const axn_norm NORMS[] = {AXN_BATCH_NORM,      AXN_LAYER_NORM, AXN_INSTANCE_NORM,
                                 AXN_GROUP_NORM,      AXN_RMS_NORM,   AXN_POSITIONAL_NORM,
                                 AXN_GHOST_BATCH_NORM};
enum { NORM_COUNT = sizeof NORMS / sizeof NORMS[0] };

/* ---- what all passes share ---- */

static void check_structs(desk *on, pass which) {
  desk_reset(on);
  on->no_plan = 1;
  REFUSED(on, which, AXN_ERROR_NULL, "plan");
  desk_reset(on);
  on->no_args = 1;
  REFUSED(on, which, AXN_ERROR_NULL, "args");
  const size_t full = desk_args_size(which);
  const size_t sizes[] = {0, 1, full / 2, full - 1, SIZE_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    desk_reset(on);
    *desk_struct_size(on, which) = sizes[i];
    REFUSED(on, which, AXN_ERROR_STRUCT_SIZE, "args");
  }
  desk_reset(on);
  *desk_struct_size(on, which) = full + 24;
  desk_accepts(on, which, __LINE__);
  desk_reset(on);
  *desk_struct_size(on, which) = full + 24;
  on->tail[23] = 1;
  REFUSED(on, which, AXN_ERROR_STRUCT_SIZE, "args");
}

static void check_threads(desk *on, pass which) {
  desk_reset(on);
  on->training.threads = on->inference.threads = on->backward.threads = -1;
  REFUSED(on, which, AXN_ERROR_THREADS, "threads");
}

static void check_workspace(desk *on, pass which, size_t needed) {
  if (needed == 0) return;
  desk_reset(on);
  on->training.workspace = on->inference.workspace = on->backward.workspace = NULL;
  REFUSED(on, which, AXN_ERROR_NULL, "workspace");
  const size_t sizes[] = {0, 1, needed - 1};
  for (int i = 0; i < 3; i++) {
    desk_reset(on);
    on->training.workspace_size = on->inference.workspace_size = sizes[i];
    on->backward.workspace_size = sizes[i];
    REFUSED(on, which, AXN_ERROR_WORKSPACE, "workspace");
  }
}

Test(run_arguments, structs_threads_workspace) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    for (pass which = TRAINING; which <= BACKWARD; which++) {
      desk_reset(&on);
      desk_accepts(&on, which, __LINE__);
      check_structs(&on, which);
      check_threads(&on, which);
    }
    check_workspace(&on, TRAINING, on.info.training_workspace);
    check_workspace(&on, BACKWARD, on.info.backward_workspace);
    desk_reset(&on);
    on.inference.running_mean = on.inference.running_variance = NULL;
    if (!keeps_running(&on.desc)) {
      check_workspace(&on, INFERENCE, on.info.inference_workspace);
    }
    desk_free(&on);
  }
}

/* ---- null and alignment: every pointer in turn ---- */

/* Sets one pointer, runs, expects `status` and the pointer's name. */
static void check_pointer(desk *on, pass which, const desk_field *field, const void *value,
                          axn_status status) {
  desk_reset(on);
  if (!*desk_pointer(on, which, field)) return; /* this norm has none */
  *desk_pointer(on, which, field) = value;
  REFUSED(on, which, status, field->name);
}

Test(run_arguments, pointers_that_are_due) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    for (pass which = TRAINING; which <= BACKWARD; which++) {
      for (const desk_field *field = desk_fields(which); field->name; field++) {
        if (field->due) check_pointer(&on, which, field, NULL, AXN_ERROR_NULL);
      }
    }
    desk_free(&on);
  }
}

Test(run_arguments, alignment) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    for (pass which = TRAINING; which <= BACKWARD; which++) {
      for (const desk_field *field = desk_fields(which); field->name; field++) {
        if (strcmp(field->name, "workspace") == 0) continue; /* of any alignment */
        for (int off = 1; off < 4; off++) {
          desk_reset(&on);
          const char *right = *desk_pointer(&on, which, field);
          if (right) check_pointer(&on, which, field, right + off, AXN_ERROR_ALIGNMENT);
        }
      }
    }
    desk_free(&on);
  }
}

/* ---- overlap: every output with every other buffer, by one byte's worth and by all ---- */

static int may_be_the_same(const desk_field *written, const desk_field *other) {
  return (strcmp(written->name, "y") == 0 && strcmp(other->name, "x") == 0) ||
         (strcmp(written->name, "grad_x") == 0 && strcmp(other->name, "grad_y") == 0);
}

/* Moves `written` onto the start, the last element and just before the end of `other`. */
static void check_overlap(desk *on, pass which, const desk_field *written,
                          const desk_field *other) {
  desk_reset(on);
  const char *start = *desk_pointer(on, which, other);
  int64_t size = desk_bytes(on, which, other), own = desk_bytes(on, which, written);
  if (!start || !*desk_pointer(on, which, written) || size == 0 || own == 0) return;
  int64_t unit = written->counter ? 8 : 4;
  const int64_t offsets[] = {0, size - unit, -(own - unit), unit};
  for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
    int64_t offset = offsets[i] - offsets[i] % unit;
    if (offset == 0 && may_be_the_same(written, other)) continue;
    if (offset >= size || offset <= -own) continue; /* side by side */
    desk_reset(on);
    *desk_pointer(on, which, written) = start + offset;
    desk_refuses_any(on, which, AXN_ERROR_OVERLAP, written->name, other->name, __LINE__);
  }
}

Test(run_arguments, overlap) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    for (pass which = TRAINING; which <= BACKWARD; which++) {
      const desk_field *fields = desk_fields(which);
      for (const desk_field *written = fields; written->name; written++) {
        for (const desk_field *other = fields; written->written && other->name; other++) {
          if (other != written) check_overlap(&on, which, written, other);
        }
      }
    }
    desk_free(&on);
  }
}

/* The buffers that only a backward pass from running statistics reads. */
Test(run_arguments, overlap_with_frozen_statistics) {
  desk on = desk_make(AXN_BATCH_NORM);
  for (const desk_field *written = desk_fields(BACKWARD); written->name; written++) {
    for (int which = 0; written->written && which < 2; which++) {
      desk_reset(&on);
      desk_freeze(&on);
      *desk_pointer(&on, BACKWARD, written) = which ? on.running_variance : on.running_mean;
      desk_refuses_any(&on, BACKWARD, AXN_ERROR_OVERLAP, written->name, "running_", __LINE__);
    }
  }
  desk_free(&on);
}

/* Inputs may share memory as they like. */
Test(run_arguments, inputs_may_overlap) {
  desk on = desk_make(AXN_BATCH_NORM);
  desk_reset(&on);
  on.training.shift = on.training.scale;
  desk_accepts(&on, TRAINING, __LINE__);
  desk_reset(&on);
  on.backward.x = on.backward.grad_y;
  desk_accepts(&on, BACKWARD, __LINE__);
  desk_free(&on);
}

/* ---- statistics ---- */

Test(run_arguments, running_statistics_in_training) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    int keeps = keeps_running(&on.desc);
    for (int given = 1; given <= 3; given++) {
      desk_reset(&on);
      on.training.running_mean = given & 1 ? on.spare : NULL;
      on.training.running_variance = given & 2 ? on.spare + 64 : NULL;
      if (keeps && given == 3) continue;
      REFUSED(&on, TRAINING, AXN_ERROR_STATISTICS, "running_");
    }
    desk_free(&on);
  }
}

Test(run_arguments, cumulative_average_needs_a_count) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    axn_desc desc = desk_desc(NORMS[i]);
    if (!keeps_running(&desc)) continue;
    desc.momentum = AXN_MOMENTUM_CUMULATIVE;
    desk on = desk_of(&desc);
    desk_reset(&on);
    on.training.batch_count = NULL;
    REFUSED(&on, TRAINING, AXN_ERROR_NULL, "batch_count");
    const int64_t wrong[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1};
    for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
      desk_reset(&on);
      *on.training.batch_count = wrong[k];
      REFUSED(&on, TRAINING, AXN_ERROR_MOMENTUM, "batch_count");
    }
    desk_reset(&on);
    *on.training.batch_count = 3;
    desk_accepts(&on, TRAINING, __LINE__);
    desk_free(&on);
  }
}

Test(run_arguments, running_statistics_in_inference) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    int keeps = keeps_running(&on.desc);
    for (int given = 0; given <= 3; given++) {
      desk_reset(&on);
      on.inference.running_mean = given & 1 ? on.spare : NULL;
      on.inference.running_variance = given & 2 ? on.spare + 64 : NULL;
      if (keeps && given == 3) continue;
      if (given == 0 && !needs_running(&on.desc)) {
        desk_accepts(&on, INFERENCE, __LINE__);
      } else {
        REFUSED(&on, INFERENCE, AXN_ERROR_STATISTICS, "running_");
      }
    }
    desk_free(&on);
  }
}

/* All 16 combinations: one whole pair and nothing else is right; for rms, rstd is a whole. */
Test(run_arguments, statistics_in_backward) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    desk on = desk_make(NORMS[i]);
    int keeps = keeps_running(&on.desc);
    for (int given = 0; given < 16; given++) {
      desk_reset(&on);
      on.backward.mean = given & 1 ? on.mean : NULL;
      on.backward.rstd = given & 2 ? on.rstd : NULL;
      on.backward.running_mean = given & 4 ? on.spare : NULL;
      on.backward.running_variance = given & 8 ? on.spare + 64 : NULL;
      int alone = given == 2 && !knows_mean(&on.desc);
      if (alone || given == 3 || (given == 12 && keeps)) {
        desk_accepts(&on, BACKWARD, __LINE__);
      } else {
        desk_refuses(&on, BACKWARD, AXN_ERROR_STATISTICS, NULL, __LINE__);
      }
    }
    desk_free(&on);
  }
}

/* x is due where its values matter, and only there. */
Test(run_arguments, x_in_backward) {
  desk on = desk_make(AXN_BATCH_NORM);
  desk_reset(&on);
  desk_freeze(&on);
  on.backward.x = NULL;
  REFUSED(&on, BACKWARD, AXN_ERROR_NULL, "x");
  desk_reset(&on);
  desk_freeze(&on);
  on.backward.x = NULL;
  on.backward.grad_scale = NULL;
  desk_accepts(&on, BACKWARD, __LINE__);
  desk_free(&on);
}

/* ---- one value per statistic ---- */

Test(run_arguments, one_value_per_statistic) {
  const axn_desc descs[] = {
      desc_of(AXN_BATCH_NORM, 1, 6, 0, 0, 0),       desc_of(AXN_BATCH_NORM, 1, 6, 1, 1, 0),
      desc_of(AXN_INSTANCE_NORM, 4, 6, 0, 0, 0),    desc_of(AXN_INSTANCE_NORM, 4, 6, 1, 1, 1),
      desc_of(AXN_GHOST_BATCH_NORM, 2, 6, 0, 0, 0), desc_of(AXN_GHOST_BATCH_NORM, 1, 6, 1, 1, 0)};
  for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
    desk on = desk_of(&descs[i]);
    desk_reset(&on);
    desk_refuses(&on, TRAINING, AXN_ERROR_TOO_FEW_VALUES, NULL, __LINE__);
    desk_reset(&on); /* from running statistics one value is enough */
    desk_accepts(&on, INFERENCE, __LINE__);
    desk_free(&on);
  }
}

/* ---- nothing to do ---- */

static void check_empty(desk *on) {
  for (pass which = TRAINING; which <= BACKWARD; which++) {
    desk_reset(on);
    desk_remember(on);
    if (which != BACKWARD) {
      cr_assert(desk_run(on, which, NULL) == AXN_OK, "N = 0, pass %d", (int)which);
      desk_unchanged(on, __LINE__);
      continue;
    }
    axn_error error = {AXN_OK, ""};
    cr_assert(desk_run(on, which, &error) == AXN_OK, "N = 0: %s", error.message);
    for (int64_t p = 0; p < on->info.parameters; p++) {
      cr_assert(on->grad_scale[p] == 0.0f && on->grad_shift[p] == 0.0f, "%s: parameter gradient %d",
                desc_text(&on->desc), (int)p);
    }
    memset(on->grad_scale, DESK_PATTERN, (size_t)on->info.parameters * sizeof(float));
    memset(on->grad_shift, DESK_PATTERN, (size_t)on->info.parameters * sizeof(float));
    desk_unchanged(on, __LINE__);
  }
}

Test(run_arguments, no_samples) {
  for (size_t i = 0; i < NORM_COUNT; i++) {
    for (int layout = AXN_CHANNELS_FIRST; layout <= AXN_CHANNELS_LAST; layout++) {
      axn_desc desc = desk_desc(NORMS[i]);
      desc.layout = (axn_layout)layout;
      desc.shape[0] = 0;
      desk on = desk_of(&desc);
      cr_assert(on.info.elements == 0);
      check_empty(&on);
      desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
      desk_free(&on);
      if (!takes_axis(&desc)) continue;
      on = desk_of(&desc);
      check_empty(&on);
      desk_free(&on);
    }
  }
}

/* Not even the pointers of an empty tensor are due. */
Test(run_arguments, no_samples_no_pointers) {
  axn_desc desc = desk_desc(AXN_BATCH_NORM);
  desc.shape[0] = 0;
  desk on = desk_of(&desc);
  desk_reset(&on);
  on.training.x = on.training.y = NULL;
  desk_accepts(&on, TRAINING, __LINE__);
  desk_reset(&on);
  on.inference.x = on.inference.y = NULL;
  desk_accepts(&on, INFERENCE, __LINE__);
  desk_reset(&on);
  on.backward.x = on.backward.grad_y = on.backward.grad_x = NULL;
  desk_accepts(&on, BACKWARD, __LINE__);
  desk_free(&on);
}
