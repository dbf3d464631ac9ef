/* SPDX-License-Identifier: MIT */
/* Which instruction sets this build and this machine have. */
#ifndef AXN_LIB_CPU_H
#define AXN_LIB_CPU_H

#include "axisnorm/axisnorm.h"
#include "kernels/kernels.h"

/* The kernels of an instruction set, by the type of a tensor's elements. */
typedef struct axn_kernel_set {
  const axn_kernels *float32, *bfloat16, *float16;
} axn_kernel_set;

/* Resolves AXN_ISA_AUTO, through the environment's AXISNORM_ISA if set, and finds the kernels. */
axn_status axn_choose_isa(axn_isa wanted, axn_isa *isa, const axn_kernel_set **kernels,
                          axn_error *error);

/* The cache that all cores share, */
int64_t axn_shared_cache_bytes(void);

/* and the largest that each has for itself. */
int64_t axn_private_cache_bytes(void);

#endif
