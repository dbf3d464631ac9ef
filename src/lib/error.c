/* SPDX-License-Identifier: MIT */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const texts[] = {
    [AXN_OK] = "success",
    [AXN_ERROR_NULL] = "null pointer where data is required",
    [AXN_ERROR_STRUCT_SIZE] = "struct not started by its init function",
    [AXN_ERROR_OPTION] = "unknown option value, or one that this norm does not take",
    [AXN_ERROR_SHAPE] = "rank or extent out of range",
    [AXN_ERROR_OVERFLOW] = "size does not fit",
    [AXN_ERROR_GROUPS] = "groups do not divide the channels, or ghost batches the samples",
    [AXN_ERROR_AXIS] = "no such axis",
    [AXN_ERROR_EPSILON] = "epsilon is not a finite number above 0",
    [AXN_ERROR_MOMENTUM] = "momentum or batch count out of range",
    [AXN_ERROR_THREADS] = "negative thread count",
    [AXN_ERROR_ISA] = "instruction set not available",
    [AXN_ERROR_MEMORY] = "out of memory",
    [AXN_ERROR_TOO_FEW_VALUES] = "training needs more than one value per statistic",
    [AXN_ERROR_WORKSPACE] = "workspace too small",
    [AXN_ERROR_ALIGNMENT] = "buffer not aligned to its element type",
    [AXN_ERROR_OVERLAP] = "buffers overlap",
    [AXN_ERROR_STATISTICS] = "statistics missing, or given ones that do not fit together",
    [AXN_ERROR_STRATEGY] = "strategy incomplete, or it selects axes that the tensor does not have",
    [AXN_ERROR_STRIDES] = "strides below 1, or that let elements overlap",
};

const char *axn_status_string(axn_status status) {
  const size_t count = sizeof texts / sizeof *texts;
  return (size_t)status < count ? texts[status] : "unknown status";
}

axn_status axn_fail(axn_error *error, axn_status status, const char *format, ...) {
  if (error != NULL) {
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
  }
  return status;
}

axn_status axn_succeed(axn_error *error) {
  if (error != NULL) {
    error->status = AXN_OK;
    error->message[0] = '\0';
  }
  return AXN_OK;
}
