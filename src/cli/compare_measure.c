/* SPDX-License-Identifier: MIT */
/* A row of axisnorm compare: noise, then times. */
#include "compare.h"
#include "copy.h"
#include "progress.h"
#include "report.h"
#include "timing.h"

#include <math.h>
#include <stdlib.h>

enum { FORWARD, INFERENCE, BACKWARD, FIRST_COPY, COPIES = 3, WORKS = FIRST_COPY + COPIES };

static const double SECONDS_PER_ROW = 0.1;

static double median_ratio(const struct timed *work, const struct timed *copy, int rounds) {
  double ratios[TIMING_ROUNDS_MOST];
  for (int i = 0; i < rounds; i++) ratios[i] = work->samples[i] / copy->samples[i];
  return timing_median(ratios, rounds);
}

static bool runs(struct batch *batch, void (*work)(void *)) {
  work(batch);
  return batch->status == AXN_OK;
}

static void fill_times(struct compare_row *row, const struct timed *works, int rounds,
                       const bool *possible) {
  const struct timed *copy = &works[FIRST_COPY];
  for (int i = FIRST_COPY; i < WORKS; i++)
    if (timing_median(works[i].samples, rounds) < timing_median(copy->samples, rounds))
      copy = &works[i];
  row->copy_seconds = timing_median(copy->samples, rounds);
  double *const seconds[] = {&row->forward_seconds, &row->inference_seconds,
                             &row->backward_seconds};
  double *const ratios[] = {&row->forward_ratio, &row->inference_ratio, &row->backward_ratio};
  for (int i = FORWARD; i <= BACKWARD; i++) {
    if (!possible[i]) continue;
    *seconds[i] = timing_median(works[i].samples, rounds);
    *ratios[i] = median_ratio(&works[i], copy, rounds);
  }
}

static void do_nothing(void *context) {
  (void)context;
}

static enum outcome measure_times(struct compare_row *row, struct batch *batch) {
  struct timed *works = calloc(WORKS, sizeof *works);
  if (works == NULL) return message_no_memory();
  struct memory_work copies[COPIES];
  for (int i = 0; i < COPIES; i++) {
    copies[i] = (struct memory_work){.pass = (enum memory_pass)(MEMORY_COPY_STREAMING + i),
                                     .from = batch->x.data,
                                     .to = batch->y.data,
                                     .bytes = tensor_bytes(&batch->x),
                                     .threads = batch->prepared.info.threads};
    works[FIRST_COPY + i].work = memory_run;
    works[FIRST_COPY + i].context = &copies[i];
  }
  void (*const passes[])(void *) = {batch_forward, batch_inference, batch_backward};
  bool possible[3];
  for (int i = FORWARD; i <= BACKWARD; i++) {
    bool has_statistics = i != BACKWARD || possible[FORWARD];
    bool usable = batch->population->usable && has_statistics;
    possible[i] = usable && runs(batch, passes[i]);
    works[i].work = possible[i] ? passes[i] : do_nothing;
    works[i].context = batch;
  }
  int rounds = timing_run(works, WORKS, SECONDS_PER_ROW);
  fill_times(row, works, rounds, possible);
  free(works);
  return DONE;
}

enum outcome compare_measure(struct compare_row *row, const struct population *population,
                             const struct options *options, const struct compare_input *input,
                             axn_norm norm, int64_t size) {
  const double none = (double)NAN;
  struct batch batch;
  enum outcome outcome = batch_create(&batch, input, population, options, norm, size);
  const axn_plan_info *info = &batch.prepared.info;
  *row = (struct compare_row){axn_norm_name(norm),
                              report_activation(options->activation),
                              report_if_any(batch.prepared.desc.groups),
                              size,
                              report_if_any(batch.prepared.desc.ghost_batch),
                              info->values_per_statistic,
                              info->statistics,
                              none,
                              none,
                              none,
                              none,
                              none,
                              none,
                              none,
                              none,
                              none,
                              none,
                              none};
  /* Each row from its own start: a row is the same whatever other rows are asked for. */
  struct random random = random_start((uint64_t)options->seed + (uint64_t)size);
  if (outcome == DONE && population->usable) outcome = compare_noise(row, &batch, &random);
  progress_step();
  if (outcome == DONE) outcome = measure_times(row, &batch);
  progress_step();
  batch_release(&batch);
  return outcome;
}
