/* SPDX-License-Identifier: MIT */
/* HAS_ASAN where AddressSanitizer is part of the program: gcc and clang say so in ways of their own. */
#ifndef AXN_TESTS_SANITIZER_H
#define AXN_TESTS_SANITIZER_H

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif

#endif
