/* SPDX-License-Identifier: MIT */
/* The passes of copy.h over one thread's part, compiled once per instruction set. */
#ifndef AXISNORM_COPY_KERNELS_H
#define AXISNORM_COPY_KERNELS_H

#include "copy.h"

/* Runs any pass but MEMORY_COPY_LIBRARY over the bytes from `begin` to just before `end`, whole lines. */
typedef void (*memory_kernel)(const struct memory_work *work, size_t begin, size_t end);

void memory_kernel_baseline(const struct memory_work *work, size_t begin, size_t end);
void memory_kernel_avx2(const struct memory_work *work, size_t begin, size_t end);
void memory_kernel_avx512(const struct memory_work *work, size_t begin, size_t end);

#endif
