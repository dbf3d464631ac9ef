/* SPDX-License-Identifier: MIT */
/* What must hold between runs: equal norms, invariances, a sample alone and in a batch, in place.
 */
#include "check.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t SHAPE[5] = {4, 6, 5, 7, 3};

static void copy_inputs(rig *to, const rig *from, int64_t first) {
  size_t size = sizeof(float);
  memcpy(to->x, from->x + first, (size_t)to->sizes.elements * size);
  memcpy(to->grad_y, from->grad_y + first, (size_t)to->sizes.elements * size);
  if (from->scale) memcpy(to->scale, from->scale, (size_t)to->sizes.parameters * size);
  if (from->shift) memcpy(to->shift, from->shift, (size_t)to->sizes.parameters * size);
}

static void train_and_backward(rig *self) {
  rig_train(self);
  rig_backward(self);
}

static void check_same_elements(const rig *part, const rig *whole, int64_t sample) {
  int64_t element = sample * part->sizes.elements;
  int64_t statistic = sample * part->sizes.statistics;
  check_same(part, "y", part->sizes.elements, part->y, whole->y + element);
  check_same(part, "mean", part->sizes.statistics, part->mean, whole->mean + statistic);
  check_same(part, "rstd", part->sizes.statistics, part->rstd, whole->rstd + statistic);
  check_same(part, "grad_x", part->sizes.elements, part->grad_x, whole->grad_x + element);
}

static void check_same_runs(const rig *one, const rig *other) {
  check_same_elements(one, other, 0);
  check_same(one, "grad_scale", one->sizes.parameters, one->grad_scale, other->grad_scale);
  check_same(one, "grad_shift", one->sizes.parameters, one->grad_shift, other->grad_shift);
}

/* ---- one norm as a case of another ---- */

static void check_equal_norms(const axn_desc *one, const axn_desc *other, uint64_t seed) {
  unsigned has = seed % 2 ? RIG_SCALE | RIG_SHIFT : RIG_PLAIN;
  rig a = rig_make(one, has, DATA_STANDARD, seed);
  rig b = rig_make(other, has, DATA_STANDARD, seed);
  train_and_backward(&a);
  train_and_backward(&b);
  check_same_runs(&a, &b);
  rig_free(&a);
  rig_free(&b);
}

static axn_desc as_norm(axn_desc desc, axn_norm norm, int64_t groups) {
  desc.norm = norm;
  desc.groups = groups;
  desc.axis = 1;
  desc.parameters = AXN_PARAMETERS_PER_CHANNEL;
  return desc;
}

static void check_group_of_all(const axn_desc *desc, uint64_t seed) {
  axn_desc group = as_norm(*desc, AXN_GROUP_NORM, 1);
  axn_desc layer = as_norm(*desc, AXN_LAYER_NORM, 0);
  check_equal_norms(&group, &layer, seed);
}

static void check_group_of_one(const axn_desc *desc, uint64_t seed) {
  axn_desc group = as_norm(*desc, AXN_GROUP_NORM, desc->shape[1]);
  axn_desc instance = as_norm(*desc, AXN_INSTANCE_NORM, 0);
  if (values_of(&instance) > 1) check_equal_norms(&group, &instance, seed);
}

static void check_batch_of_one(const axn_desc *desc, uint64_t seed) {
  axn_desc batch = as_norm(*desc, AXN_BATCH_NORM, 0);
  batch.shape[0] = 1;
  axn_desc instance = as_norm(batch, AXN_INSTANCE_NORM, 0);
  if (values_of(&batch) < 2) return;
  check_equal_norms(&batch, &instance, seed);
  rig a = rig_make(&batch, RIG_ALL, DATA_STANDARD, seed);
  rig b = rig_make(&instance, RIG_ALL, DATA_STANDARD, seed);
  rig_train(&a);
  rig_train(&b);
  check_same(&a, "running_mean", a.sizes.running, a.running_mean, b.running_mean);
  check_same(&a, "running_variance", a.sizes.running, a.running_variance, b.running_variance);
  rig_free(&a);
  rig_free(&b);
}

Test(properties, group_of_all_channels_is_layer) {
  uint64_t seed = test_seed(301);
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    check_group_of_all(&desc, random_bits(&source));
  }
}

Test(properties, group_of_one_channel_is_instance) {
  uint64_t seed = test_seed(302);
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    check_group_of_one(&desc, random_bits(&source));
  }
}

Test(properties, batch_of_one_sample_is_instance) {
  uint64_t seed = test_seed(303);
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    check_batch_of_one(&desc, random_bits(&source));
  }
}

/* ---- ghost batches are batches ---- */

static axn_desc as_ghost(axn_desc desc, int64_t ghost_batch) {
  desc = as_norm(desc, AXN_GHOST_BATCH_NORM, 0);
  desc.ghost_batch = ghost_batch;
  return desc;
}

/* Batches after each other round their running statistics once each, ghost batches once in all. */
static void check_near_running(const rig *ghost, const rig *batch) {
  float *const got[] = {ghost->running_mean, ghost->running_variance};
  float *const want[] = {batch->running_mean, batch->running_variance};
  for (int which = 0; which < 2; which++) {
    double size = 0.0, *wide = oracle_widen(want[which], ghost->sizes.running);
    for (int64_t c = 0; c < ghost->sizes.running; c++) size = fmax(size, fabs(wide[c]));
    check_within(ghost, which ? "running_variance" : "running_mean", ghost->sizes.running,
                 got[which], wide, 0x1p-24 * size * (double)(ghost->sizes.batches + 1));
    free(wide);
  }
  cr_assert(ghost->batch_count == batch->batch_count);
}

/* Each ghost batch, alone, as a batch; one after the other for the running statistics. */
static void check_ghosts_alone(const axn_desc *desc, uint64_t seed) {
  rig whole = rig_make(desc, RIG_ALL, DATA_STANDARD, seed);
  axn_desc single = as_norm(*desc, AXN_BATCH_NORM, 0);
  single.shape[0] = desc->ghost_batch;
  rig alone = rig_make(&single, RIG_ALL, DATA_STANDARD, seed);
  size_t size = (size_t)whole.sizes.running * sizeof(float);
  memcpy(alone.running_mean, whole.running_mean, size);
  memcpy(alone.running_variance, whole.running_variance, size);
  train_and_backward(&whole);
  for (int64_t ghost = 0; ghost < whole.sizes.batches; ghost++) {
    copy_inputs(&alone, &whole, ghost * alone.sizes.elements);
    train_and_backward(&alone);
    check_same_elements(&alone, &whole, ghost);
  }
  check_near_running(&whole, &alone);
  rig_free(&alone);
  rig_free(&whole);
}

/* From running statistics it is batch normalization. */
static void check_frozen_ghosts(const axn_desc *desc, uint64_t seed) {
  axn_desc batch = as_norm(*desc, AXN_BATCH_NORM, 0);
  rig a = rig_make(desc, RIG_ALL, DATA_STANDARD, seed);
  rig b = rig_make(&batch, RIG_ALL, DATA_STANDARD, seed);
  rig_infer(&a);
  rig_infer(&b);
  rig_backward_frozen(&a);
  rig_backward_frozen(&b);
  check_same(&a, "y", a.sizes.elements, a.y, b.y);
  check_same(&a, "grad_x", a.sizes.elements, a.grad_x, b.grad_x);
  check_same(&a, "grad_scale", a.sizes.parameters, a.grad_scale, b.grad_scale);
  check_same(&a, "grad_shift", a.sizes.parameters, a.grad_shift, b.grad_shift);
  rig_free(&a);
  rig_free(&b);
}

Test(properties, ghost_batches_are_batches) {
  uint64_t seed = test_seed(313);
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    if (desc.norm == AXN_GHOST_BATCH_NORM) check_ghosts_alone(&desc, seed);
  }
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    desc = random_desc(&source, 2000);
    desc.shape[0] = random_between(&source, 1, 4) * random_between(&source, 1, 5);
    int64_t size = desc.shape[0];
    while (desc.shape[0] % size != 0 || random_between(&source, 0, 1)) {
      size = random_between(&source, 1, desc.shape[0]);
    }
    desc = as_ghost(desc, size);
    if (values_of(&desc) < 2) continue;
    check_ghosts_alone(&desc, random_bits(&source));
    check_frozen_ghosts(&desc, random_bits(&source));
  }
}

Test(properties, ghost_batch_of_all_is_batch_and_of_one_is_instance) {
  uint64_t seed = test_seed(314);
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    axn_desc all = as_ghost(desc, desc.shape[0]), one = as_ghost(desc, 1);
    axn_desc batch = as_norm(desc, AXN_BATCH_NORM, 0);
    axn_desc instance = as_norm(desc, AXN_INSTANCE_NORM, 0);
    if (values_of(&all) > 1) check_equal_norms(&all, &batch, random_bits(&source));
    if (values_of(&one) > 1) check_equal_norms(&one, &instance, random_bits(&source));
  }
}

/* ---- positional is layer over the channels of one pixel ---- */

static axn_desc random_positional(randoms *source) {
  axn_desc desc = random_desc(source, 4000);
  return as_norm(desc, AXN_POSITIONAL_NORM, 0);
}

/* Where these lie side by side it is the very same array. */
Test(properties, positional_of_channels_last_is_layer) {
  uint64_t seed = test_seed(315);
  for (uint64_t i = 0; i < 150; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc positional = random_positional(&source), layer = positional;
    positional.layout = AXN_CHANNELS_LAST;
    layer.norm = AXN_LAYER_NORM;
    for (int k = 2; k < layer.rank; k++) layer.shape[0] *= layer.shape[k];
    layer.rank = 2;
    check_equal_norms(&positional, &layer, random_bits(&source));
  }
}

/* From N x C x pixels to N x pixels x C. */
static void transpose(const oracle *sizes, const float *from, float *to) {
  int64_t channels = sizes->desc.shape[1];
  int64_t pixels = sizes->statistics / sizes->desc.shape[0];
  for (int64_t e = 0; e < sizes->elements; e++) {
    int64_t pixel = e / (pixels * channels) * pixels + e % pixels;
    to[pixel * channels + sizes->channel_of[e]] = from[e];
  }
}

static void check_near(const rig *self, const char *what, int64_t count, const float *got,
                       const float *want, double bound) {
  double *wide = oracle_widen(want, count);
  check_within(self, what, count, got, wide, bound);
  free(wide);
}

/* Each is within 3 ulp of the same truth, a gradient within its own bound (check.c) of it. */
static void check_layouts(const axn_desc *desc, uint64_t seed) {
  axn_desc first_desc = *desc, last_desc = *desc;
  first_desc.layout = AXN_CHANNELS_FIRST;
  last_desc.layout = AXN_CHANNELS_LAST;
  rig first = rig_make(&first_desc, RIG_PLAIN, DATA_STANDARD, seed);
  rig last = rig_make(&last_desc, RIG_PLAIN, DATA_STANDARD, seed);
  transpose(&first.sizes, first.x, last.x);
  transpose(&first.sizes, first.grad_y, last.grad_y);
  train_and_backward(&first);
  train_and_backward(&last);
  int64_t elements = first.sizes.elements, statistics = first.sizes.statistics;
  float *moved = new_floats(elements);
  transpose(&first.sizes, first.y, moved);
  double largest = 0.0;
  for (int64_t e = 0; e < elements; e++) largest = fmax(largest, fabs((double)moved[e]));
  check_near(&last, "y", elements, last.y, moved, 6.0 * ulp_above(largest, 1.0));
  oracle_backward expected = rig_expect_backward(&first);
  transpose(&first.sizes, first.grad_x, moved);
  check_near(&last, "grad_x", elements, last.grad_x, moved, 4e-6 * expected.uncancelled);
  oracle_backward_free(&expected);
  check_near(&last, "mean", statistics, last.mean, first.mean, 0x1p-22);
  for (int64_t s = 0; s < statistics; s++) {
    double rstd = (double)first.rstd[s];
    check_near(&last, "rstd", 1, last.rstd + s, first.rstd + s, 0x1p-22 * rstd);
  }
  free(moved);
  rig_free(&first);
  rig_free(&last);
}

Test(properties, positional_is_the_same_in_both_layouts) {
  uint64_t seed = test_seed(316);
  for (uint64_t i = 0; i < 100; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_positional(&source);
    check_layouts(&desc, random_bits(&source));
  }
}

/* ---- rms is layer where the mean is 0 ---- */

Test(properties, rms_of_data_about_zero_is_layer) {
  uint64_t seed = test_seed(317);
  for (int64_t half = 1; half < 300; half += 1 + half / 8) {
    axn_desc rms_desc = desc_of(AXN_RMS_NORM, 5, 2 * half, 0, 0, 0);
    axn_desc layer_desc = as_norm(rms_desc, AXN_LAYER_NORM, 0);
    rig rms = rig_make(&rms_desc, RIG_PLAIN, DATA_STANDARD, seed);
    rig layer = rig_make(&layer_desc, RIG_PLAIN, DATA_STANDARD, seed);
    for (int64_t e = 1; e < rms.sizes.elements; e += 2) {
      rms.x[e] = layer.x[e] = -rms.x[e - 1];
      rms.grad_y[e] = layer.grad_y[e] = -rms.grad_y[e - 1];
    }
    train_and_backward(&rms);
    train_and_backward(&layer);
    for (int64_t e = 0; e < rms.sizes.elements; e++) {
      double bound = 6.0 * ulp_above((double)layer.y[e], 1.0);
      check_near(&rms, "y", 1, rms.y + e, layer.y + e, bound);
    }
    oracle_backward expected = rig_expect_backward(&layer);
    check_near(&rms, "grad_x", rms.sizes.elements, rms.grad_x, layer.grad_x,
               4e-6 * expected.uncancelled);
    oracle_backward_free(&expected);
    rig_free(&rms);
    rig_free(&layer);
  }
}

/* A rank of 2 is a rank of 4 with extents of one. */
Test(properties, extents_of_one_change_nothing) {
  axn_desc flat = desc_of(AXN_BATCH_NORM, 33, 21, 0, 0, 0);
  axn_desc deep = desc_of(AXN_BATCH_NORM, 33, 21, 1, 1, 0);
  check_equal_norms(&flat, &deep, 304);
  flat = desc_of(AXN_LAYER_NORM, 9, 210, 0, 0, 0);
  deep = desc_of(AXN_LAYER_NORM, 9, 210, 1, 1, 1);
  check_equal_norms(&flat, &deep, 305);
}

/* ---- a sample alone ---- */

static int samples_are_independent(const axn_desc *desc) {
  int axis = desc->axis < 0 ? desc->axis + desc->rank : desc->axis;
  if (desc->norm == AXN_BATCH_NORM) return 0;
  if (desc->norm == AXN_GHOST_BATCH_NORM) return desc->ghost_batch == 1;
  return !takes_axis(desc) || axis >= 1;
}

static void check_samples_alone(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed) {
  rig whole = rig_make(desc, has, data, seed);
  axn_desc single = *desc;
  single.shape[0] = 1;
  rig alone = rig_make(&single, has, data, seed);
  train_and_backward(&whole);
  for (int64_t sample = 0; sample < desc->shape[0]; sample++) {
    copy_inputs(&alone, &whole, sample * alone.sizes.elements);
    train_and_backward(&alone);
    check_same_elements(&alone, &whole, sample);
  }
  rig_free(&alone);
  rig_free(&whole);
}

Test(properties, a_sample_alone_has_the_same_bits) {
  uint64_t seed = test_seed(306);
  axn_desc desc;
  for (int i = 0; listed_desc(i, SHAPE, &desc); i++) {
    if (!samples_are_independent(&desc)) continue;
    check_samples_alone(&desc, RIG_SCALE | RIG_SHIFT, DATA_STANDARD, seed + (uint64_t)i);
  }
}

Test(properties, a_sample_alone_in_random_shapes) {
  uint64_t seed = test_seed(307);
  for (uint64_t i = 0; i < 300; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 8000);
    unsigned has = (unsigned)random_between(&source, 0, RIG_SCALE | RIG_SHIFT);
    data_spec data = random_data(&source);
    if (!samples_are_independent(&desc) || desc.shape[0] > 50) continue;
    check_samples_alone(&desc, has, data, random_bits(&source));
  }
}

/* Statistics larger than any chunk, with a number of samples that changes who works on them. */
Test(properties, a_large_sample_alone) {
  uint64_t seed = test_seed(308);
  axn_desc descs[] = {desc_of(AXN_LAYER_NORM, 3, 4, 260, 129, 0),
                      desc_of(AXN_GROUP_NORM, 3, 4, 260, 129, 0),
                      desc_of(AXN_INSTANCE_NORM, 9, 2, 131, 257, 0),
                      desc_of(AXN_RMS_NORM, 3, 4, 260, 129, 0),
                      desc_of(AXN_POSITIONAL_NORM, 3, 3, 260, 129, 0),
                      desc_of(AXN_POSITIONAL_NORM, 3, 40001, 2, 1, 0)};
  for (size_t i = 0; i < 2 * sizeof descs / sizeof descs[0]; i++) {
    axn_desc desc = descs[i / 2];
    if (i % 2) desc.layout = AXN_CHANNELS_LAST;
    if (desc.norm == AXN_GROUP_NORM) desc.groups = 2;
    check_samples_alone(&desc, RIG_SCALE, DATA_STANDARD, seed);
  }
}

/* ---- channels alone ---- */

/* What `part` has of each sample, from channel `first` of `whole` on. */
static void copy_channels(const rig *part, const rig *whole, int64_t first, const float *from,
                          float *to) {
  const int64_t samples = part->desc.shape[0], channels = part->desc.shape[1];
  const int64_t pixels = part->sizes.elements / samples / channels;
  const int64_t there = whole->desc.shape[1] * pixels, here = channels * pixels;
  for (int64_t n = 0; n < samples; n++) {
    memcpy(to + n * here, from + n * there + first * pixels, (size_t)here * sizeof *to);
  }
}

static void check_same_channels(const rig *part, const rig *whole, int64_t first) {
  float *expected = new_floats(part->sizes.elements);
  copy_channels(part, whole, first, whole->y, expected);
  check_same(part, "y", part->sizes.elements, part->y, expected);
  copy_channels(part, whole, first, whole->grad_x, expected);
  check_same(part, "grad_x", part->sizes.elements, part->grad_x, expected);
  const int64_t channels = part->desc.shape[1];
  check_same(part, "grad_scale", channels, part->grad_scale, whole->grad_scale + first);
  check_same(part, "grad_shift", channels, part->grad_shift, whole->grad_shift + first);
  free(expected);
}

static void check_channels_alone(const axn_desc *desc, int64_t channels, uint64_t seed) {
  const unsigned has = RIG_SCALE | RIG_SHIFT;
  rig whole = rig_make(desc, has, DATA_STANDARD, seed);
  axn_desc few = *desc;
  few.shape[1] = channels;
  rig part = rig_make(&few, has, DATA_STANDARD, seed);
  train_and_backward(&whole);
  for (int64_t first = 0; first + channels <= desc->shape[1]; first += 5 * channels + 1) {
    const size_t bytes = (size_t)channels * sizeof(float);
    copy_channels(&part, &whole, first, whole.x, part.x);
    copy_channels(&part, &whole, first, whole.grad_y, part.grad_y);
    memcpy(part.scale, whole.scale + first, bytes);
    memcpy(part.shift, whole.shift + first, bytes);
    train_and_backward(&part);
    check_same_channels(&part, &whole, first);
  }
  rig_free(&part);
  rig_free(&whole);
}

/* Tensors that are walked another way than small ones, as no cache near a core holds them. */
Test(properties, channels_alone_have_the_same_bits) {
  uint64_t seed = test_seed(309);
  axn_desc descs[] = {desc_of(AXN_BATCH_NORM, 37, 190, 13, 13, 0),
                      desc_of(AXN_BATCH_NORM, 200, 30, 14, 14, 0),
                      desc_of(AXN_BATCH_NORM, 12, 120, 28, 28, 0),
                      desc_of(AXN_BATCH_NORM, 33, 700, 7, 7, 0),
                      desc_of(AXN_BATCH_NORM, 4, 25, 107, 107, 0),
                      desc_of(AXN_GHOST_BATCH_NORM, 40, 170, 13, 13, 0)};
  for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
    descs[i].ghost_batch = 20;
    check_channels_alone(&descs[i], 7, seed + i);
  }
}

/* ---- in place ---- */

static void check_in_place(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed) {
  rig apart = rig_make(desc, has, data, seed);
  rig same = rig_make(desc, has | RIG_IN_PLACE, data, seed);
  train_and_backward(&apart);
  train_and_backward(&same);
  check_same_runs(&same, &apart);
  if (apart.running_mean || !needs_running(desc)) {
    rig_infer(&apart);
    rig_infer(&same);
    check_same(&same, "y", same.sizes.elements, same.y, apart.y);
  }
  if (apart.running_mean) {
    rig_backward_frozen(&apart);
    rig_backward_frozen(&same);
    check_same_runs(&same, &apart);
  }
  rig_free(&apart);
  rig_free(&same);
}

Test(properties, in_place_has_the_same_bits) {
  uint64_t seed = test_seed(309);
  axn_desc desc;
  for (int i = 0; listed_desc(i, SHAPE, &desc); i++) {
    check_in_place(&desc, RIG_ALL, DATA_STANDARD, seed + (uint64_t)i);
  }
}

Test(properties, in_place_every_way_through_the_engine) {
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    check_in_place(&desc, RIG_ALL, DATA_STANDARD, i);
  }
}

Test(properties, in_place_in_random_shapes) {
  uint64_t seed = test_seed(310);
  for (uint64_t i = 0; i < 300; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 20000);
    unsigned has = (unsigned)random_between(&source, 0, RIG_ALL);
    data_spec data = random_data(&source);
    check_in_place(&desc, has, data, random_bits(&source));
  }
}

Test(properties, in_place_with_values_that_overflow) {
  const data_spec data = {DATA_MIXED, 0.0, 3.4e38};
  axn_desc desc;
  for (int i = 0; listed_desc(i, SHAPE, &desc); i++) {
    check_in_place(&desc, RIG_SCALE | RIG_SHIFT, data, (uint64_t)i);
  }
}

/* Rows of a matrix are taken a few at a time where grad_x is apart from grad_y and float32 has room for them, else
 * by kernels that take one step after the other: here some, of others that are not. */
static void check_rows_beyond_float(const axn_desc *desc, int64_t row, float x, float grad_y) {
  rig apart = rig_make(desc, RIG_SCALE | RIG_SHIFT, DATA_STANDARD, (uint64_t)row);
  rig same = rig_make(desc, RIG_SCALE | RIG_SHIFT | RIG_IN_PLACE, DATA_STANDARD, (uint64_t)row);
  const int64_t columns = desc->shape[1];
  for (int64_t e = row * columns; e < (row + 1) * columns; e++) {
    apart.x[e] *= x, same.x[e] *= x;
    apart.grad_y[e] *= grad_y, same.grad_y[e] *= grad_y;
  }
  train_and_backward(&apart);
  train_and_backward(&same);
  check_same_runs(&same, &apart);
  rig_free(&apart);
  rig_free(&same);
}

Test(properties, in_place_rows_beyond_float) {
  for (int64_t i = 0; i < 32; i++) {
    const axn_norm norm = i % 2 == 0 ? AXN_LAYER_NORM : AXN_RMS_NORM;
    const axn_desc desc = desc_of(norm, 70, i % 4 < 2 ? 37 : 700, 0, 0, 0);
    check_rows_beyond_float(&desc, 2 * i, 1e30f, 1);
    check_rows_beyond_float(&desc, 2 * i, 1e-30f, 1);
    check_rows_beyond_float(&desc, 2 * i, 1, 1e38f);
    check_rows_beyond_float(&desc, 2 * i, 1, INFINITY);
  }
}

/* ---- invariances ---- */

/* y of factor * x + offset with factor^2 * epsilon, exact in float32, against y of x: each is
 * within 3 ulp of the same truth. */
static void check_invariance(const axn_desc *desc, float factor, float offset, uint64_t seed) {
  rig plain = rig_make(desc, RIG_PLAIN, DATA_STANDARD, seed);
  axn_desc changed_desc = *desc;
  changed_desc.epsilon *= (double)factor * (double)factor;
  rig changed = rig_make(&changed_desc, RIG_PLAIN, DATA_STANDARD, seed);
  for (int64_t e = 0; e < plain.sizes.elements; e++) {
    plain.x[e] = ldexpf(rintf(ldexpf(plain.x[e], 10)), -10);
    changed.x[e] = plain.x[e] * factor + offset;
  }
  rig_train(&plain);
  rig_train(&changed);
  for (int64_t e = 0; e < plain.sizes.elements; e++) {
    double difference = fabs((double)plain.y[e] - (double)changed.y[e]);
    cr_assert(difference <= 6.0 * ulp_above((double)plain.y[e], 1.0),
              "%s: y of %g * x + %g is %.9g, of x %.9g", desc_text(desc), (double)factor,
              (double)offset, (double)changed.y[e], (double)plain.y[e]);
  }
  rig_free(&plain);
  rig_free(&changed);
}

Test(properties, scale_and_shift_of_x_cancel) {
  uint64_t seed = test_seed(311);
  for (uint64_t i = 0; i < 200; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 4000);
    float factor = ldexpf(random_between(&source, 0, 1) ? 1.0f : 0.5f, (int)(i % 3));
    check_invariance(&desc, factor, 0.0f, random_bits(&source));
    check_invariance(&desc, 0x1p40f, 0.0f, random_bits(&source));
    check_invariance(&desc, 0x1p100f, 0.0f, random_bits(&source));
    if (!knows_mean(&desc)) continue;
    check_invariance(&desc, factor, 512.0f, random_bits(&source));
    check_invariance(&desc, 1.0f, -2048.0f, random_bits(&source));
  }
}

/* y has mean 0, except with rms, and variance v / (v + epsilon). */
static void check_moments(const axn_desc *desc, uint64_t seed) {
  rig self = rig_make(desc, RIG_PLAIN, (data_spec){DATA_NORMAL, 40.0, 2.0}, seed);
  rig_train(&self);
  double *sums = calloc((size_t)self.sizes.statistics * 2, sizeof(double));
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    double y = (double)self.y[e];
    sums[2 * self.sizes.statistic_of[e]] += y / (double)self.sizes.values;
    sums[2 * self.sizes.statistic_of[e] + 1] += y * y / (double)self.sizes.values;
  }
  for (int64_t s = 0; s < self.sizes.statistics; s++) {
    cr_assert(!knows_mean(desc) || fabs(sums[2 * s]) < 1e-7, "%s: mean of y %g", desc_text(desc),
              sums[2 * s]);
    cr_assert(fabs(sums[2 * s + 1] - 1.0) < 1e-5, "%s: variance of y %g", desc_text(desc),
              sums[2 * s + 1]);
  }
  free(sums);
  rig_free(&self);
}

Test(properties, y_has_the_moments_it_should) {
  uint64_t seed = test_seed(312);
  for (int norm = AXN_BATCH_NORM; norm <= AXN_GHOST_BATCH_NORM; norm++) {
    axn_desc desc = desc_of((axn_norm)norm, 4, 128, 33, 17, 0);
    if (norm == AXN_GROUP_NORM) desc.groups = 4;
    check_moments(&desc, seed);
  }
}
