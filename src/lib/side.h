/* SPDX-License-Identifier: MIT */
/* Tensors lie in memory in one of two ways: as x and its gradient do, or as y does, and all else that is
 * parallel to y. */
#ifndef AXN_LIB_SIDE_H
#define AXN_LIB_SIDE_H

typedef enum axn_side {
  AXN_SIDE_X, /* x, grad_x */
  AXN_SIDE_Y, /* y, grad_y, residual, grad_residual */
  AXN_SIDES
} axn_side;

#endif
