/* SPDX-License-Identifier: MIT */
/* The public header alone in C++, and the shared library called from it. */
#include <axisnorm/axisnorm.h>

int main() {
  axn_desc desc = axn_desc_init();
  desc.rank = 2;
  desc.shape[0] = 2;
  desc.shape[1] = 1;
  axn_plan *plan = nullptr;
  if (axn_plan_create(&plan, &desc, nullptr) != AXN_OK) return 1;
  axn_plan_info info = axn_plan_info_init();
  axn_status status = axn_plan_describe(plan, &info, nullptr);
  axn_training_args training = axn_training_init();
  axn_inference_args inference = axn_inference_init();
  axn_backward_args backward = axn_backward_init();
  axn_plan_destroy(plan);
  bool right = info.elements == 2 && training.x == nullptr && inference.x == nullptr &&
               backward.x == nullptr;
  return status == AXN_OK && right ? 0 : 1;
}
