/* SPDX-License-Identifier: MIT */
/* The header comes first and alone: it needs nothing before it. Then what it pins. */
#include <axisnorm/axisnorm.h>

#include <criterion/criterion.h>
#include <stdio.h>

Test(public_header, version) {
  char text[32];
  snprintf(text, sizeof text, "%d.%d.%d", AXN_VERSION_MAJOR, AXN_VERSION_MINOR, AXN_VERSION_PATCH);
  cr_assert_str_eq(text, MESON_PROJECT_VERSION);
  cr_assert_str_eq(axn_version(), MESON_PROJECT_VERSION);
}

/* The numbers are the ABI. */
Test(public_header, status_numbers) {
  const int pinned[] = {AXN_OK,
                        AXN_ERROR_NULL,
                        AXN_ERROR_STRUCT_SIZE,
                        AXN_ERROR_OPTION,
                        AXN_ERROR_SHAPE,
                        AXN_ERROR_OVERFLOW,
                        AXN_ERROR_GROUPS,
                        AXN_ERROR_AXIS,
                        AXN_ERROR_EPSILON,
                        AXN_ERROR_MOMENTUM,
                        AXN_ERROR_THREADS,
                        AXN_ERROR_ISA,
                        AXN_ERROR_MEMORY,
                        AXN_ERROR_TOO_FEW_VALUES,
                        AXN_ERROR_WORKSPACE,
                        AXN_ERROR_ALIGNMENT,
                        AXN_ERROR_OVERLAP,
                        AXN_ERROR_STATISTICS,
                        AXN_ERROR_STRATEGY,
                        AXN_ERROR_STRIDES};
  for (int i = 0; i < (int)(sizeof pinned / sizeof pinned[0]); i++) cr_assert(pinned[i] == i);
}

Test(public_header, option_numbers) {
  cr_assert(AXN_BATCH_NORM == 1 && AXN_LAYER_NORM == 2);
  cr_assert(AXN_INSTANCE_NORM == 3 && AXN_GROUP_NORM == 4);
  cr_assert(AXN_RMS_NORM == 5 && AXN_POSITIONAL_NORM == 6 && AXN_GHOST_BATCH_NORM == 7);
  cr_assert(AXN_RUNNING_NONE == 0 && AXN_RUNNING_AVERAGED == 1 && AXN_RUNNING_IN_TURN == 2);
  cr_assert(AXN_FLOAT32 == 1);
  cr_assert(AXN_CHANNELS_FIRST == 1 && AXN_CHANNELS_LAST == 2);
  cr_assert(AXN_PARAMETERS_PER_CHANNEL == 1 && AXN_PARAMETERS_PER_ELEMENT == 2);
  cr_assert(AXN_RUNNING_VARIANCE_UNBIASED == 1 && AXN_RUNNING_VARIANCE_BIASED == 2);
  cr_assert(AXN_ISA_AUTO == 0 && AXN_ISA_BASELINE == 1 && AXN_ISA_AVX2 == 2);
  cr_assert(AXN_ISA_AVX512 == 3 && AXN_ISA_NEON == 4);
}

Test(public_header, defaults) {
  axn_desc desc = axn_desc_init();
  cr_assert(desc.struct_size == sizeof desc);
  cr_assert(desc.norm == AXN_BATCH_NORM && desc.dtype == AXN_FLOAT32);
  cr_assert(desc.layout == AXN_CHANNELS_FIRST && desc.rank == 0);
  for (int k = 0; k < AXN_MAX_RANK; k++) {
    cr_assert(desc.shape[k] == 0 && desc.x_strides[k] == 0 && desc.y_strides[k] == 0);
  }
  cr_assert(desc.groups == 0 && desc.axis == 1);
  cr_assert(desc.parameters == AXN_PARAMETERS_PER_CHANNEL);
  cr_assert(desc.epsilon == 1e-5 && desc.momentum == 0.1);
  cr_assert(desc.running_variance == AXN_RUNNING_VARIANCE_UNBIASED);
  cr_assert(desc.isa == AXN_ISA_AUTO && desc.threads == 0);
  cr_assert(!desc.parallel_for && !desc.parallel_context);
}

Test(public_header, arguments_start_empty) {
  axn_plan_info info = axn_plan_info_init();
  axn_training_args training = axn_training_init();
  axn_inference_args inference = axn_inference_init();
  axn_backward_args backward = axn_backward_init();
  cr_assert(info.struct_size == sizeof info && info.elements == 0 && info.backward_workspace == 0);
  cr_assert(training.struct_size == sizeof training);
  cr_assert(!training.x && !training.y && !training.scale && !training.shift);
  cr_assert(!training.mean && !training.rstd && !training.running_mean);
  cr_assert(!training.running_variance && !training.batch_count && !training.workspace);
  cr_assert(training.workspace_size == 0 && training.threads == 0);
  cr_assert(inference.struct_size == sizeof inference);
  cr_assert(!inference.x && !inference.y && !inference.scale && !inference.shift);
  cr_assert(!inference.running_mean && !inference.running_variance && !inference.workspace);
  cr_assert(inference.workspace_size == 0 && inference.threads == 0);
  cr_assert(backward.struct_size == sizeof backward);
  cr_assert(!backward.x && !backward.grad_y && !backward.scale && !backward.mean);
  cr_assert(!backward.rstd && !backward.running_mean && !backward.running_variance);
  cr_assert(!backward.grad_x && !backward.grad_scale && !backward.grad_shift);
  cr_assert(!backward.workspace && backward.workspace_size == 0 && backward.threads == 0);
}
