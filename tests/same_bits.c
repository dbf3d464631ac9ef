/* SPDX-License-Identifier: MIT */
/* Results are the same bits on every instruction set and every machine: each variant that runs here
 * must come to the checksums below, which cover all norms, both layouts, all passes, types and
 * activations, and rows long and short. They were taken on x86-64, and are to change only together with a
 * line in NEWS. No Criterion, so that it runs on a machine, or an emulator, that has nothing but the
 * library. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "axisnorm/axisnorm.h"

static const uint64_t EXPECTED = UINT64_C(0xb23b07dd6681a42b);
static const uint64_t EXPECTED_OF_SUMS = UINT64_C(0x779e621cf3cea095);

/* Short lines, long ones, matrices, lines folded into columns, more columns than a block holds, more
 * values than a block of sums. */
enum { SHAPES = 10 };
static const int64_t shapes[SHAPES][4] = {
    {3, 16, 7, 7},  {2, 16, 31, 33}, {64, 48, 1, 1},   {4, 32, 14, 14}, {2, 8, 3, 3},
    {1, 4, 65, 67}, {20, 24, 7, 7},  {40, 1200, 1, 1}, {2, 24, 9, 10},  {1, 4, 150, 131}};

/* Fowler, Noll & Vo's hash, 64 bits. */
static uint64_t hash(uint64_t state, const void *values, int64_t count, size_t size) {
  const unsigned char *bytes = values;
  for (size_t i = 0; i < (size_t)count * size; i++) {
    state = (state ^ bytes[i]) * UINT64_C(1099511628211);
  }
  return state;
}

/* A float, cut to 16 bits: whatever a value becomes, it is the same everywhere. */
static uint16_t cut(axn_dtype dtype, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (dtype == AXN_BFLOAT16) return (uint16_t)(bits >> 16);
  const uint32_t exponent = bits >> 23 & 0xff, sign = bits >> 16 & 0x8000;
  if (exponent < 113 || exponent > 142) return (uint16_t)sign;
  return (uint16_t)(sign | (exponent - 112) << 10 | (bits >> 13 & 0x3ff));
}

/* `spread` times uniform in -1 to 1, plus `offset`; exact in float, so the same everywhere. */
static void *values(axn_dtype dtype, int64_t count, uint32_t seed, float spread, float offset) {
  float *result = malloc((size_t)count * sizeof *result);
  uint16_t *shorts = (uint16_t *)(void *)result;
  for (int64_t i = 0; i < count; i++) {
    seed = seed * UINT32_C(1664525) + UINT32_C(1013904223);
    const float value = ((float)(seed >> 16) / 32768 - 1) * spread + offset;
    if (dtype == AXN_FLOAT32) {
      result[i] = value;
    } else {
      shorts[i] = cut(dtype, value);
    }
  }
  return result;
}

static uint64_t run(uint64_t state, const axn_desc *desc, const axn_plan *plan, float offset) {
  axn_plan_info info = axn_plan_info_init();
  axn_plan_describe(plan, &info, NULL);
  const axn_dtype t = desc->dtype;
  const size_t size = axn_dtype_size(t), four = sizeof(float);
  const int64_t n = info.elements, p = info.parameters, s = info.statistics;
  void *x = values(t, n, 1, 2, offset), *grad_y = values(t, n, 2, 1, 0);
  void *scale = values(AXN_FLOAT32, p, 3, 1, 1), *y = values(t, n, 4, 1, 0);
  void *grad_x = values(t, n, 5, 1, 0), *residual = values(t, n, 10, 1, 0);
  void *mean = values(AXN_FLOAT32, s, 6, 1, 0), *rstd = values(AXN_FLOAT32, s, 7, 1, 0);
  void *grad_scale = values(AXN_FLOAT32, p, 8, 1, 0);
  void *grad_shift = values(AXN_FLOAT32, p, 9, 1, 0);
  void *workspace = malloc(info.training_workspace + info.backward_workspace);
  axn_training_args training = axn_training_init();
  training.x = x, training.y = y, training.scale = scale, training.mean = mean;
  training.rstd = rstd, training.workspace = workspace;
  training.workspace_size = info.training_workspace;
  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.grad_y = grad_y, backward.scale = scale, backward.mean = mean;
  backward.rstd = rstd, backward.grad_x = grad_x, backward.grad_scale = grad_scale;
  backward.grad_shift = grad_shift, backward.workspace = workspace;
  backward.workspace_size = info.backward_workspace;
  const int half = state % 2 == 0; /* by the bits so far */
  if (desc->activation != AXN_ACTIVATION_NONE && half) {
    training.residual = backward.residual = residual;
  }
  if (axn_forward_training(plan, &training, NULL) == AXN_OK &&
      axn_backward(plan, &backward, NULL) == AXN_OK) {
    state = hash(hash(hash(state, y, n, size), mean, s, four), rstd, s, four);
    state = hash(hash(hash(state, grad_x, n, size), grad_scale, p, four), grad_shift, p, four);
  }
  void *all[] = {x, grad_y, scale, y, grad_x, residual, mean, rstd, grad_scale, grad_shift};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free(workspace);
  return state;
}

static uint64_t run_as(uint64_t state, const axn_desc *given, axn_dtype dtype,
                       axn_activation activation, float offset) {
  axn_desc desc = *given;
  axn_plan *plan;
  desc.dtype = dtype, desc.parameter_dtype = AXN_FLOAT32, desc.activation = activation;
  if (axn_plan_create(&plan, &desc, NULL) != AXN_OK) abort();
  state = run(state, &desc, plan, offset);
  axn_plan_destroy(plan);
  return state;
}

/* On values near 0, and on some that lie far from it; with an activation; in 16 bits. */
static uint64_t run_desc(uint64_t state, const axn_desc *desc) {
  const axn_activation activation =
      (axn_activation)(1 + (int)(state % AXN_ACTIVATION_GELU_TANH)); /* by the bits so far */
  state = run_as(state, desc, AXN_FLOAT32, AXN_ACTIVATION_NONE, 16);
  state = run_as(state, desc, AXN_FLOAT32, AXN_ACTIVATION_NONE, 65536);
  state = run_as(state, desc, AXN_FLOAT32, activation, 1);
  state = run_as(state, desc, AXN_BFLOAT16, AXN_ACTIVATION_NONE, 1);
  return run_as(state, desc, AXN_FLOAT16, activation, 1);
}

static uint64_t checksum(axn_isa isa) {
  uint64_t state = UINT64_C(14695981039346656037);
  for (int i = 0; i < SHAPES * 2; i++) {
    axn_desc desc = axn_desc_init();
    desc.layout = i % 2 == 0 ? AXN_CHANNELS_FIRST : AXN_CHANNELS_LAST;
    desc.isa = isa, desc.groups = 4, desc.rank = 4;
    for (int k = 0; k < 4; k++) desc.shape[k] = shapes[i / 2][k];
    desc.ghost_batch = desc.shape[0] % 2 == 0 ? desc.shape[0] / 2 : desc.shape[0];
    for (int norm = 1; axn_norm_name((axn_norm)norm) != NULL; norm++) {
      desc.norm = (axn_norm)norm;
      desc.parameters = AXN_PARAMETERS_PER_CHANNEL;
      state = run_desc(state, &desc);
    }
    const axn_norm per_element[] = {AXN_LAYER_NORM, AXN_RMS_NORM};
    desc.parameters = AXN_PARAMETERS_PER_ELEMENT;
    for (int k = 0; k < 2; k++) {
      desc.norm = per_element[k];
      state = run_desc(state, &desc);
    }
  }
  return state;
}

/* ---- sums of blocks of rows ----
 * Backward adds them up in float64, of which gradients in float32 show little. Here they show it all: large
 * gradients cancel, since the second half of the rows is the first with the other sign, and what rounding
 * leaves of them is large beside the gradients of most rows. */

enum { COLUMNS = 24, ROWS = 560, SUMMED = COLUMNS * ROWS };

/* One row of 37 has gradients from 2^20 to 2^44, the others have some below 2^-20. */
static void fill_cancelling(float *x, float *grad_y) {
  uint32_t seed = 11;
  for (int i = 0; i < SUMMED / 2; i++) {
    seed = seed * UINT32_C(1664525) + UINT32_C(1013904223);
    const float value = (float)(seed >> 16) / 32768 - 1;
    const float large = (float)(UINT64_C(1) << (20 + (seed >> 8) % 25));
    x[i] = x[i + SUMMED / 2] = 2 * value + (float)(seed >> 8 & 0xff) / 256;
    grad_y[i] = value * (i / COLUMNS % 37 == 5 ? large : 1.0f / (1 << 20));
    grad_y[i + SUMMED / 2] = -grad_y[i];
  }
}

static uint64_t run_cancelling(uint64_t state, const axn_desc *desc) {
  static float x[SUMMED], grad_y[SUMMED], y[SUMMED], grad_x[SUMMED];
  static float mean[ROWS], rstd[ROWS];
  float scale[COLUMNS], grad_scale[COLUMNS], grad_shift[COLUMNS];
  axn_plan *plan;
  axn_plan_info info = axn_plan_info_init();
  if (axn_plan_create(&plan, desc, NULL) != AXN_OK) abort();
  axn_plan_describe(plan, &info, NULL);
  void *workspace = malloc(info.training_workspace + info.backward_workspace);
  fill_cancelling(x, grad_y);
  for (int c = 0; c < COLUMNS; c++) scale[c] = 1 + (float)(c * c * c) / 12289;
  axn_training_args training = axn_training_init();
  training.x = x, training.y = y, training.mean = mean, training.rstd = rstd;
  training.workspace = workspace, training.workspace_size = info.training_workspace;
  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.grad_y = grad_y, backward.scale = scale, backward.mean = mean;
  backward.rstd = rstd, backward.grad_x = grad_x, backward.grad_scale = grad_scale;
  backward.grad_shift = grad_shift, backward.workspace = workspace;
  backward.workspace_size = info.backward_workspace;
  if (axn_forward_training(plan, &training, NULL) != AXN_OK) abort();
  if (axn_backward(plan, &backward, NULL) != AXN_OK) abort();
  state = hash(state, grad_x, SUMMED, sizeof *grad_x);
  state = hash(state, grad_scale, COLUMNS, sizeof *grad_scale);
  free(workspace);
  axn_plan_destroy(plan);
  return hash(state, grad_shift, COLUMNS, sizeof *grad_shift);
}

static uint64_t checksum_of_sums(axn_isa isa) {
  const axn_norm norms[] = {AXN_BATCH_NORM, AXN_LAYER_NORM, AXN_INSTANCE_NORM, AXN_GROUP_NORM,
                            AXN_RMS_NORM};
  uint64_t state = UINT64_C(14695981039346656037);
  axn_desc desc = axn_desc_init();
  desc.layout = AXN_CHANNELS_LAST, desc.isa = isa, desc.groups = 4, desc.rank = 3;
  desc.shape[0] = 1, desc.shape[1] = COLUMNS, desc.shape[2] = ROWS;
  for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
    desc.norm = norms[i];
    state = run_cancelling(state, &desc);
  }
  desc.norm = AXN_LAYER_NORM, desc.parameters = AXN_PARAMETERS_PER_ELEMENT, desc.rank = 2;
  desc.shape[0] = ROWS, desc.shape[1] = COLUMNS;
  return run_cancelling(state, &desc);
}

/* Whether an instruction set's checksum is not the one that it should be. */
static int differs(axn_isa isa, const char *of, uint64_t sum, uint64_t expected) {
  printf("%s: %s%016" PRIx64 "%s\n", axn_isa_name(isa), of, sum,
         sum == expected ? "" : ", expected another");
  return sum != expected;
}

int main(void) {
  int wrong = 0;
  for (int isa = AXN_ISA_BASELINE; axn_isa_name((axn_isa)isa) != NULL; isa++) {
    if (!axn_isa_available((axn_isa)isa)) continue;
    wrong += differs((axn_isa)isa, "", checksum((axn_isa)isa), EXPECTED);
    wrong +=
        differs((axn_isa)isa, "sums of rows ", checksum_of_sums((axn_isa)isa), EXPECTED_OF_SUMS);
  }
  return wrong != 0;
}
