/* SPDX-License-Identifier: MIT */
/* Plans, kept between calls: a call carries a description, and to plan is more than to look up. */
#include <pthread.h>

#include "xla.h"

enum { PLACES = 256, WAYS = 8 }; /* a plan may stand in any of WAYS neighbouring places */

/* What of a descriptor tells plans apart; no padding, so that bytes can be compared. */
struct key {
  int64_t shape[AXN_MAX_RANK], groups, ghost_batch;
  double epsilon, momentum, negative_slope;
  int32_t norm, dtype, layout, rank, axis, parameters, running_variance, activation, threads,
      unused;
};
_Static_assert(sizeof(struct key) == 8 * (AXN_MAX_RANK + 5) + 4 * 10, "padding");

static struct place {
  struct key key;
  axn_plan *plan;
  axn_plan_info info;
  int users;
  uint64_t used; /* when last */
} places[PLACES];
static uint64_t now;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static struct key key_of(const axn_desc *desc) {
  struct key key = {.groups = desc->groups,
                    .ghost_batch = desc->ghost_batch,
                    .epsilon = desc->epsilon,
                    .momentum = desc->momentum,
                    .negative_slope = desc->negative_slope,
                    .norm = (int32_t)desc->norm,
                    .dtype = (int32_t)desc->dtype,
                    .layout = (int32_t)desc->layout,
                    .rank = desc->rank,
                    .axis = desc->axis,
                    .parameters = (int32_t)desc->parameters,
                    .running_variance = (int32_t)desc->running_variance,
                    .activation = (int32_t)desc->activation,
                    .threads = desc->threads};
  memcpy(key.shape, desc->shape, sizeof key.shape);
  return key;
}

/* FNV-1a, a word at a time. */
static unsigned first_place(const struct key *key) {
  uint64_t words[sizeof *key / sizeof(uint64_t)], hash = 14695981039346656037u;
  memcpy(words, key, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    hash = (hash ^ words[i] ^ words[i] >> 32) * 1099511628211u;
  return (unsigned)(hash >> 40);
}

/* The place of the plan, or else the one to put it: empty, or of the plan not used for longest; null where
 * all are in use. */
static struct place *find_place(const struct key *key) {
  struct place *oldest = NULL;
  const unsigned first = first_place(key);
  for (unsigned i = 0; i < WAYS; i++) {
    struct place *place = &places[(first + i) % PLACES];
    if (place->plan != NULL && memcmp(&place->key, key, sizeof *key) == 0) return place;
    if (place->users == 0 && (oldest == NULL || place->used < oldest->used)) oldest = place;
  }
  return oldest;
}

static axn_status make(struct xla_plan *taken, const axn_desc *desc, axn_error *error) {
  axn_status status = axn_plan_create(&taken->plan, desc, error);
  taken->info = axn_plan_info_init();
  taken->place = -1;
  if (status == AXN_OK) status = axn_plan_describe(taken->plan, &taken->info, error);
  return status;
}

axn_status xla_plan_take(struct xla_plan *taken, const axn_desc *desc, axn_error *error) {
  const struct key key = key_of(desc);
  axn_status status = AXN_OK;
  pthread_mutex_lock(&mutex);
  struct place *place = find_place(&key);
  const bool kept =
      place != NULL && place->plan != NULL && memcmp(&place->key, &key, sizeof key) == 0;
  if (!kept) status = make(taken, desc, error);
  if (!kept && status == AXN_OK && place != NULL) {
    axn_plan_destroy(place->plan);
    *place = (struct place){.key = key, .plan = taken->plan, .info = taken->info};
  }
  if (status == AXN_OK && place != NULL) {
    place->users++;
    place->used = ++now;
    *taken = (struct xla_plan){place->plan, place->info, (int)(place - places)};
  }
  pthread_mutex_unlock(&mutex);
  return status;
}

void xla_plan_give_back(const struct xla_plan *taken) {
  if (taken->place < 0) {
    axn_plan_destroy(taken->plan);
    return;
  }
  pthread_mutex_lock(&mutex);
  places[taken->place].users--;
  pthread_mutex_unlock(&mutex);
}
