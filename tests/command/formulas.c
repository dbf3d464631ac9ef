/* SPDX-License-Identifier: MIT */
#include "formulas.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const norms[] = {"batch", "layer", "instance", "group", "rms", "positional", "ghost"};

/* Two samples share statistics, or all where two do not divide them. */
static int64_t ghost_batch(const struct array *x) {
  return x->shape[0] % 2 == 0 ? 2 : x->shape[0];
}

const char *options_of(int norm, const struct array *x) {
  static char text[40];
  text[0] = '\0';
  if (norm == GROUP) snprintf(text, sizeof text, " --groups %d", GROUPS);
  if (norm == GHOST) snprintf(text, sizeof text, " --ghost-batch %d", (int)ghost_batch(x));
  return text;
}

/* An N,C,rest tensor: the statistic that an element belongs to, by the definition of each norm. */
int64_t statistic_of(int norm, const struct array *x, int64_t index) {
  int64_t channels = x->shape[1], inner = x->count / (x->shape[0] * channels);
  int64_t c = index / inner % channels, n = index / inner / channels;
  switch (norm) {
  case BATCH:
    return c;
  case LAYER:
  case RMS:
    return n;
  case INSTANCE:
    return n * channels + c;
  case POSITIONAL:
    return n * inner + index % inner;
  case GHOST:
    return n / ghost_batch(x) * channels + c;
  default:
    return n * GROUPS + c / (channels / GROUPS);
  }
}

int64_t statistics_of(int norm, const struct array *x) {
  return statistic_of(norm, x, x->count - 1) + 1;
}

int64_t channel_of(const struct array *x, int64_t index) {
  return index / (x->count / (x->shape[0] * x->shape[1])) % x->shape[1];
}

struct moments moments_of(int norm, const struct array *x) {
  int64_t statistics = statistics_of(norm, x);
  struct moments m = {calloc((size_t)statistics, sizeof(double)),
                      calloc((size_t)statistics, sizeof(double)), (double)(x->count / statistics)};
  for (int64_t i = 0; i < x->count && norm != RMS; i++)
    m.mean[statistic_of(norm, x, i)] += x->data[i] / m.count;
  for (int64_t i = 0; i < x->count; i++) {
    int64_t s = statistic_of(norm, x, i);
    m.variance[s] += (x->data[i] - m.mean[s]) * (x->data[i] - m.mean[s]) / m.count;
  }
  return m;
}

void moments_free(struct moments *m) {
  free(m->mean);
  free(m->variance);
}

double activation_of(const char *name, double z) {
  const double pi = acos(-1);
  if (strcmp(name, "relu") == 0) return z > 0 ? z : 0;
  if (strcmp(name, "leaky-relu") == 0) return z > 0 ? z : 0.125 * z;
  if (strcmp(name, "silu") == 0) return z / (1 + exp(-z));
  if (strcmp(name, "gelu") == 0) return z * erfc(-z / sqrt(2)) / 2;
  if (strcmp(name, "gelu-tanh") == 0)
    return z * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z * z * z))) / 2;
  return z;
}

double activation_derivative(const char *name, double z) {
  const double step = 1e-3;
  if (strcmp(name, "none") == 0 || strstr(name, "relu") != NULL)
    return z > 0 ? 1 : activation_of(name, -1) - activation_of(name, -2);
  double inner = activation_of(name, z + step) - activation_of(name, z - step);
  double outer = activation_of(name, z + 2 * step) - activation_of(name, z - 2 * step);
  return (8 * inner - outer) / (12 * step);
}

void expect_near(double value, double due, double tolerance, const char *what) {
  cr_expect(fabs(value - due) <= tolerance * fmax(1, fabs(due)), "%s: %.9g in place of %.9g", what,
            value, due);
}

struct array channels(const char *name, int64_t count, double offset, uint64_t seed) {
  char shape[32];
  snprintf(shape, sizeof shape, "%d", (int)count);
  return normal_array(name, shape, offset, seed);
}
