/* SPDX-License-Identifier: MIT */
/* Every bad argument of the functions that make, describe and name things. */
#include "cases.h"
#include "loops.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static axn_desc good(axn_norm norm) {
  axn_desc desc = desc_of(norm, 4, 6, 5, 7, 0);
  if (norm == AXN_GROUP_NORM) desc.groups = 3;
  return desc;
}

/* One line, ended, with the field's name in it. */
static void check_message(const axn_error *error, axn_status status, const char *field) {
  cr_assert(error->status == status, "%s: error.status is %d, the call returned %d", field,
            (int)error->status, (int)status);
  cr_assert(memchr(error->message, 0, sizeof error->message), "%s: message without end", field);
  cr_assert(strstr(error->message, field), "the message does not name '%s': %s", field,
            error->message);
  cr_assert(!strchr(error->message, '\n'), "%s: the message has a line end", field);
}

static void check_refused(const axn_desc *desc, axn_status expected, const char *field) {
  axn_error error;
  axn_plan *const pattern = (axn_plan *)(void *)&error;
  memset(&error, 0x5a, sizeof error);
  axn_plan *plan = pattern;
  axn_status status = axn_plan_create(&plan, desc, &error);
  cr_assert(status == expected, "%s: status %d (%s), not %d", field, (int)status,
            status ? error.message : "", (int)expected);
  cr_assert_null(plan, "%s: *plan is not null after an error", field);
  check_message(&error, expected, field);
  plan = pattern;
  cr_assert(axn_plan_create(&plan, desc, NULL) == expected, "%s: without error", field);
  cr_assert_null(plan);
}

static void check_accepted(const axn_desc *desc) {
  axn_plan *plan = NULL;
  axn_error error = {AXN_OK, ""};
  axn_status status = axn_plan_create(&plan, desc, &error);
  cr_assert(status == AXN_OK, "%s: %s", desc_text(desc), error.message);
  cr_assert_not_null(plan);
  axn_plan_destroy(plan);
}

/* ---- null and the struct's size ---- */

Test(plan_arguments, null) {
  axn_desc desc = good(AXN_BATCH_NORM);
  axn_error error;
  check_refused(NULL, AXN_ERROR_NULL, "desc");
  cr_assert(axn_plan_create(NULL, &desc, &error) == AXN_ERROR_NULL);
  check_message(&error, AXN_ERROR_NULL, "plan");
  cr_assert(axn_plan_create(NULL, &desc, NULL) == AXN_ERROR_NULL);
  axn_plan_destroy(NULL);
}

Test(plan_arguments, struct_size) {
  axn_desc desc = good(AXN_BATCH_NORM);
  const size_t sizes[] = {0, 1, sizeof(axn_desc) - 1, sizeof(axn_desc) - sizeof(void *)};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    desc.struct_size = sizes[i];
    check_refused(&desc, AXN_ERROR_STRUCT_SIZE, "struct_size");
  }
}

/* A newer header's struct: fields that this library does not know must be at their default, 0. */
Test(plan_arguments, struct_of_a_newer_header) {
  struct newer {
    axn_desc desc;
    unsigned char more[32];
  } newer;
  memset(&newer, 0, sizeof newer);
  newer.desc = good(AXN_BATCH_NORM);
  newer.desc.struct_size = sizeof newer;
  check_accepted(&newer.desc);
  for (size_t i = 0; i < sizeof newer.more; i += 31) {
    newer.more[i] = 1;
    check_refused(&newer.desc, AXN_ERROR_STRUCT_SIZE, "desc");
    newer.more[i] = 0;
  }
}

/* ---- options ---- */

static void check_options(const axn_desc *plain) {
  const int unknown[] = {-1, 0, 8, 1000};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    axn_desc desc = *plain;
    desc.norm = (axn_norm)unknown[i];
    check_refused(&desc, AXN_ERROR_OPTION, "norm");
    desc = *plain;
    desc.dtype = (axn_dtype)unknown[i];
    check_refused(&desc, AXN_ERROR_OPTION, "dtype");
    desc = *plain;
    desc.layout = (axn_layout)unknown[i];
    check_refused(&desc, AXN_ERROR_OPTION, "layout");
    desc = *plain;
    desc.parameters = (axn_parameters)unknown[i];
    check_refused(&desc, AXN_ERROR_OPTION, "parameters");
    desc = *plain;
    desc.running_variance = (axn_running_variance)unknown[i];
    check_refused(&desc, AXN_ERROR_OPTION, "running_variance");
    desc = *plain;
    desc.cold_outputs = unknown[i] == 0 ? 2 : unknown[i];
    check_refused(&desc, AXN_ERROR_OPTION, "cold_outputs");
  }
}

Test(plan_arguments, unknown_options) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = good((axn_norm)norm);
    check_accepted(&desc);
    check_options(&desc);
  }
}

Test(plan_arguments, parameters_per_element_are_for_layer_and_rms_only) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = good((axn_norm)norm);
    desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
    if (takes_axis(&desc)) check_accepted(&desc);
    if (!takes_axis(&desc)) check_refused(&desc, AXN_ERROR_OPTION, "parameters");
  }
}

Test(plan_arguments, isa) {
  axn_desc desc = good(AXN_BATCH_NORM);
  for (int isa = AXN_ISA_BASELINE; isa <= AXN_ISA_NEON; isa++) {
    desc.isa = (axn_isa)isa;
    if (axn_isa_available(desc.isa)) check_accepted(&desc);
    if (!axn_isa_available(desc.isa)) check_refused(&desc, AXN_ERROR_ISA, "isa");
  }
  cr_assert(!axn_isa_available(AXN_ISA_AVX2) || !axn_isa_available(AXN_ISA_NEON));
}

Test(plan_arguments, unknown_isa) {
  axn_desc desc = good(AXN_BATCH_NORM);
  const int unknown[] = {-1, 5, 1000};
  for (size_t i = 0; i < 3; i++) {
    axn_plan *plan = NULL;
    axn_error error = {AXN_OK, ""};
    desc.isa = (axn_isa)unknown[i];
    axn_status status = axn_plan_create(&plan, &desc, &error);
    cr_assert(status == AXN_ERROR_OPTION || status == AXN_ERROR_ISA);
    check_message(&error, status, "isa");
    char number[16];
    snprintf(number, sizeof number, "%d is", unknown[i]);
    cr_expect_not_null(strstr(error.message, number), "%s", error.message);
  }
}

/* ---- shape ---- */

Test(plan_arguments, rank) {
  const int ranks[] = {-1, 0, 1, 6, 8, 9, 1000};
  for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
    axn_desc desc = good(AXN_LAYER_NORM);
    for (int k = 0; k < AXN_MAX_RANK; k++) desc.shape[k] = 2;
    desc.rank = ranks[i];
    check_refused(&desc, AXN_ERROR_SHAPE, "rank");
  }
}

Test(plan_arguments, extents) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    for (int k = 0; k < 4; k++) {
      char field[32];
      snprintf(field, sizeof field, "shape[%d]", k);
      axn_desc desc = good((axn_norm)norm);
      const int64_t extents[] = {-1, INT64_MIN, 0};
      for (int i = 0; i < (k == 0 ? 2 : 3); i++) { /* N may be 0 */
        desc.shape[k] = extents[i];
        check_refused(&desc, AXN_ERROR_SHAPE, field);
      }
    }
  }
}

Test(plan_arguments, extents_after_the_rank_are_not_read) {
  axn_desc desc = good(AXN_BATCH_NORM);
  desc.shape[4] = -7;
  desc.shape[7] = INT64_MAX;
  check_accepted(&desc);
}

Test(plan_arguments, sizes_that_overflow) {
  const int64_t big = INT64_C(1) << 32;
  const int64_t shapes[][4] = {
      {INT64_MAX, 1, 2, 1},     {1, INT64_MAX, 1, 2}, {1, 1, INT64_MAX, INT64_MAX},
      {big, big, 1, 1},         {1, big, big, 1},     {big, 2, big, 1},
      {3, INT64_MAX / 2, 1, 1}, {INT64_MAX, 1, 1, 1}, /* elements fit, bytes do not */
      {1, 1, 1, INT64_MAX / 2},
  };
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
      axn_desc desc = make_desc((axn_norm)norm, 4, shapes[i]);
      check_refused(&desc, AXN_ERROR_OVERFLOW, "shape");
    }
  }
}

/* N = 0 does not hide that the rest overflows, nor divide by it. */
Test(plan_arguments, no_samples) {
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = good((axn_norm)norm);
    desc.shape[0] = 0;
    check_accepted(&desc);
  }
}

/* ---- groups, ghost_batch, axis ---- */

Test(plan_arguments, ghost_batch) {
  const int64_t wrong[] = {0, -1, -4, 3, 5, 8, INT64_MAX, INT64_MIN};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    axn_desc desc = good(AXN_GHOST_BATCH_NORM);
    desc.ghost_batch = wrong[i];
    check_refused(&desc, AXN_ERROR_GROUPS, "ghost_batch");
    desc = good(AXN_BATCH_NORM); /* not looked at */
    desc.ghost_batch = wrong[i];
    check_accepted(&desc);
  }
  for (int64_t right = 1; right <= 4; right *= 2) {
    axn_desc desc = good(AXN_GHOST_BATCH_NORM);
    desc.ghost_batch = right;
    check_accepted(&desc);
  }
}
/* Where N itself is normalized, an empty batch has no elements that a parameter could belong to. */
Test(plan_arguments, no_samples_no_parameters) {
  axn_desc desc = good(AXN_LAYER_NORM);
  desc.shape[0] = 0;
  desc.axis = 0;
  desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
  axn_plan *plan;
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  axn_plan_info info = axn_plan_info_init();
  cr_expect(axn_plan_describe(plan, &info, NULL) == AXN_OK);
  cr_expect(info.parameters == 0, "%d parameters", (int)info.parameters);
  axn_plan_destroy(plan);
}

/* ---- groups, axis ---- */

Test(plan_arguments, groups) {
  const int64_t wrong[] = {0, -1, -3, 4, 5, 7, 12, INT64_MAX, INT64_MIN};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    axn_desc desc = good(AXN_GROUP_NORM);
    desc.groups = wrong[i];
    check_refused(&desc, AXN_ERROR_GROUPS, "groups");
  }
  const int64_t right[] = {1, 2, 3, 6};
  for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
    axn_desc desc = good(AXN_GROUP_NORM);
    desc.groups = right[i];
    check_accepted(&desc);
  }
}

Test(plan_arguments, axis) {
  const int wrong[] = {4, 5, -5, 1000, -1000};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    axn_desc desc = good(AXN_LAYER_NORM);
    desc.axis = wrong[i];
    check_refused(&desc, AXN_ERROR_AXIS, "axis");
  }
  for (int axis = -4; axis < 4; axis++) {
    axn_desc desc = good(AXN_LAYER_NORM);
    desc.axis = axis;
    check_accepted(&desc);
  }
}

/* ---- numbers ---- */

Test(plan_arguments, epsilon) {
  const double wrong[] = {0.0, -0.0, -1e-5, NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
      axn_desc desc = good((axn_norm)norm);
      desc.epsilon = wrong[i];
      check_refused(&desc, AXN_ERROR_EPSILON, "epsilon");
    }
  }
}

Test(plan_arguments, momentum) {
  const double wrong[] = {-0.1, 1.0000001, 2.0, -2.0, NAN, INFINITY, -INFINITY, -0.999};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    axn_desc desc = good(AXN_BATCH_NORM);
    desc.momentum = wrong[i];
    check_refused(&desc, AXN_ERROR_MOMENTUM, "momentum");
    desc = good(AXN_INSTANCE_NORM);
    desc.momentum = wrong[i];
    check_refused(&desc, AXN_ERROR_MOMENTUM, "momentum");
  }
  const double right[] = {0.0, 1.0, 0.5, AXN_MOMENTUM_CUMULATIVE};
  for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
    axn_desc desc = good(AXN_BATCH_NORM);
    desc.momentum = right[i];
    check_accepted(&desc);
  }
}

Test(plan_arguments, threads) {
  axn_desc desc = good(AXN_BATCH_NORM);
  desc.threads = -1;
  check_refused(&desc, AXN_ERROR_THREADS, "threads");
  desc.threads = INT32_MIN;
  check_refused(&desc, AXN_ERROR_THREADS, "threads");
  desc.threads = 1000000;
  check_accepted(&desc);
}

/* OpenMP's runtimes crash where they are to start a million; a host is told what was asked for. */
Test(plan_arguments, more_threads_than_there_can_be) {
  for (int hosted = 0; hosted < 2; hosted++) {
    axn_desc desc = desc_of(AXN_LAYER_NORM, 40000, 4, 1, 1, 0);
    axn_plan *plan;
    axn_plan_info info = axn_plan_info_init();
    desc.threads = INT32_MAX;
    desc.parallel_for = hosted ? loop_whole : NULL;
    cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
    cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_OK);
    if (hosted) cr_expect(info.threads == INT32_MAX);
    if (!hosted) cr_expect(info.threads >= 1024 && info.threads < 100000, "%d", info.threads);
    axn_plan_destroy(plan);
  }
}

/* ---- describe ---- */

static axn_plan *made(void) {
  axn_desc desc = good(AXN_BATCH_NORM);
  axn_plan *plan = NULL;
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
  return plan;
}

Test(plan_arguments, describe) {
  axn_plan *plan = made();
  axn_plan_info info = axn_plan_info_init();
  axn_error error;
  cr_assert(axn_plan_describe(NULL, &info, &error) == AXN_ERROR_NULL);
  check_message(&error, AXN_ERROR_NULL, "plan");
  cr_assert(info.elements == 0, "written after an error");
  cr_assert(axn_plan_describe(plan, NULL, &error) == AXN_ERROR_NULL);
  check_message(&error, AXN_ERROR_NULL, "info");
  const size_t sizes[] = {0, 1, sizeof info - 1};
  for (size_t i = 0; i < 3; i++) {
    info = axn_plan_info_init();
    info.struct_size = sizes[i];
    cr_assert(axn_plan_describe(plan, &info, &error) == AXN_ERROR_STRUCT_SIZE);
    check_message(&error, AXN_ERROR_STRUCT_SIZE, "struct_size");
    cr_assert(info.elements == 0, "written after an error");
    cr_assert(axn_plan_describe(plan, &info, NULL) == AXN_ERROR_STRUCT_SIZE);
  }
  axn_plan_destroy(plan);
}

/* The library of an older header leaves what it does not know. */
Test(plan_arguments, describe_for_a_newer_header) {
  struct newer {
    axn_plan_info info;
    unsigned char more[32];
  } newer;
  axn_plan *plan = made();
  memset(&newer, 0, sizeof newer);
  newer.info = axn_plan_info_init();
  newer.info.struct_size = sizeof newer;
  cr_assert(axn_plan_describe(plan, &newer.info, NULL) == AXN_OK);
  cr_assert(newer.info.elements == 4 * 6 * 5 * 7);
  cr_assert(newer.info.struct_size == sizeof newer);
  for (size_t i = 0; i < sizeof newer.more; i++) cr_assert(newer.more[i] == 0);
  axn_plan_destroy(plan);
}

/* ---- texts ---- */

Test(plan_arguments, every_status_has_a_text) {
  for (int status = AXN_OK; status <= AXN_ERROR_STRATEGY; status++) {
    const char *text = axn_status_string((axn_status)status);
    cr_assert(text && strlen(text) > 1, "status %d", status);
    for (int other = 0; other < status; other++) {
      cr_assert_str_neq(text, axn_status_string((axn_status)other));
    }
  }
  const int unknown[] = {-1, AXN_ERROR_STRATEGY + 1, 1000, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    cr_assert_not_null(axn_status_string((axn_status)unknown[i]));
  }
}

Test(plan_arguments, norm_names) {
  cr_assert_str_eq(axn_norm_name(AXN_BATCH_NORM), "batch");
  cr_assert_str_eq(axn_norm_name(AXN_LAYER_NORM), "layer");
  cr_assert_str_eq(axn_norm_name(AXN_INSTANCE_NORM), "instance");
  cr_assert_str_eq(axn_norm_name(AXN_GROUP_NORM), "group");
  cr_assert_str_eq(axn_norm_name(AXN_RMS_NORM), "rms");
  cr_assert_str_eq(axn_norm_name(AXN_POSITIONAL_NORM), "positional");
  cr_assert_str_eq(axn_norm_name(AXN_GHOST_BATCH_NORM), "ghost");
  const int unknown[] = {-1, 0, 8, 1000, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    cr_assert_null(axn_norm_name((axn_norm)unknown[i]));
  }
}
