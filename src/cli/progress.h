/* SPDX-License-Identifier: MIT */
/* A progress bar on standard error: only on a terminal, only for work that takes over a second. */
#ifndef AXISNORM_PROGRESS_H
#define AXISNORM_PROGRESS_H

#include <stdint.h>

void progress_start(const char *what, int steps);
void progress_expect(int steps); /* so many in all, where that is known only later */
void progress_step(void);        /* one step is done */

/* So much of the step at hand is done. Cheap: to be called as often as is natural. */
void progress_within(int64_t done, int64_t of);

/* Wipes the bar and draws no more; also right where none was started. A message wipes it by
 * itself. */
void progress_end(void);

#endif
