/* SPDX-License-Identifier: MIT */
#include "cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(AXN_X86_KERNELS)
#define HAVE_X86_KERNELS 1
#else
#define HAVE_X86_KERNELS 0
#endif

atomic_bool axn_converts_bfloat16;

static void ask_for_bfloat16(void) {
#if defined(__x86_64__)
  /* Not among the names that every compiler's builtin knows. */
  enum { LEAF = 7, PART = 1, BIT = 5 };
  unsigned a, b, c, d;
  const bool converts = __get_cpuid_count(LEAF, PART, &a, &b, &c, &d) && (a >> BIT & 1) != 0;
  atomic_store_explicit(&axn_converts_bfloat16, converts, memory_order_relaxed);
#endif
}

static int always(void) {
  return 1;
}

#if HAVE_X86_KERNELS
/* Not among the names that every compiler's builtin knows. */
static int has_f16c(void) {
  enum { LEAF = 1, BIT = 29 };
  unsigned a, b, c, d;
  return __get_cpuid(LEAF, &a, &b, &c, &d) && (c >> BIT & 1) != 0;
}

static int has_avx2(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static int has_avx512(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("fma") && has_f16c();
}
#endif

typedef struct variant {
  const char *name;
  const axn_kernel_set *kernels; /* null where this build lacks them */
  int (*supported)(void);
} variant;

#define SET(variant)                                                                               \
  static const axn_kernel_set variant = {&axn_kernels_##variant##_float32,                         \
                                         &axn_kernels_##variant##_bfloat16,                        \
                                         &axn_kernels_##variant##_float16}

SET(baseline);
#if HAVE_X86_KERNELS
SET(avx2);
SET(avx512);
#endif

/* Fastest last. Advanced SIMD belongs to every AArch64, so its baseline is the NEON variant. */
static const variant variants[] = {
    [AXN_ISA_BASELINE] = {"baseline", &baseline, always},
#if HAVE_X86_KERNELS
    [AXN_ISA_AVX2] = {"avx2", &avx2, has_avx2},
    [AXN_ISA_AVX512] = {"avx512", &avx512, has_avx512},
#else
    [AXN_ISA_AVX2] = {"avx2", NULL, NULL},
    [AXN_ISA_AVX512] = {"avx512", NULL, NULL},
#endif
#if defined(__aarch64__)
    [AXN_ISA_NEON] = {"neon", &baseline, always},
#else
    [AXN_ISA_NEON] = {"neon", NULL, NULL},
#endif
};

enum { VARIANTS = sizeof variants / sizeof *variants };

const char *axn_isa_name(axn_isa isa) {
  return (size_t)isa < VARIANTS ? variants[isa].name : NULL;
}

int axn_isa_available(axn_isa isa) {
  if ((size_t)isa >= VARIANTS || variants[isa].kernels == NULL) return 0;
  return variants[isa].supported();
}

static axn_isa best_isa(void) {
  axn_isa best = AXN_ISA_BASELINE;
  for (int i = AXN_ISA_BASELINE; i < VARIANTS; i++) {
    if (axn_isa_available((axn_isa)i)) best = (axn_isa)i;
  }
  return best;
}

static axn_isa isa_of_name(const char *name) {
  for (int i = AXN_ISA_BASELINE; i < VARIANTS; i++) {
    if (strcmp(name, variants[i].name) == 0) return (axn_isa)i;
  }
  return AXN_ISA_AUTO;
}

axn_status axn_choose_isa(axn_isa wanted, axn_isa *isa, const axn_kernel_set **kernels,
                          axn_error *error) {
  const char *source = "isa", *name = axn_isa_name(wanted);
  *isa = wanted;
  if (wanted == AXN_ISA_AUTO) {
    source = "AXISNORM_ISA";
    name = getenv(source);
    *isa = name != NULL && name[0] != '\0' ? isa_of_name(name) : best_isa();
  } else if (name == NULL) {
    return axn_fail(error, AXN_ERROR_ISA, "isa: %d is unknown", (int)wanted);
  }
  if (!axn_isa_available(*isa)) {
    return axn_fail(error, AXN_ERROR_ISA,
                    "%s: %.40s is not an instruction set of this machine and build", source, name);
  }
  *kernels = variants[*isa].kernels;
  ask_for_bfloat16();
  return AXN_OK;
}

enum { PRIVATE = 2, SHARED = 3, LEVELS };
/* Where the processor does not tell. */
static const int64_t usual_cache[LEVELS] = {[PRIVATE] = 1 << 20, [SHARED] = 1 << 25};

#if defined(__x86_64__)
/* The size of the cache of a level by one of the two instructions' leaves that describe caches; 0 if
 * it is not there. sysconf() adds up the caches of all cores on some machines. */
static int64_t cache_by_leaf(unsigned leaf, unsigned level) {
  enum { LEAVES = 8, TYPE = 31, LEVEL = 7 };
  for (unsigned i = 0; i < LEAVES; i++) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d) || (a & TYPE) == 0) return 0;
    if ((a >> 5 & LEVEL) != level) continue;
    return (int64_t)((b >> 22) + 1) * ((b >> 12 & 0x3ff) + 1) * ((b & 0xfff) + 1) *
           ((int64_t)c + 1);
  }
  return 0;
}

static int64_t find_cache(unsigned level) {
  enum { INTEL = 4, AMD = 0x1d };
  const int64_t bytes = cache_by_leaf(INTEL, level);
  return bytes > 0 ? bytes : cache_by_leaf(0x80000000u + AMD, level);
}
#else
static int64_t find_cache(unsigned level) {
  (void)level;
  return 0;
}
#endif

static int64_t cache_bytes(unsigned level) {
  /* Asking takes microseconds, on a virtual machine many; the answer is always the same. */
  static atomic_llong known[LEVELS];
  int64_t bytes = atomic_load_explicit(&known[level], memory_order_relaxed);
  if (bytes != 0) return bytes;
  bytes = find_cache(level);
  if (bytes <= 0) bytes = usual_cache[level];
  atomic_store_explicit(&known[level], bytes, memory_order_relaxed);
  return bytes;
}

int64_t axn_shared_cache_bytes(void) {
  return cache_bytes(SHARED);
}

int64_t axn_private_cache_bytes(void) {
  return cache_bytes(PRIVATE);
}
