/* SPDX-License-Identifier: MIT */
/* The part of DLPack's ABI (dmlc/dlpack, version 1) that reading a tensor takes, in its names. */
#ifndef AXISNORM_PYTHON_DLPACK_H
#define AXISNORM_PYTHON_DLPACK_H

#include <stdint.h>

enum { kDLCPU = 1 };
enum { kDLFloat = 2, kDLInt = 0, kDLBfloat = 4 };
enum { DLPACK_MAJOR_VERSION = 1, DLPACK_FLAG_BITMASK_READ_ONLY = 1 };

typedef struct DLDevice {
  int32_t device_type;
  int32_t device_id;
} DLDevice;

typedef struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} DLDataType;

typedef struct DLTensor {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides; /* in elements; null: dense, the last axis innermost */
  uint64_t byte_offset;
} DLTensor;

/* A capsule named "dltensor" holds the first, one named "dltensor_versioned" the second. */
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;

typedef struct DLManagedTensorVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *self);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;

#endif
