/* SPDX-License-Identifier: MIT */
/*
 * Parts of larger tensors, without a copy: as in a densely connected network, a layer normalizes the channels
 * that are there so far, and another's output is written where the next channels of the same buffer begin.
 *
 *   cc views_example.c $(pkg-config --cflags --libs axisnorm) -lm && ./a.out
 */
#include <axisnorm/axisnorm.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 4, H = 6, W = 5, ALL = 24, C = 8, FROM = 0, TO = 16, SIZE = N * ALL * H * W };

/* Group normalization and ReLU of channels 0 to 7 of N x 24 x H x W into channels 16 to 23 of the same. */
static int normalize(float *buffer, const int64_t strides[4]) {
  axn_desc desc = axn_desc_init();
  const int64_t shape[4] = {N, C, H, W};
  desc.norm = AXN_GROUP_NORM, desc.groups = 2, desc.activation = AXN_ACTIVATION_RELU;
  desc.rank = 4;
  desc.layout = strides[1] == 1 ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
  for (int k = 0; k < 4; k++) {
    desc.shape[k] = shape[k];
    desc.x_strides[k] = desc.y_strides[k] = strides[k];
  }
  axn_plan *plan = NULL;
  axn_error error;
  axn_plan_info info = axn_plan_info_init();
  axn_status status = axn_plan_create(&plan, &desc, &error);
  if (status == AXN_OK) status = axn_plan_describe(plan, &info, &error);
  axn_inference_args args = axn_inference_init();
  args.x = buffer + FROM * strides[1], args.y = buffer + TO * strides[1];
  args.workspace_size = info.inference_workspace, args.workspace = malloc(args.workspace_size);
  if (status == AXN_OK) status = axn_forward_inference(plan, &args, &error);
  free(args.workspace);
  axn_plan_destroy(plan);
  if (status != AXN_OK) fprintf(stderr, "%s\n", error.message);
  return status != AXN_OK;
}

/* What became of the element at (n, c, h, w) of the input, for comparing. */
static double output_of(const float *buffer, const int64_t strides[4], int n, int c, int h, int w) {
  return (double)buffer[n * strides[0] + (TO + c) * strides[1] + h * strides[2] + w * strides[3]];
}

int main(void) {
  static float first[SIZE], last[SIZE];
  const int64_t channels_first[4] = {ALL * H * W, H * W, W, 1};
  const int64_t channels_last[4] = {H * W * ALL, 1, W * ALL, ALL};
  for (int i = 0; i < SIZE; i++) first[i] = (float)(i * i % 97);
  for (int i = 0; i < SIZE; i++) { /* the same values in the other layout */
    const int n = i / (ALL * H * W), c = i / (H * W) % ALL, position = i % (H * W);
    last[(n * H * W + position) * ALL + c] = first[i];
  }
  if (normalize(first, channels_first) || normalize(last, channels_last)) return 1;

  double difference = 0, sum = 0;
  for (int i = 0; i < N * C * H * W; i++) {
    const int n = i / (C * H * W), c = i / (H * W) % C, h = i / W % H, w = i % W;
    const double y = output_of(first, channels_first, n, c, h, w);
    difference = fmax(difference, fabs(y - output_of(last, channels_last, n, c, h, w)));
    sum += y;
  }
  int untouched = 1;
  for (int i = 0; i < SIZE; i++) {
    if (i / (H * W) % ALL < TO) untouched &= first[i] == (float)(i * i % 97);
  }
  printf("mean of the new channels %.4f, layouts differ by %.1g, the others untouched: %s\n",
         sum / (N * C * H * W), difference, untouched ? "yes" : "no");
  return !(difference < 1e-5 && sum > 0 && untouched);
}
