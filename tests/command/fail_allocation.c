/* SPDX-License-Identifier: MIT */
/* A library to preload: the allocation whose number FAIL_ALLOCATION names fails, all others work.
 * A process that never gets there says so at its end. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static atomic_int made;
static atomic_int fail_at; /* 0: not started, so nothing fails */
static pid_t process;

__attribute__((constructor)) static void start(void) {
  const char *text = getenv("FAIL_ALLOCATION");
  process = getpid();
  atomic_store(&made, 0);
  atomic_store(&fail_at, text != NULL ? atoi(text) : 0);
}

__attribute__((destructor)) static void end(void) {
  static const char message[] = "no allocation left to fail\n";
  int due = atomic_load(&fail_at);
  if (due == 0 || getpid() != process || atomic_load(&made) >= due) return;
  ssize_t written = write(STDERR_FILENO, message, sizeof message - 1);
  (void)written;
}

static int fails(void) {
  int due = atomic_load(&fail_at);
  if (due == 0 || atomic_fetch_add(&made, 1) + 1 != due) return 0;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) {
  return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
  return fails() ? NULL : __libc_realloc(memory, size);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
  if (fails()) return ENOMEM;
  *result = __libc_memalign(alignment, size);
  return *result != NULL ? 0 : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size) {
  return fails() ? NULL : __libc_memalign(alignment, size);
}
