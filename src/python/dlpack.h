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

/* Functions on an exporter's own objects, without capsules: what a capsule "dlpack_exchange_api"
 * holds, __dlpack_c_exchange_api__ of their type. Those that are not called here have no types. */
typedef struct DLPackExchangeAPI {
  struct {
    uint32_t major, minor;
  } version;
  struct DLPackExchangeAPI *previous;
  void (*managed_tensor_allocator)(void);
  void (*managed_tensor_from_py_object_no_sync)(void);
  void (*managed_tensor_to_py_object_no_sync)(void);
  int (*dltensor_from_py_object_no_sync)(void *object, DLTensor *tensor); /* optional */
  void (*current_work_stream)(void);
} DLPackExchangeAPI;

#endif
