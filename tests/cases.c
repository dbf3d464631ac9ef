/* SPDX-License-Identifier: MIT */
#include "cases.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers ---- */

uint64_t test_seed(uint64_t own) {
  const char *text = getenv("AXISNORM_TEST_SEED");
  uint64_t seed = text ? strtoull(text, NULL, 0) : own;
  fprintf(stderr, "AXISNORM_TEST_SEED=%" PRIu64 "\n", seed);
  return seed;
}

uint64_t case_seed(uint64_t seed, uint64_t i) {
  randoms source = {seed ^ (i * UINT64_C(0xd1342543de82ef95))};
  return random_bits(&source);
}

randoms randoms_from(uint64_t seed) {
  return (randoms){seed};
}

uint64_t random_bits(randoms *source) {
  uint64_t z = (source->state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

double random_uniform(randoms *source) {
  return (double)(random_bits(source) >> 11) * 0x1p-53;
}

/* The heads of 64 fair coins, with a fraction that fills the gaps: the bell to four deviations and more, in a
 * fraction of the time of logarithm and cosine, which took half of that of all tests. */
double random_normal(randoms *source) {
  const double heads = (double)__builtin_popcountll(random_bits(source));
  return (heads - 32.5 + random_uniform(source)) / sqrt(16.0 + 1.0 / 12.0);
}

int64_t random_between(randoms *source, int64_t low, int64_t high) {
  return low + (int64_t)(random_bits(source) % (uint64_t)(high - low + 1));
}

/* ---- data ---- */

static double draw(data_spec spec, randoms *source) {
  double normal;
  switch (spec.kind) {
  case DATA_CONSTANT:
    return spec.offset;
  case DATA_MIXED:
    return spec.spread * (2.0 * random_uniform(source) - 1.0);
  case DATA_RELU:
    normal = random_normal(source);
    if (random_between(source, 0, 99) == 0) normal *= 30.0;
    return normal > 0.0 ? spec.spread * normal : 0.0;
  case DATA_SKEWED:
    normal = random_normal(source);
    return spec.spread * normal * pow(10.0, 8.0 * random_uniform(source) - 4.0);
  case DATA_NORMAL:
    break;
  }
  return spec.offset + spec.spread * random_normal(source);
}

void fill_data(float *values, int64_t count, data_spec spec, randoms *source) {
  for (int64_t i = 0; i < count; i++) values[i] = (float)draw(spec, source);
}

data_spec random_data(randoms *source) {
  static const data_spec specs[] = {
      {DATA_NORMAL, 0.0, 1.0},   {DATA_NORMAL, 100.0, 1.0}, {DATA_NORMAL, -1e4, 1.0},
      {DATA_NORMAL, 3.0, 0.125}, {DATA_RELU, 0.0, 2.0},     {DATA_MIXED, 0.0, 5.0},
      {DATA_SKEWED, 0.0, 1.0},
  };
  return specs[random_between(source, 0, (int64_t)(sizeof specs / sizeof specs[0]) - 1)];
}

/* ---- descriptors ---- */

int keeps_running(const axn_desc *desc) {
  return desc->norm == AXN_BATCH_NORM || desc->norm == AXN_INSTANCE_NORM ||
         desc->norm == AXN_GHOST_BATCH_NORM;
}

int needs_running(const axn_desc *desc) {
  return desc->norm == AXN_BATCH_NORM || desc->norm == AXN_GHOST_BATCH_NORM;
}

int knows_mean(const axn_desc *desc) {
  return desc->norm != AXN_RMS_NORM;
}

axn_desc make_desc(axn_norm norm, int rank, const int64_t *shape) {
  axn_desc desc = axn_desc_init();
  desc.norm = norm;
  desc.rank = rank;
  for (int k = 0; k < rank; k++) desc.shape[k] = shape[k];
  if (norm == AXN_GROUP_NORM) desc.groups = 1;
  if (norm == AXN_GHOST_BATCH_NORM) desc.ghost_batch = shape[0] % 2 ? shape[0] : shape[0] / 2;
  return desc;
}

axn_desc desc_of(axn_norm norm, int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) {
  const int64_t shape[5] = {n, c, d, h, w};
  int rank = d == 0 ? 2 : h == 0 ? 3 : w == 0 ? 4 : 5;
  return make_desc(norm, rank, shape);
}

int reaching_desc(size_t i, axn_desc *desc) {
  static const struct {
    axn_norm norm;
    int64_t shape[4], groups;
    axn_parameters parameters;
  } cases[] = {
      {AXN_BATCH_NORM, {20, 24, 7, 7}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {3, 70, 7, 7}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {300, 70, 5, 1}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {5, 3, 31, 33}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {4, 39, 2500, 1}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {40, 1300, 1, 1}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {64, 700, 7, 7}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {70, 1100, 3, 3}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_BATCH_NORM, {2, 30, 190, 191}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_LAYER_NORM, {70, 768, 1, 1}, 0, AXN_PARAMETERS_PER_ELEMENT},
      {AXN_LAYER_NORM, {2100, 1040, 1, 1}, 0, AXN_PARAMETERS_PER_ELEMENT},
      {AXN_LAYER_NORM, {3, 70001, 1, 1}, 0, AXN_PARAMETERS_PER_ELEMENT},
      {AXN_LAYER_NORM, {1, 3, 200, 151}, 0, AXN_PARAMETERS_PER_ELEMENT},
      {AXN_LAYER_NORM, {2, 3, 200, 151}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_LAYER_NORM, {3, 1100, 5, 3}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_INSTANCE_NORM, {2, 3, 260, 257}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_INSTANCE_NORM, {9, 70, 3, 3}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_GROUP_NORM, {2, 24, 9, 10}, 4, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_GROUP_NORM, {2, 2100, 5, 4}, 2, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_GROUP_NORM, {200, 48, 1, 1}, 4, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_RMS_NORM, {70, 768, 1, 1}, 0, AXN_PARAMETERS_PER_ELEMENT},
      {AXN_RMS_NORM, {2, 3, 200, 151}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_RMS_NORM, {700, 40, 1, 1}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_POSITIONAL_NORM, {3, 24, 31, 33}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_POSITIONAL_NORM, {2, 768, 7, 7}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_POSITIONAL_NORM, {2, 5, 300, 301}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_GHOST_BATCH_NORM, {20, 24, 7, 7}, 0, AXN_PARAMETERS_PER_CHANNEL},
      {AXN_GHOST_BATCH_NORM, {6, 39, 2500, 1}, 0, AXN_PARAMETERS_PER_CHANNEL},
  };
  if (i >= 2 * sizeof cases / sizeof cases[0]) return 0;
  const int64_t *shape = cases[i / 2].shape;
  *desc = make_desc(cases[i / 2].norm, shape[3] > 1 ? 4 : shape[2] > 1 ? 3 : 2, shape);
  if (cases[i / 2].groups > 0) desc->groups = cases[i / 2].groups;
  desc->parameters = cases[i / 2].parameters;
  if (i % 2) desc->layout = AXN_CHANNELS_LAST;
  return 1;
}

int takes_axis(const axn_desc *desc) {
  return desc->norm == AXN_LAYER_NORM || desc->norm == AXN_RMS_NORM;
}

int64_t values_of(const axn_desc *desc) {
  int axis = desc->axis < 0 ? desc->axis + desc->rank : desc->axis;
  int64_t values = 1;
  for (int k = 0; k < desc->rank; k++) {
    int reduced = k >= 2;
    if (takes_axis(desc)) reduced = k >= axis;
    if (desc->norm == AXN_POSITIONAL_NORM) reduced = k == 1;
    if (desc->norm == AXN_BATCH_NORM && k == 0) reduced = 1;
    if (desc->norm == AXN_GHOST_BATCH_NORM && k == 0) values *= desc->ghost_batch;
    if (desc->norm == AXN_GROUP_NORM && k == 1) values *= desc->shape[1] / desc->groups;
    if (reduced) values *= desc->shape[k];
  }
  return values;
}

/* Extents: a third are 1, most small, some odd and past a vector's width, few large. */
static int64_t random_extent(randoms *source, int64_t room) {
  static const int64_t tops[] = {1, 1, 4, 9, 17, 40, 130, 4000};
  int64_t top = tops[random_between(source, 0, 7)];
  if (top > room) top = room;
  return random_between(source, 1, top);
}

static void random_shape(randoms *source, int64_t limit, axn_desc *desc) {
  int64_t room = limit;
  int order[5] = {0, 1, 2, 3, 4};
  desc->rank = (int)random_between(source, 2, 5);
  for (int k = desc->rank - 1; k > 0; k--) {
    int other = (int)random_between(source, 0, k);
    int kept = order[k];
    order[k] = order[other];
    order[other] = kept;
  }
  for (int k = 0; k < desc->rank; k++) {
    desc->shape[order[k]] = random_extent(source, room);
    room /= desc->shape[order[k]];
  }
}

static int64_t random_divisor(randoms *source, int64_t number) {
  for (;;) {
    int64_t divisor = random_between(source, 1, number < 64 ? number : 64);
    if (number % divisor == 0) return divisor;
  }
}

static void random_options(randoms *source, axn_desc *desc) {
  static const double epsilons[] = {1e-5, 1e-3, 1e-8, 0.5};
  static const double momenta[] = {0.1, 0.3, 0.0, 1.0, AXN_MOMENTUM_CUMULATIVE};
  desc->layout = random_between(source, 0, 2) ? AXN_CHANNELS_FIRST : AXN_CHANNELS_LAST;
  desc->epsilon = epsilons[random_between(source, 0, 3)];
  desc->momentum = momenta[random_between(source, 0, 4)];
  desc->running_variance =
      random_between(source, 0, 1) ? AXN_RUNNING_VARIANCE_UNBIASED : AXN_RUNNING_VARIANCE_BIASED;
  if (desc->norm == AXN_GROUP_NORM) desc->groups = random_divisor(source, desc->shape[1]);
  if (desc->norm == AXN_GHOST_BATCH_NORM) {
    desc->ghost_batch = random_divisor(source, desc->shape[0]);
  }
  if (takes_axis(desc)) {
    desc->axis = (int)random_between(source, -desc->rank, desc->rank - 1);
    desc->parameters =
        random_between(source, 0, 1) ? AXN_PARAMETERS_PER_CHANNEL : AXN_PARAMETERS_PER_ELEMENT;
  }
}

axn_desc random_desc(randoms *source, int64_t limit) {
  for (;;) {
    axn_desc desc = axn_desc_init();
    desc.norm = (axn_norm)random_between(source, AXN_BATCH_NORM, AXN_GHOST_BATCH_NORM);
    random_shape(source, limit, &desc);
    random_options(source, &desc);
    if (!keeps_running(&desc) || values_of(&desc) > 1) return desc;
  }
}

/* Variants of one rank: batch, instance, three of group, two of ghost, positional, then layer and rms by
 * axis and parameters. */
static int list_variant(int variant, int rank, const int64_t shape[5], axn_desc *desc) {
  enum { OTHERS = 8 };
  static const axn_norm norms[OTHERS] = {
      AXN_BATCH_NORM, AXN_INSTANCE_NORM,    AXN_GROUP_NORM,       AXN_GROUP_NORM,
      AXN_GROUP_NORM, AXN_GHOST_BATCH_NORM, AXN_GHOST_BATCH_NORM, AXN_POSITIONAL_NORM};
  const int64_t groups[OTHERS] = {0, 0, 1, 3, shape[1]};
  if (variant < OTHERS) {
    *desc = make_desc(norms[variant], rank, shape);
    desc->groups = groups[variant];
    if (variant == 6) desc->ghost_batch = 1;
    return 1;
  }
  const int along = (variant - OTHERS) / 4, kind = (variant - OTHERS) % 4;
  *desc = make_desc(kind < 2 ? AXN_LAYER_NORM : AXN_RMS_NORM, rank, shape);
  desc->axis = along;
  desc->parameters = kind % 2 ? AXN_PARAMETERS_PER_CHANNEL : AXN_PARAMETERS_PER_ELEMENT;
  if (kind % 2) desc->axis -= rank; /* the negative name of the same axis */
  return along < rank;
}

int listed_desc(int i, const int64_t shape[5], axn_desc *desc) {
  for (int layout = AXN_CHANNELS_FIRST; layout <= AXN_CHANNELS_LAST; layout++) {
    for (int rank = 2; rank <= 5; rank++) {
      for (int variant = 0; list_variant(variant, rank, shape, desc); variant++) {
        desc->layout = (axn_layout)layout;
        if (keeps_running(desc) && values_of(desc) == 1) continue;
        if (i-- == 0) return 1;
      }
    }
  }
  return 0;
}

/* Strides of a view; nothing where dense. */
static void add_strides(char *text, size_t size, const char *name, const int64_t *strides,
                        int rank) {
  size_t used = strlen(text);
  int given = 0;
  for (int k = 0; k < rank && k < 5; k++) given |= strides[k] != 0;
  for (int k = 0; given && k < rank && k < 5 && used < size; k++) {
    used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, k ? "," : name, strides[k]);
  }
}

const char *desc_text(const axn_desc *desc) {
  static _Thread_local char text[640];
  static const char *const names[] = {"?",     "batch", "layer",      "instance",
                                      "group", "rms",   "positional", "ghost"};
  char shape[96];
  int used = 0;
  for (int k = 0; k < desc->rank && k < 5; k++) {
    used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%" PRId64, k ? "x" : "",
                     desc->shape[k]);
  }
  const axn_axes *own = desc->strategy ? desc->strategy->context : NULL;
  used = own ? snprintf(text, sizeof text, "axes 0x%x, axis %d in %" PRId64 " groups, ",
                        (unsigned)own->reduced, own->split_axis, own->split_groups)
             : 0;
  snprintf(text + used, sizeof text - (size_t)used,
           "%s %s %s groups=%" PRId64 " ghost=%" PRId64
           " axis=%d %s epsilon=%g momentum=%g running=%s isa=%d",
           names[own ? 0 : desc->norm], shape, desc->layout == AXN_CHANNELS_LAST ? "last" : "first",
           desc->groups, desc->ghost_batch, desc->axis,
           desc->parameters == AXN_PARAMETERS_PER_ELEMENT ? "per-element" : "per-channel",
           desc->epsilon, desc->momentum,
           desc->running_variance == AXN_RUNNING_VARIANCE_BIASED ? "biased" : "unbiased",
           (int)desc->isa);
  add_strides(text, sizeof text, " x_strides=", desc->x_strides, desc->rank);
  add_strides(text, sizeof text, " y_strides=", desc->y_strides, desc->rank);
  return text;
}
