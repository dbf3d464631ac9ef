/* SPDX-License-Identifier: MIT */
/*
 * How long a line of the cache takes from one core to another and back: some 60 to 100 ns where they share a cache,
 * several hundred where they do not. What a virtual machine calls its cores may be these at one time and those at
 * another, and two threads that share a tensor then take other times.
 *
 *     gcc -O2 -pthread bench/round_trip.c -o round_trip && ./round_trip
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

enum { SAMPLES = 20, TURNS = 2000 };

static _Alignas(128) atomic_int turn;

static void wait_for(int wanted) {
  while (atomic_load_explicit(&turn, memory_order_acquire) != wanted) {
  }
}

static void pass_on(int to) {
  atomic_store_explicit(&turn, to, memory_order_release);
}

static void *answer(void *nothing) {
  for (int i = 0; i < SAMPLES * TURNS; i++) {
    wait_for(1);
    pass_on(0);
  }
  return nothing;
}

static double nanoseconds(void) {
  struct timespec now;
  timespec_get(&now, TIME_UTC);
  return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

int main(void) {
  pthread_t other;
  if (pthread_create(&other, NULL, answer, NULL) != 0) return 1;
  for (int s = 0; s < SAMPLES; s++) {
    const double start = nanoseconds();
    for (int i = 0; i < TURNS; i++) {
      pass_on(1);
      wait_for(0);
    }
    printf("%.0f ns\n", (nanoseconds() - start) / TURNS);
  }
  return pthread_join(other, NULL);
}
