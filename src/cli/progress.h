/* SPDX-License-Identifier: MIT */
/* A progress bar on standard error: only on a terminal, only for work that takes over a second. */
#ifndef AXISNORM_PROGRESS_H
#define AXISNORM_PROGRESS_H

void progress_start(const char *what, int steps);
void progress_step(void); /* one step is done */
void progress_end(void);  /* wipes the bar; also right where none was started */

#endif
