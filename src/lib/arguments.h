/* SPDX-License-Identifier: MIT */
/* The arguments of the three runs: read from the caller's struct, then checked as a whole. */
#ifndef AXN_LIB_ARGUMENTS_H
#define AXN_LIB_ARGUMENTS_H

#include "axisnorm/axisnorm.h"

axn_status axn_read_training(const axn_plan *plan, const axn_training_args *theirs,
                             axn_training_args *ours, axn_error *error);
axn_status axn_read_inference(const axn_plan *plan, const axn_inference_args *theirs,
                              axn_inference_args *ours, axn_error *error);
axn_status axn_read_backward(const axn_plan *plan, const axn_backward_args *theirs,
                             axn_backward_args *ours, axn_error *error);

#endif
