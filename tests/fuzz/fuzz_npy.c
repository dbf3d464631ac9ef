/* SPDX-License-Identifier: MIT */
/* Any bytes as a .npy file: a tensor of the stated shape, or a message; never more memory than the
 * file has data for. */
#include <stdint.h>
#include <stdlib.h>

#include "npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const struct npy_due any = {
      1u << AXN_FLOAT32 | 1u << AXN_FLOAT64 | 1u << AXN_BFLOAT16 | 1u << AXN_FLOAT16, ""};
  struct tensor tensor = {0};
  if (npy_read_memory("fuzz", data, size, any, &tensor) == DONE) {
    int64_t count = 1;
    for (int k = 0; k < tensor.shape.rank; k++) count *= tensor.shape.extents[k];
    if ((uint64_t)count * axn_dtype_size(tensor.dtype) > size) abort();
    tensor_release(&tensor);
  }
  return 0;
}
