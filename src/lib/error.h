/* SPDX-License-Identifier: MIT */
/* Statuses and their messages. */
#ifndef AXN_LIB_ERROR_H
#define AXN_LIB_ERROR_H

#include "axisnorm/axisnorm.h"

/* Fills `error`, where it is not null, and returns `status`, so a check is one line. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
axn_status
axn_fail(axn_error *error, axn_status status, const char *format, ...);

axn_status axn_succeed(axn_error *error);

#endif
