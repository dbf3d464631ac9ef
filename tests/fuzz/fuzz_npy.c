/* SPDX-License-Identifier: MIT */
/* Any bytes as a .npy file: a tensor of the stated shape, or a message; never more memory than the
 * file has data for. */
#include <stdint.h>
#include <stdlib.h>

#include "npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct tensor tensor = {0};
  if (npy_read_memory("fuzz", data, size, &tensor) == DONE) {
    int64_t count = 1;
    for (int k = 0; k < tensor.shape.rank; k++) count *= tensor.shape.extents[k];
    if ((uint64_t)count * sizeof(float) > size) abort();
    tensor_release(&tensor);
  }
  return 0;
}
