/* SPDX-License-Identifier: MIT */
/* Every norm and pass on the host's own threads, and one plan run from several at once: a program
 * of its own because the thread sanitizer, which is to watch it, and Criterion do not go together
 * (nor does the sanitizer see through OpenMP). Compares with one thread. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <axisnorm/moments.h>

#include "loops.h"

/* The second is so wide, and has so many rows, that with channels last threads share all of its statistics. */
static const int64_t SHAPES[][4] = {{4, 16, 40, 40}, {2, 300, 18, 18}};

/* Room for both. Positional normalization has the most statistics, one per pixel. */
enum { ELEMENTS = 2 * 300 * 18 * 18, PARAMETERS = 300, STATISTICS = 4 * 40 * 40, RUNNERS = 3 };

typedef struct result {
  float y[ELEMENTS], grad_x[ELEMENTS];
  float mean[STATISTICS], rstd[STATISTICS], grad_scale[PARAMETERS], grad_shift[PARAMETERS];
  double moments[2][STATISTICS];
} result;

static float x[ELEMENTS], grad_y[ELEMENTS], scale[PARAMETERS];

typedef struct runner {
  const axn_plan *plan;
  int threads;
  axn_status status;
  result out;
} runner;

static void *run(void *data) {
  runner *self = data;
  axn_plan_info info = axn_plan_info_init();
  axn_plan_describe(self->plan, &info, NULL);
  void *workspace = malloc(info.training_workspace + info.backward_workspace);
  axn_training_args training = axn_training_init();
  training.x = x, training.y = self->out.y, training.scale = scale;
  training.mean = self->out.mean, training.rstd = self->out.rstd;
  training.workspace = workspace, training.workspace_size = info.training_workspace;
  training.threads = self->threads;
  self->status = axn_forward_training(self->plan, &training, NULL);
  axn_backward_args backward = axn_backward_init();
  backward.x = x, backward.grad_y = grad_y, backward.scale = scale;
  backward.mean = self->out.mean, backward.rstd = self->out.rstd;
  backward.grad_x = self->out.grad_x, backward.grad_scale = self->out.grad_scale;
  backward.grad_shift = self->out.grad_shift;
  backward.workspace = workspace, backward.workspace_size = info.backward_workspace;
  backward.threads = self->threads;
  if (self->status == AXN_OK) self->status = axn_backward(self->plan, &backward, NULL);
  axn_moment_state state = axn_moment_state_init();
  state.statistics = info.statistics;
  state.mean = self->out.moments[0], state.m2 = self->out.moments[1];
  axn_moments_args moments = axn_moments_init();
  moments.x = x, moments.state = &state, moments.threads = self->threads;
  moments.workspace = workspace, moments.workspace_size = info.training_workspace;
  for (int i = 0; i < 2 && self->status == AXN_OK; i++) {
    self->status = axn_moments_accumulate(self->plan, &moments, NULL);
  }
  free(workspace);
  return NULL;
}

/* Of x: samples, channels, height and width. */
static int check_norm(axn_norm norm, axn_layout layout, const int64_t shape[4], runner *runners) {
  axn_desc desc = axn_desc_init();
  desc.norm = norm, desc.layout = layout, desc.groups = 4, desc.rank = 4, desc.ghost_batch = 2;
  memcpy(desc.shape, shape, 4 * sizeof *shape);
  desc.parallel_for = loop_pthreads;
  axn_plan *plan;
  if (axn_plan_create(&plan, &desc, NULL) != AXN_OK) return 1;
  pthread_t threads[RUNNERS];
  memset(runners, 0, RUNNERS * sizeof *runners);
  for (int i = 0; i < RUNNERS; i++) {
    /* More threads than most norms have statistics per unit: both schedules are run. */
    runners[i].plan = plan, runners[i].threads = 1 + 6 * i;
    pthread_create(&threads[i], NULL, run, &runners[i]);
  }
  int wrong = 0;
  for (int i = 0; i < RUNNERS; i++) {
    pthread_join(threads[i], NULL);
    wrong += runners[i].status != AXN_OK;
    wrong += memcmp(&runners[i].out, &runners[0].out, sizeof(result)) != 0;
  }
  axn_plan_destroy(plan);
  printf("%s, %d channels, layout %d: %s\n", axn_norm_name(norm), (int)shape[1], (int)layout,
         wrong ? "wrong" : "right");
  return wrong;
}

int main(void) {
  runner *runners = malloc(RUNNERS * sizeof *runners);
  int wrong = 0;
  for (int i = 0; i < ELEMENTS; i++) {
    x[i] = (float)(i % 1013) * 0.01f;
    grad_y[i] = (float)(i % 631) * 0.02f - 6;
  }
  for (int c = 0; c < PARAMETERS; c++) scale[c] = 1 + (float)c * 0.1f;
  for (int norm = 1; axn_norm_name((axn_norm)norm) != NULL; norm++) {
    for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++) {
      wrong += check_norm((axn_norm)norm, AXN_CHANNELS_FIRST, SHAPES[i], runners);
      wrong += check_norm((axn_norm)norm, AXN_CHANNELS_LAST, SHAPES[i], runners);
    }
  }
  free(runners);
  return wrong != 0;
}
