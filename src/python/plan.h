/* SPDX-License-Identifier: MIT */
/* The object that plan.c makes and run.c runs: axisnorm._core.Plan. */
#ifndef AXISNORM_PYTHON_PLAN_H
#define AXISNORM_PYTHON_PLAN_H

#include "core.h"

/* Kinds of arrays in a pass; all of a kind have one form and one type of elements. */
enum kind { DATA, PARAMETERS, STATISTICS, RUNNING, COUNT, KINDS };

typedef struct {
  PyObject_HEAD axn_plan *plan;
  axn_plan_info info;
  const struct element *element, *parameters;
  struct order order;
  struct form forms[KINDS];
  int64_t strides[2][AXN_MAX_RANK]; /* of x, of y; zero: dense */
  bool folded;                      /* tensors of any rank, as rows and columns */
  bool active;                      /* with an activation */
  bool training_counts;             /* too few values are an error in training alone */
} plan_object;

static inline int64_t form_size(const struct form *form) {
  int64_t size = 1;
  for (int axis = 0; axis < form->rank; axis++) size *= form->extents[axis];
  return size;
}

/* The type of the elements of arrays of a kind. */
static inline const struct element *plan_element(const plan_object *self, enum kind kind) {
  if (kind == DATA) return self->element;
  if (kind == COUNT) return &core_int64;
  return kind == PARAMETERS ? self->parameters : core_element(self->element->statistics);
}

/* The methods of a plan; in run.c. */
extern PyMethodDef plan_methods[];

#endif
