/* Precise statistics for inference (Wu & Johnson 2021): after training, running averages still remember
 * weights that are gone; pooling the moments of some batches with the final weights does not.
 *   cc docs/precise_statistics.c $(pkg-config --cflags --libs axisnorm) && ./a.out */
#include <axisnorm/moments.h>
#include <stdio.h>

enum { N = 16, C = 2, H = 6, W = 6, TRAINING_BATCHES = 200, PRECISE_BATCHES = 50 };
static float x[N * C * H * W], y[N * C * H * W], workspace[4096];

/* A batch as the layer before the normalization hands it over; `weight` stands for that layer. */
static void next_batch(float weight, unsigned *seed) {
  for (int i = 0; i < N * C * H * W; i++) {
    *seed = *seed * 1664525u + 1013904223u;
    x[i] = weight * ((float)(*seed >> 16) / 32768 - 1 + (float)(i / (H * W) % C));
  }
}

static int failed(axn_status status, const axn_error *error) {
  if (status != AXN_OK) puts(error->message);
  return status != AXN_OK;
}

int main(void) {
  float running_mean[C] = {0, 0}, running_variance[C] = {1, 1};
  float precise_mean[C], precise_variance[C];
  unsigned seed = 1;
  axn_error error;
  axn_plan *plan;
  axn_desc desc = axn_desc_init();
  desc.rank = 4, desc.shape[0] = N, desc.shape[1] = C, desc.shape[2] = H, desc.shape[3] = W;
  if (failed(axn_plan_create(&plan, &desc, &error), &error)) return 1;

  /* Training: the weight moves, the running averages follow it, ten batches late. */
  axn_training_args training = axn_training_init();
  training.x = x, training.y = y;
  training.running_mean = running_mean, training.running_variance = running_variance;
  training.workspace = workspace, training.workspace_size = sizeof workspace;
  for (int step = 1; step <= TRAINING_BATCHES; step++) {
    next_batch((float)step / TRAINING_BATCHES, &seed);
    if (failed(axn_forward_training(plan, &training, &error), &error)) return 1;
  }

  /* The weight is final: pool the moments of some batches of training data. */
  double mean[C], m2[C];
  axn_moment_state state = axn_moment_state_init();
  state.statistics = C, state.mean = mean, state.m2 = m2;
  if (failed(axn_moments_reset(&state, &error), &error)) return 1;
  axn_moments_args moments = axn_moments_init();
  moments.x = x, moments.state = &state;
  moments.workspace = workspace, moments.workspace_size = sizeof workspace;
  for (int batch = 0; batch < PRECISE_BATCHES; batch++) {
    next_batch(1, &seed);
    if (failed(axn_moments_accumulate(plan, &moments, &error), &error)) return 1;
  }
  if (failed(axn_moments_set_running(plan, &state, precise_mean, precise_variance, &error),
             &error)) {
    return 1;
  }

  /* Uniform from -1 to 1 has the variance 1/3; channel 1 has the mean 1. */
  for (int c = 0; c < C; c++) {
    printf("channel %d   mean: running %7.4f, precise %7.4f, true %d   ", c,
           (double)running_mean[c], (double)precise_mean[c], c);
    printf("variance: running %.4f, precise %.4f, true 0.3333\n", (double)running_variance[c],
           (double)precise_variance[c]);
  }
  axn_plan_destroy(plan);
  return 0;
}
