/* Normalizes one tensor with each normalization in turn:
 *   cc docs/example.c $(pkg-config --cflags --libs axisnorm) && ./a.out */
#include <axisnorm/axisnorm.h>
#include <stdio.h>

int main(void) {
  static float x[2 * 4 * 3 * 3], y[2 * 4 * 3 * 3], workspace[4096];
  for (int i = 0; i < 72; i++) x[i] = (float)(i * i % 11);
  for (int norm = 1; axn_norm_name((axn_norm)norm) != NULL; norm++) {
    axn_desc desc = axn_desc_init();
    desc.norm = (axn_norm)norm, desc.groups = 2, desc.ghost_batch = 2, desc.rank = 4;
    desc.shape[0] = 2, desc.shape[1] = 4, desc.shape[2] = desc.shape[3] = 3;
    axn_plan *plan;
    axn_error error;
    if (axn_plan_create(&plan, &desc, &error) != AXN_OK) return puts(error.message), 1;
    axn_training_args args = axn_training_init();
    args.x = x, args.y = y, args.workspace = workspace, args.workspace_size = sizeof workspace;
    if (axn_forward_training(plan, &args, &error) != AXN_OK) return puts(error.message), 1;
    printf("%-10s y[0..2] = %9.6f %9.6f %9.6f\n", axn_norm_name(desc.norm), y[0], y[1], y[2]);
    axn_plan_destroy(plan);
  }
  return 0;
}
