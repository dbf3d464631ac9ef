/* SPDX-License-Identifier: MIT */
/* NaN and infinity reach the outputs of their own statistic and nothing else, not by one bit. */
#include "check.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static const int64_t SHAPE[5] = {3, 6, 5, 7, 2};

static void check_element(const rig *self, const char *what, int64_t at, int bad, float got,
                          float clean) {
  if (bad) {
    cr_assert(isnan(got), "%s: %s[%" PRId64 "] is %g, not NaN", desc_text(&self->desc), what, at,
              (double)got);
  } else {
    cr_assert(got == clean, "%s: %s[%" PRId64 "] is %a, without the NaN it is %a",
              desc_text(&self->desc), what, at, (double)got, (double)clean);
  }
}

static void check_statistics_of(const rig *dirty, const rig *clean, int64_t statistic) {
  for (int64_t s = 0; s < dirty->sizes.statistics; s++) {
    if (s == statistic) {
      int right = knows_mean(&dirty->desc) ? !isfinite(dirty->mean[s]) : dirty->mean[s] == 0.0f;
      cr_assert(right, "%s: mean %g", desc_text(&dirty->desc), (double)dirty->mean[s]);
      cr_assert(isnan(dirty->rstd[s]), "%s: rstd %g", desc_text(&dirty->desc),
                (double)dirty->rstd[s]);
    } else {
      cr_assert(dirty->mean[s] == clean->mean[s], "%s: another mean", desc_text(&dirty->desc));
      cr_assert(dirty->rstd[s] == clean->rstd[s], "%s: another rstd", desc_text(&dirty->desc));
    }
  }
}

static void check_running_of(const rig *dirty, const rig *clean, int64_t channel) {
  for (int64_t c = 0; dirty->running_mean && c < dirty->sizes.running; c++) {
    int bad = c == channel;
    if (bad) cr_assert(!isfinite(dirty->running_mean[c]));
    if (!bad) cr_assert(dirty->running_mean[c] == clean->running_mean[c]);
    check_element(dirty, "running_variance", c, bad, dirty->running_variance[c],
                  clean->running_variance[c]);
  }
}

/* Two runs that differ in one element of x. */
static void check_poison(const axn_desc *desc, unsigned has, float poison, int64_t at,
                         uint64_t seed) {
  rig clean = rig_make(desc, has, DATA_STANDARD, seed);
  rig dirty = rig_make(desc, has, DATA_STANDARD, seed);
  int64_t statistic = dirty.sizes.statistic_of[at];
  dirty.x[at] = poison;
  rig_train(&clean);
  rig_train(&dirty);
  check_statistics_of(&dirty, &clean, statistic);
  check_running_of(&dirty, &clean, dirty.sizes.channel_of[at]);
  for (int64_t e = 0; e < dirty.sizes.elements; e++) {
    check_element(&dirty, "y", e, dirty.sizes.statistic_of[e] == statistic, dirty.y[e], clean.y[e]);
  }
  rig_backward(&clean);
  rig_backward(&dirty);
  for (int64_t e = 0; e < dirty.sizes.elements; e++) {
    check_element(&dirty, "grad_x", e, dirty.sizes.statistic_of[e] == statistic, dirty.grad_x[e],
                  clean.grad_x[e]);
  }
  check_same(&dirty, "grad_shift", dirty.sizes.parameters, dirty.grad_shift, clean.grad_shift);
  rig_free(&clean);
  rig_free(&dirty);
}

static void check_every_poison(const axn_desc *desc, unsigned has, uint64_t seed) {
  const float poisons[] = {NAN, INFINITY, -INFINITY};
  randoms source = randoms_from(seed);
  int64_t elements = 1;
  for (int k = 0; k < desc->rank; k++) elements *= desc->shape[k];
  for (int i = 0; i < 3; i++) {
    int64_t at = random_between(&source, 0, elements - 1);
    check_poison(desc, has, poisons[i], at, seed);
  }
  check_poison(desc, has, NAN, elements - 1, seed);
  check_poison(desc, has, INFINITY, 0, seed);
}

Test(nonfinite, every_norm) {
  uint64_t seed = test_seed(401);
  axn_desc desc;
  for (int i = 0; listed_desc(i, SHAPE, &desc); i++) {
    if (values_of(&desc) == 1) continue;
    check_every_poison(&desc, RIG_PLAIN, seed + (uint64_t)i);
    check_every_poison(&desc, RIG_ALL, seed + (uint64_t)i);
  }
}

Test(nonfinite, random_shapes) {
  uint64_t seed = test_seed(402);
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    if (desc.momentum == 0.0) desc.momentum = 0.5; /* 0 * infinity is another matter */
    if (values_of(&desc) > 1) check_every_poison(&desc, RIG_ALL, random_bits(&source));
  }
}

Test(nonfinite, long_statistics) {
  uint64_t seed = test_seed(403);
  axn_desc descs[] = {desc_of(AXN_BATCH_NORM, 3, 4, 211, 97, 0),
                      desc_of(AXN_LAYER_NORM, 3, 40001, 0, 0, 0),
                      desc_of(AXN_BATCH_NORM, 20001, 5, 0, 0, 0),
                      desc_of(AXN_RMS_NORM, 3, 40001, 0, 0, 0),
                      desc_of(AXN_POSITIONAL_NORM, 2, 4001, 3, 5, 0),
                      desc_of(AXN_GHOST_BATCH_NORM, 6, 4, 211, 97, 0)};
  for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++)
    check_every_poison(&descs[i], RIG_PLAIN, seed);
}

/* One value per statistic that is infinite or NaN: still its own output only. */
Test(nonfinite, one_value_per_statistic) {
  axn_desc descs[] = {desc_of(AXN_LAYER_NORM, 40, 1, 0, 0, 0),
                      desc_of(AXN_RMS_NORM, 40, 1, 0, 0, 0),
                      desc_of(AXN_POSITIONAL_NORM, 4, 1, 5, 3, 0)};
  for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
    check_every_poison(&descs[i], RIG_PLAIN, test_seed(404));
  }
}

/* From running statistics each element is alone. */
Test(nonfinite, inference_from_running_statistics) {
  axn_desc desc = desc_of(AXN_BATCH_NORM, 3, 5, 37, 0, 0);
  rig clean = rig_make(&desc, RIG_ALL, DATA_STANDARD, 405);
  rig dirty = rig_make(&desc, RIG_ALL, DATA_STANDARD, 405);
  dirty.x[77] = NAN;
  dirty.x[200] = INFINITY;
  rig_infer(&clean);
  rig_infer(&dirty);
  for (int64_t e = 0; e < dirty.sizes.elements; e++) {
    if (e != 200) check_element(&dirty, "y", e, e == 77, dirty.y[e], clean.y[e]);
  }
  cr_assert(isinf(dirty.y[200]));
  rig_free(&clean);
  rig_free(&dirty);
}

/* NaN in grad_y: grad_x of its statistic, and its own parameter. */
Test(nonfinite, grad_y) {
  axn_desc desc;
  for (int i = 0; listed_desc(i, SHAPE, &desc); i++) {
    rig clean = rig_make(&desc, RIG_SCALE, DATA_STANDARD, 406);
    rig dirty = rig_make(&desc, RIG_SCALE, DATA_STANDARD, 406);
    int64_t at = dirty.sizes.elements / 3;
    dirty.grad_y[at] = NAN;
    rig_train(&clean);
    rig_train(&dirty);
    rig_backward(&clean);
    rig_backward(&dirty);
    const oracle *sizes = &dirty.sizes;
    for (int64_t e = 0; e < sizes->elements; e++) {
      int bad = sizes->statistic_of[e] == sizes->statistic_of[at];
      check_element(&dirty, "grad_x", e, bad, dirty.grad_x[e], clean.grad_x[e]);
    }
    for (int64_t p = 0; p < sizes->parameters; p++) {
      int bad = p == sizes->parameter_of[at];
      check_element(&dirty, "grad_scale", p, bad, dirty.grad_scale[p], clean.grad_scale[p]);
      check_element(&dirty, "grad_shift", p, bad, dirty.grad_shift[p], clean.grad_shift[p]);
    }
    rig_free(&clean);
    rig_free(&dirty);
  }
}

/* A running variance that is none: its own channel, in inference and backward. */
Test(nonfinite, running_variance) {
  const float wrong[] = {-1, NAN, -INFINITY};
  enum { CHANNEL = 2 };
  for (int i = 0; i < 6; i++) {
    axn_desc desc = desc_of(AXN_BATCH_NORM, 3, 5, 37, 3, 0);
    desc.layout = i % 2 == 0 ? AXN_CHANNELS_FIRST : AXN_CHANNELS_LAST;
    rig clean = rig_make(&desc, RIG_ALL, DATA_STANDARD, 407);
    rig dirty = rig_make(&desc, RIG_ALL, DATA_STANDARD, 407);
    dirty.running_variance[CHANNEL] = wrong[i / 2];
    rig_infer(&clean);
    rig_infer(&dirty);
    rig_backward_frozen(&clean);
    rig_backward_frozen(&dirty);
    for (int64_t e = 0; e < dirty.sizes.elements; e++) {
      const int bad = dirty.sizes.channel_of[e] == CHANNEL;
      check_element(&dirty, "y", e, bad, dirty.y[e], clean.y[e]);
      check_element(&dirty, "grad_x", e, bad, dirty.grad_x[e], clean.grad_x[e]);
    }
    rig_free(&clean);
    rig_free(&dirty);
  }
}
