/* SPDX-License-Identifier: MIT */
/* Every instruction set that this machine runs gives the bits of the baseline. */
#define _POSIX_C_SOURCE 200112L /* setenv */

#include "check.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_pair(rig *a, rig *b) {
  rig_train(a);
  rig_train(b);
  check_same(a, "y", a->sizes.elements, a->y, b->y);
  check_same(a, "mean", a->sizes.statistics, a->mean, b->mean);
  check_same(a, "rstd", a->sizes.statistics, a->rstd, b->rstd);
  if (a->running_mean) {
    check_same(a, "running_mean", a->sizes.running, a->running_mean, b->running_mean);
    check_same(a, "running_variance", a->sizes.running, a->running_variance, b->running_variance);
  }
  rig_backward(a);
  rig_backward(b);
  check_same(a, "grad_x", a->sizes.elements, a->grad_x, b->grad_x);
  check_same(a, "grad_scale", a->sizes.parameters, a->grad_scale, b->grad_scale);
  check_same(a, "grad_shift", a->sizes.parameters, a->grad_shift, b->grad_shift);
  if (!a->running_mean) return;
  rig_infer(a);
  rig_infer(b);
  check_same(a, "y in inference", a->sizes.elements, a->y, b->y);
  rig_backward_frozen(a);
  rig_backward_frozen(b);
  check_same(a, "frozen grad_x", a->sizes.elements, a->grad_x, b->grad_x);
  check_same(a, "frozen grad_scale", a->sizes.parameters, a->grad_scale, b->grad_scale);
}

static void check_desc(axn_desc desc, axn_isa isa, unsigned has, data_spec data, uint64_t seed) {
  desc.isa = AXN_ISA_BASELINE;
  rig baseline = rig_make(&desc, has, data, seed);
  cr_assert(baseline.info.isa == AXN_ISA_BASELINE);
  desc.isa = isa;
  rig self = rig_twin(&baseline, &desc);
  cr_assert(self.info.isa == isa, "%s: the plan has isa %d", desc_text(&desc), (int)self.info.isa);
  check_pair(&self, &baseline);
  rig_free(&self);
  rig_free(&baseline);
}

static void check_isa(axn_isa isa, uint64_t own) {
  const char *name = axn_isa_name(isa);
  if (!axn_isa_available(isa)) {
    fprintf(stderr, "%s: not on this machine\n", name);
    return;
  }
  uint64_t seed = test_seed(own);
  for (uint64_t i = 0; i < 400; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, i % 20 ? 6000 : 200000);
    unsigned has = (unsigned)random_between(&source, 0, RIG_ALL);
    data_spec data = random_data(&source);
    check_desc(desc, isa, has, data, random_bits(&source));
  }
  const data_spec extremes[] = {{DATA_MIXED, 0.0, 3.4e38}, {DATA_NORMAL, 0.0, 1e30},
                                {DATA_NORMAL, 1e6, 1.0},   {DATA_NORMAL, 0.0, 1e-39},
                                {DATA_CONSTANT, 0.1, 0.0}, {DATA_NORMAL, 0.0, 1e-25}};
  for (size_t d = 0; d < sizeof extremes / sizeof extremes[0]; d++) {
    for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
      axn_desc desc = desc_of((axn_norm)norm, 5, 6, 37, 3, 0);
      check_desc(desc, isa, RIG_ALL, extremes[d], seed);
    }
  }
}

Test(isa, avx2) {
  check_isa(AXN_ISA_AVX2, 601);
}
Test(isa, avx512) {
  check_isa(AXN_ISA_AVX512, 602);
}
Test(isa, neon) {
  check_isa(AXN_ISA_NEON, 603);
}

Test(isa, every_way_through_the_engine) {
  for (int isa = AXN_ISA_AVX2; isa <= AXN_ISA_NEON; isa++) {
    axn_desc desc;
    for (size_t i = 0; axn_isa_available((axn_isa)isa) && reaching_desc(i, &desc); i++) {
      check_desc(desc, (axn_isa)isa, RIG_ALL, DATA_STANDARD, 607);
    }
  }
}

/* Every length around the vectors' widths, for rows and for columns. */
Test(isa, every_length) {
  for (int isa = AXN_ISA_AVX2; isa <= AXN_ISA_NEON; isa++) {
    for (int64_t n = 2; axn_isa_available((axn_isa)isa) && n <= 130; n++) {
      check_desc(desc_of(AXN_LAYER_NORM, 3, n, 0, 0, 0), (axn_isa)isa, RIG_ALL, DATA_STANDARD, 604);
      check_desc(desc_of(AXN_BATCH_NORM, 5, n, 0, 0, 0), (axn_isa)isa, RIG_ALL, DATA_STANDARD, 605);
      check_desc(desc_of(AXN_INSTANCE_NORM, 2, 2, n, 0, 0), (axn_isa)isa, RIG_ALL, DATA_STANDARD,
                 606);
      check_desc(desc_of(AXN_RMS_NORM, 3, n, 0, 0, 0), (axn_isa)isa, RIG_ALL, DATA_STANDARD, 608);
      check_desc(desc_of(AXN_POSITIONAL_NORM, 2, 5, n, 0, 0), (axn_isa)isa, RIG_ALL, DATA_STANDARD,
                 609);
    }
  }
}

Test(isa, automatic_is_an_available_one) {
  unsetenv("AXISNORM_ISA");
  axn_desc desc = desc_of(AXN_BATCH_NORM, 5, 6, 37, 0, 0);
  rig self = rig_make(&desc, RIG_ALL, DATA_STANDARD, 607);
  cr_assert(self.info.isa != AXN_ISA_AUTO);
  cr_assert(axn_isa_available(self.info.isa));
  rig_free(&self);
}

Test(isa, baseline_is_always_available) {
  cr_assert(axn_isa_available(AXN_ISA_BASELINE) == 1);
  cr_assert(axn_isa_available((axn_isa)77) == 0);
  cr_assert(axn_isa_available((axn_isa)-1) == 0);
}

Test(isa, names) {
  cr_assert_str_eq(axn_isa_name(AXN_ISA_BASELINE), "baseline");
  cr_assert_str_eq(axn_isa_name(AXN_ISA_AVX2), "avx2");
  cr_assert_str_eq(axn_isa_name(AXN_ISA_AVX512), "avx512");
  cr_assert_str_eq(axn_isa_name(AXN_ISA_NEON), "neon");
  cr_assert_null(axn_isa_name((axn_isa)5));
  cr_assert_null(axn_isa_name((axn_isa)-1));
}

/* ---- the environment's AXISNORM_ISA: one process each, it may be read once ---- */

static void check_environment(axn_isa isa) {
  if (!axn_isa_available(isa)) return;
  setenv("AXISNORM_ISA", axn_isa_name(isa), 1);
  axn_desc desc = desc_of(AXN_BATCH_NORM, 5, 6, 37, 0, 0);
  rig self = rig_make(&desc, RIG_ALL, DATA_STANDARD, 608);
  cr_assert(self.info.isa == isa, "AXISNORM_ISA=%s gave %d", axn_isa_name(isa), (int)self.info.isa);
  rig_free(&self);
  desc.isa = AXN_ISA_BASELINE; /* the descriptor's own choice comes first */
  self = rig_make(&desc, RIG_ALL, DATA_STANDARD, 608);
  cr_assert(self.info.isa == AXN_ISA_BASELINE);
  rig_free(&self);
}

Test(isa, environment_baseline) {
  check_environment(AXN_ISA_BASELINE);
}
Test(isa, environment_avx2) {
  check_environment(AXN_ISA_AVX2);
}
Test(isa, environment_avx512) {
  check_environment(AXN_ISA_AVX512);
}
Test(isa, environment_neon) {
  check_environment(AXN_ISA_NEON);
}
