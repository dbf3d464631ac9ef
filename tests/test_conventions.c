/* SPDX-License-Identifier: MIT */
/* Conversions between conventions, and the defaults of the frameworks as their documentation has
 * them. */
#include "cases.h"

#include <axisnorm/conventions.h>

#include <criterion/criterion.h>
#include <math.h>

Test(conventions, momentum) {
  cr_assert(axn_momentum_of_decay(0.75) == 0.25);
  cr_assert(axn_decay_of_momentum(0.25) == 0.75);
  cr_assert(fabs(axn_momentum_of_decay(0.99) - 0.01) < 1e-15);
}

Test(conventions, variance) {
  cr_assert(axn_unbiased_variance(3.0, 4) == 4.0);
  cr_assert(axn_biased_variance(4.0, 4) == 3.0);
  cr_assert(!isfinite(axn_unbiased_variance(1.0, 1)));
}

Test(conventions, framework_numbers) {
  cr_assert(AXN_FRAMEWORK_PYTORCH == 1 && AXN_FRAMEWORK_KERAS == 2);
  cr_assert(AXN_FRAMEWORK_TENSORFLOW == 3 && AXN_FRAMEWORK_ONNX == 4 && AXN_FRAMEWORK_FLAX == 5);
}

Test(conventions, defaults) {
  static const struct {
    double batch, layer, instance, group, rms, momentum;
    int unbiased;
  } known[] = {{1e-5, 1e-5, 1e-5, 1e-5, 0x1p-23, 0.1, 1},
               {1e-3, 1e-3, 1e-3, 1e-3, 1e-6, 0.01, 0},
               {1e-4, 0, 0, 0, 0, 1, 1},
               {1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 0.1, 0},
               {1e-5, 1e-6, 1e-6, 1e-6, 1e-6, 0.01, 0}};
  for (int i = 0; i < 5; i++) {
    const axn_framework framework = (axn_framework)(i + 1);
    cr_assert(axn_framework_epsilon(framework, AXN_BATCH_NORM) == known[i].batch);
    cr_assert(axn_framework_epsilon(framework, AXN_LAYER_NORM) == known[i].layer);
    cr_assert(axn_framework_epsilon(framework, AXN_INSTANCE_NORM) == known[i].instance);
    cr_assert(axn_framework_epsilon(framework, AXN_GROUP_NORM) == known[i].group);
    cr_assert(axn_framework_rms_epsilon(framework) == known[i].rms);
    cr_assert(axn_framework_momentum(framework) == known[i].momentum);
    cr_assert((axn_framework_running_variance(framework) == AXN_RUNNING_VARIANCE_UNBIASED) ==
              known[i].unbiased);
  }
}

/* What a framework has not, no plan takes. */
Test(conventions, unknown_is_refused) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 4, 3, 2, 2, 0);
  axn_plan *plan;
  for (int framework = 1; framework <= 5; framework++) {
    axn_desc_follow(&desc, (axn_framework)framework);
    cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_OK);
    axn_plan_destroy(plan);
  }
  axn_desc_follow(&desc, (axn_framework)6);
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_ERROR_EPSILON);
  desc.norm = AXN_GROUP_NORM, desc.groups = 3;
  axn_desc_follow(&desc, AXN_FRAMEWORK_TENSORFLOW);
  cr_assert(axn_plan_create(&plan, &desc, NULL) == AXN_ERROR_EPSILON);
  cr_assert(axn_framework_epsilon(AXN_FRAMEWORK_PYTORCH, (axn_norm)9) == 0);
  cr_assert(axn_framework_rms_epsilon((axn_framework)0) == 0);
  cr_assert(axn_framework_momentum((axn_framework)0) == -2);
}

/* The norms that are variants of others follow them, rms its own default; plans take what comes of it. */
Test(conventions, variants_follow) {
  static const axn_norm norms[][2] = {{AXN_GHOST_BATCH_NORM, AXN_BATCH_NORM},
                                      {AXN_POSITIONAL_NORM, AXN_LAYER_NORM}};
  for (int f = AXN_FRAMEWORK_PYTORCH; f <= AXN_FRAMEWORK_FLAX; f++) {
    const axn_framework framework = (axn_framework)f;
    for (int i = 0; i < 2; i++) {
      cr_assert(axn_framework_epsilon(framework, norms[i][0]) ==
                axn_framework_epsilon(framework, norms[i][1]));
    }
    axn_desc desc = axn_desc_init();
    desc.norm = AXN_RMS_NORM;
    axn_desc_follow(&desc, framework);
    cr_assert(desc.epsilon == axn_framework_rms_epsilon(framework));
  }
}
