/* SPDX-License-Identifier: MIT */
/* Which instruction sets this build and this machine have. */
#ifndef AXN_LIB_CPU_H
#define AXN_LIB_CPU_H

#include "axisnorm/axisnorm.h"
#include "kernels/kernels.h"

/* Resolves AXN_ISA_AUTO, through the environment's AXISNORM_ISA if set, and finds the kernels. */
axn_status axn_choose_isa(axn_isa wanted, axn_isa *isa, const axn_kernels **kernels,
                          axn_error *error);

/* The cache that all cores share. */
int64_t axn_shared_cache_bytes(void);

#endif
