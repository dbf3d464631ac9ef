/* SPDX-License-Identifier: MIT */
/* The training and the inference forward pass against the oracle, for every norm and option. */
#include "check.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void check_sizes(const rig *self) {
  const axn_plan_info *info = &self->info;
  const char *text = desc_text(&self->desc);
  cr_assert(info->elements == self->sizes.elements, "%s: elements", text);
  cr_assert(info->statistics == self->sizes.statistics, "%s: statistics", text);
  cr_assert(info->values_per_statistic == self->sizes.values, "%s: values", text);
  cr_assert(info->parameters == self->sizes.parameters, "%s: parameters", text);
  cr_assert(info->running_statistics == self->sizes.running, "%s: running", text);
  cr_assert(info->reduced_axes == self->sizes.reduced_axes, "%s: reduced_axes %x, expected %x",
            text, info->reduced_axes, self->sizes.reduced_axes);
  cr_assert(info->split_axis == self->sizes.split_axis, "%s: split_axis", text);
  cr_assert(info->split_groups == self->sizes.split_groups, "%s: split_groups", text);
  cr_assert(info->values_per_task >= 1, "%s: values_per_task", text);
}

static void check_training(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed) {
  rig self = rig_make(desc, has, data, seed);
  oracle_forward expected = rig_expect_training(&self);
  check_sizes(&self);
  rig_train(&self);
  check_y(&self, &expected);
  check_statistics(&self, &expected);
  oracle_forward_free(&expected);
  rig_free(&self);
}

static void check_inference(const axn_desc *desc, unsigned has, data_spec data, uint64_t seed) {
  if (!(has & RIG_RUNNING) && needs_running(desc)) return;
  rig self = rig_make(desc, has, data, seed);
  oracle_forward expected = rig_expect_inference(&self);
  rig_infer(&self);
  check_y(&self, &expected);
  oracle_forward_free(&expected);
  rig_free(&self);
}

static void check_forward(const axn_desc *desc, data_spec data, uint64_t seed) {
  for (unsigned has = 0; has <= RIG_ALL; has++) {
    if (!(has & RIG_RUNNING)) check_training(desc, has, data, seed + has);
    if (!(has & RIG_RUNNING) || keeps_running(desc)) check_inference(desc, has, data, seed + has);
  }
}

static const int64_t SMALL[5] = {3, 6, 5, 7, 2};
static const int64_t ODD[5] = {2, 9, 17, 1, 3};
static const int64_t SINGLE[5] = {1, 3, 1, 37, 1};

static void check_listed(const int64_t shape[5], data_spec data, uint64_t own) {
  uint64_t seed = test_seed(own);
  axn_desc desc;
  for (int i = 0; listed_desc(i, shape, &desc); i++) {
    check_forward(&desc, data, case_seed(seed, (uint64_t)i));
  }
}

Test(forward, every_norm_and_option) {
  check_listed(SMALL, DATA_STANDARD, 1);
}

Test(forward, every_norm_on_odd_extents) {
  check_listed(ODD, (data_spec){DATA_NORMAL, 100.0, 3.0}, 2);
}

Test(forward, every_norm_with_extents_of_one) {
  check_listed(SINGLE, DATA_STANDARD, 3);
}

Test(forward, hundreds_of_random_shapes) {
  uint64_t seed = test_seed(4);
  for (uint64_t i = 0; i < 600; i++) {
    randoms source = randoms_from(case_seed(seed, i));
    axn_desc desc = random_desc(&source, 20000);
    unsigned has = (unsigned)random_between(&source, 0, RIG_ALL);
    data_spec data = random_data(&source);
    check_training(&desc, has & ~(unsigned)RIG_RUNNING, data, random_bits(&source));
    check_inference(&desc, has, data, random_bits(&source));
  }
}

/* ---- data that breaks careless arithmetic ---- */

Test(forward, every_way_through_the_engine) {
  uint64_t seed = test_seed(44);
  axn_desc desc;
  for (size_t i = 0; reaching_desc(i, &desc); i++) {
    check_training(&desc, RIG_PLAIN, DATA_STANDARD, case_seed(seed, i));
    check_training(&desc, RIG_ALL, (data_spec){DATA_NORMAL, 300.0, 1.0}, case_seed(seed, i));
    check_inference(&desc, RIG_SCALE | RIG_SHIFT, DATA_STANDARD, case_seed(seed, i));
  }
}

static void check_on_data(data_spec data, double epsilon, uint64_t own) {
  uint64_t seed = test_seed(own);
  const axn_desc descs[] = {
      desc_of(AXN_BATCH_NORM, 7, 5, 12, 11, 0),    desc_of(AXN_BATCH_NORM, 300, 19, 0, 0, 0),
      desc_of(AXN_LAYER_NORM, 5, 768, 0, 0, 0),    desc_of(AXN_LAYER_NORM, 2, 24, 13, 9, 0),
      desc_of(AXN_INSTANCE_NORM, 3, 4, 31, 29, 0), desc_of(AXN_INSTANCE_NORM, 2, 3, 2, 5, 3),
      desc_of(AXN_GROUP_NORM, 3, 12, 10, 10, 0),   desc_of(AXN_GROUP_NORM, 1, 6, 8191, 0, 0),
      desc_of(AXN_LAYER_NORM, 4, 7, 33, 0, 0),     desc_of(AXN_BATCH_NORM, 2, 3, 150, 150, 0),
      desc_of(AXN_RMS_NORM, 5, 768, 0, 0, 0),      desc_of(AXN_RMS_NORM, 2, 24, 13, 9, 0),
      desc_of(AXN_RMS_NORM, 300, 19, 0, 0, 0),     desc_of(AXN_POSITIONAL_NORM, 3, 40, 11, 7, 0),
      desc_of(AXN_POSITIONAL_NORM, 2, 9, 5, 3, 2), desc_of(AXN_GHOST_BATCH_NORM, 6, 5, 12, 11, 0),
  };
  for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
    for (int layout = AXN_CHANNELS_FIRST; layout <= AXN_CHANNELS_LAST; layout++) {
      axn_desc desc = descs[i];
      desc.layout = (axn_layout)layout;
      desc.epsilon = epsilon;
      if (desc.norm == AXN_GROUP_NORM) desc.groups = 3;
      if (i == 8) desc.axis = 2;
      check_training(&desc, RIG_PLAIN, data, case_seed(seed, i));
      check_training(&desc, RIG_SCALE | RIG_SHIFT, data, case_seed(seed, i));
      check_inference(&desc, RIG_PLAIN, data, case_seed(seed, i));
    }
  }
}

Test(forward, offset_100) {
  check_on_data((data_spec){DATA_NORMAL, 1e2, 1.0}, 1e-5, 10);
}

Test(forward, offset_ten_thousand) {
  check_on_data((data_spec){DATA_NORMAL, -1e4, 1.0}, 1e-5, 11);
}

Test(forward, offset_a_million) {
  check_on_data((data_spec){DATA_NORMAL, 1e6, 1.0}, 1e-5, 12);
}

/* Squares overflow float32 from about 2e19. */
Test(forward, values_near_1e30) {
  check_on_data((data_spec){DATA_NORMAL, 0.0, 1e30}, 1e-5, 13);
  check_on_data((data_spec){DATA_NORMAL, 3e30, 1e30}, 1e-5, 14);
  check_on_data((data_spec){DATA_NORMAL, -1e30, 1e26}, 1e-5, 15);
}

/* Squares fit, sums of them do not. */
Test(forward, values_near_the_root_of_the_largest) {
  check_on_data((data_spec){DATA_NORMAL, 0.0, 5e18}, 1e-5, 16);
  check_on_data((data_spec){DATA_MIXED, 0.0, 1.8e19}, 1e-5, 17);
}

/* Even differences overflow. rstd is subnormal here, so y shows whether the float64 value was used.
 */
Test(forward, values_up_to_the_largest) {
  check_on_data((data_spec){DATA_MIXED, 0.0, 3.4e38}, 1e-5, 18);
}

Test(forward, magnitudes_over_eight_decades) {
  check_on_data((data_spec){DATA_SKEWED, 0.0, 1.0}, 1e-5, 19);
}

Test(forward, activations_after_relu) {
  check_on_data((data_spec){DATA_RELU, 0.0, 3.0}, 1e-5, 20);
}

/* Epsilon outweighs the variance: y is x - mean times 1 / sqrt(epsilon), far below the 3 ulp of 1,
 * so also with a small epsilon that keeps y around 1. */
Test(forward, tiny_values) {
  check_on_data((data_spec){DATA_NORMAL, 0.0, 1e-20}, 1e-5, 21);
  check_on_data((data_spec){DATA_NORMAL, 0.0, 1e-12}, 1e-30, 22);
  check_on_data((data_spec){DATA_NORMAL, 3e-6, 1e-6}, 1e-14, 23);
}

/* Squares of float32 are subnormal below about 1e-19, and 0 below 1e-23. */
Test(forward, values_whose_squares_underflow) {
  check_on_data((data_spec){DATA_NORMAL, 0.0, 3e-21}, 1e-52, 26);
  check_on_data((data_spec){DATA_NORMAL, 0.0, 2e-38}, 1e-80, 27);
  check_on_data((data_spec){DATA_NORMAL, 0.0, 1e-25}, 1e-60, 24);
}

Test(forward, epsilon_far_larger_than_the_variance) {
  check_on_data(DATA_STANDARD, 1e6, 25);
}

/* ---- constant input ---- */

/* With rms it is 1 or less, by epsilon, times the sign; the shift is left of a constant 0 alone. */
static void check_constant_without_mean(axn_desc desc, float value, unsigned has) {
  check_training(&desc, has, (data_spec){DATA_CONSTANT, (double)value, 0.0}, 30);
}

static void check_constant(axn_desc desc, float value, unsigned has) {
  if (!knows_mean(&desc) && value != 0.0f) {
    check_constant_without_mean(desc, value, has);
    return;
  }
  rig self = rig_make(&desc, has, (data_spec){DATA_CONSTANT, (double)value, 0.0}, 30);
  rig_train(&self);
  for (int64_t e = 0; e < self.sizes.elements; e++) {
    float want = self.shift ? self.shift[self.sizes.parameter_of[e]] : 0.0f;
    cr_assert(self.y[e] == want, "%s of %g: y[%" PRId64 "] = %a, not %a", desc_text(&desc),
              (double)value, e, (double)self.y[e], (double)want);
  }
  for (int64_t s = 0; s < self.sizes.statistics; s++) {
    cr_assert(self.mean[s] == value, "%s: mean of %a is %a", desc_text(&desc), (double)value,
              (double)self.mean[s]);
    cr_assert(self.rstd[s] == (float)(1.0 / sqrt(desc.epsilon)), "%s of %g: rstd %a",
              desc_text(&desc), (double)value, (double)self.rstd[s]);
  }
  rig_free(&self);
}

Test(forward, constant_input_gives_the_shift_exactly) {
  const float values[] = {0.0f, 1.0f, -3.7f, 0.1f, 1e6f + 0.5f, -1e30f, 3e38f, 1e-40f, 16777215.0f};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    axn_desc desc;
    for (int i = 0; listed_desc(i, SMALL, &desc); i++) {
      check_constant(desc, values[v], RIG_PLAIN);
      check_constant(desc, values[v], RIG_SCALE | RIG_SHIFT);
    }
    check_constant(desc_of(AXN_BATCH_NORM, 3, 2, 101, 103, 0), values[v], RIG_ALL);
    check_constant(desc_of(AXN_LAYER_NORM, 1, 100003, 0, 0, 0), values[v], RIG_SHIFT);
    check_constant(desc_of(AXN_RMS_NORM, 1, 100003, 0, 0, 0), values[v], RIG_SHIFT);
  }
}

/* One value per statistic: layer, group and positional give the shift; rms what is left by epsilon. */
Test(forward, one_value_per_statistic_gives_the_shift) {
  axn_desc layer = desc_of(AXN_LAYER_NORM, 4, 6, 0, 0, 0);
  layer.shape[1] = 1;
  axn_desc last = desc_of(AXN_LAYER_NORM, 4, 6, 5, 1, 0);
  last.axis = -1;
  axn_desc group = desc_of(AXN_GROUP_NORM, 3, 6, 1, 1, 0);
  group.groups = 6;
  const axn_desc descs[] = {layer, last, group, desc_of(AXN_POSITIONAL_NORM, 3, 1, 5, 7, 0)};
  for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
    rig self = rig_make(&descs[i], RIG_SCALE | RIG_SHIFT, DATA_STANDARD, 31);
    cr_assert(self.info.values_per_statistic == 1);
    rig_train(&self);
    for (int64_t e = 0; e < self.sizes.elements; e++) {
      cr_assert(self.y[e] == self.shift[self.sizes.parameter_of[e]]);
    }
    check_same(&self, "mean", self.sizes.statistics, self.mean, self.x);
    rig_free(&self);
  }
  axn_desc rms = last;
  rms.norm = AXN_RMS_NORM;
  check_training(&rms, RIG_SCALE | RIG_SHIFT, DATA_STANDARD, 31);
}

/* ---- long statistics ---- */

Test(forward, ten_million_values_in_one_statistic) {
  axn_desc desc = desc_of(AXN_LAYER_NORM, 1, 7, 1201, 1193, 0);
  check_training(&desc, RIG_PLAIN, (data_spec){DATA_NORMAL, 1e4, 1.0}, test_seed(40));
}

Test(forward, long_statistics_in_every_direction) {
  const data_spec data = {DATA_NORMAL, 50.0, 1.0};
  uint64_t seed = test_seed(41);
  axn_desc descs[] = {
      desc_of(AXN_BATCH_NORM, 1000003, 2, 0, 0, 0),
      desc_of(AXN_BATCH_NORM, 150001, 7, 0, 0, 0),
      desc_of(AXN_BATCH_NORM, 5, 3, 301, 299, 0),
      desc_of(AXN_INSTANCE_NORM, 1, 1, 700001, 0, 0),
      desc_of(AXN_GROUP_NORM, 2, 6, 401, 211, 0),
      desc_of(AXN_LAYER_NORM, 2, 1, 130003, 3, 0),
      desc_of(AXN_LAYER_NORM, 1, 1000001, 0, 0, 0),
      desc_of(AXN_RMS_NORM, 1, 1000001, 0, 0, 0),
      desc_of(AXN_POSITIONAL_NORM, 1, 150001, 2, 3, 0),
      desc_of(AXN_GHOST_BATCH_NORM, 300002, 3, 0, 0, 0),
  };
  for (size_t i = 0; i < 2 * sizeof descs / sizeof descs[0]; i++) {
    axn_desc desc = descs[i / 2];
    if (i % 2) desc.layout = AXN_CHANNELS_LAST;
    if (desc.norm == AXN_GROUP_NORM) desc.groups = 2;
    check_training(&desc, i % 3 ? RIG_PLAIN : RIG_ALL & ~(unsigned)RIG_RUNNING, data, seed + i);
  }
}

/* Few values leave roundings no chance to average out, and thousands of statistics find the worst:
 * along memory (layer, rms) and across it (batch). */
Test(forward, thousands_of_short_statistics) {
  static const int64_t lengths[] = {2, 3, 4, 7, 13, 17, 21, 34, 55, 89, 144, 528};
  const data_spec specs[] = {{DATA_NORMAL, 0.0, 1.0},
                             {DATA_SKEWED, 0.0, 1.0},
                             {DATA_RELU, 0.0, 1.0},
                             {DATA_NORMAL, -1e4, 1.0},
                             {DATA_NORMAL, 2.0, 1.0}};
  uint64_t seed = test_seed(42);
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    for (size_t d = 0; d < sizeof specs / sizeof specs[0]; d++) {
      axn_desc rows = desc_of(AXN_LAYER_NORM, 3001, lengths[i], 0, 0, 0);
      axn_desc columns = desc_of(AXN_BATCH_NORM, lengths[i], 3001, 0, 0, 0);
      check_training(&rows, RIG_PLAIN, specs[d], case_seed(seed, 10 * i + d));
      rows.norm = AXN_RMS_NORM;
      check_training(&rows, RIG_PLAIN, specs[d], case_seed(seed, 10 * i + d));
      check_training(&columns, RIG_PLAIN, specs[d], case_seed(seed, 10 * i + d));
    }
  }
}
