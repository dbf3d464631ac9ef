/* SPDX-License-Identifier: MIT */
/* Passes of a plan over arrays and over tensors of PyTorch. */
#include "plan.h"

#include <stddef.h>
#include <stdlib.h>

/* An array among the arguments of a pass. */
struct slot {
  const char *name;
  size_t offset; /* of its pointer */
  enum kind kind;
  bool written;
};

enum { SLOTS_MOST = 13 };

union arguments {
  axn_training_args training;
  axn_inference_args inference;
  axn_backward_args backward;
};

struct pass {
  int count, rstd; /* slots, and which of them is rstd's */
  struct slot slots[SLOTS_MOST];
  void (*start)(union arguments *arguments, const axn_plan_info *info, void *workspace);
  size_t workspace; /* offset of its size in the plan's description */
  axn_status (*run)(const axn_plan *plan, const union arguments *arguments, axn_error *error);
};

#define SLOT(type, name, kind, written)                                                            \
  { #name, offsetof(type, name), kind, written }
#define START(field)                                                                               \
  static void start_##field(union arguments *a, const axn_plan_info *info, void *workspace) {      \
    a->field = axn_##field##_init();                                                               \
    a->field.workspace = workspace;                                                                \
    a->field.workspace_size = info->field##_workspace;                                             \
    a->field.threads = core_threads(info->threads);                                                \
  }
START(training)
START(inference)
START(backward)

static size_t statistics_size(const plan_object *self) {
  return (size_t)self->info.statistics * plan_element(self, STATISTICS)->bits / 8;
}

/* Of an input without samples the library writes none. */
static void clear_statistics(const plan_object *self, union arguments *arguments) {
  void *const both[] = {arguments->training.mean, arguments->training.rstd};
  for (int i = 0; i < 2; i++)
    if (both[i] != NULL) memset(both[i], 0, statistics_size(self));
}

static axn_status run_training(const axn_plan *plan, const union arguments *a, axn_error *error) {
  return axn_forward_training(plan, &a->training, error);
}
static axn_status run_inference(const axn_plan *plan, const union arguments *a, axn_error *error) {
  return axn_forward_inference(plan, &a->inference, error);
}
static axn_status run_backward(const axn_plan *plan, const union arguments *a, axn_error *error) {
  return axn_backward(plan, &a->backward, error);
}

static const struct pass training = {10,
                                     5,
                                     {SLOT(axn_training_args, x, DATA, false),
                                      SLOT(axn_training_args, y, DATA, true),
                                      SLOT(axn_training_args, scale, PARAMETERS, false),
                                      SLOT(axn_training_args, shift, PARAMETERS, false),
                                      SLOT(axn_training_args, mean, STATISTICS, true),
                                      SLOT(axn_training_args, rstd, STATISTICS, true),
                                      SLOT(axn_training_args, running_mean, RUNNING, true),
                                      SLOT(axn_training_args, running_variance, RUNNING, true),
                                      SLOT(axn_training_args, batch_count, COUNT, true),
                                      SLOT(axn_training_args, residual, DATA, false)},
                                     start_training,
                                     offsetof(axn_plan_info, training_workspace),
                                     run_training};
static const struct pass inference = {7,
                                      -1,
                                      {SLOT(axn_inference_args, x, DATA, false),
                                       SLOT(axn_inference_args, y, DATA, true),
                                       SLOT(axn_inference_args, scale, PARAMETERS, false),
                                       SLOT(axn_inference_args, shift, PARAMETERS, false),
                                       SLOT(axn_inference_args, running_mean, RUNNING, false),
                                       SLOT(axn_inference_args, running_variance, RUNNING, false),
                                       SLOT(axn_inference_args, residual, DATA, false)},
                                      start_inference,
                                      offsetof(axn_plan_info, inference_workspace),
                                      run_inference};
static const struct pass backward = {13,
                                     4,
                                     {SLOT(axn_backward_args, x, DATA, false),
                                      SLOT(axn_backward_args, grad_y, DATA, false),
                                      SLOT(axn_backward_args, scale, PARAMETERS, false),
                                      SLOT(axn_backward_args, mean, STATISTICS, false),
                                      SLOT(axn_backward_args, rstd, STATISTICS, false),
                                      SLOT(axn_backward_args, running_mean, RUNNING, false),
                                      SLOT(axn_backward_args, running_variance, RUNNING, false),
                                      SLOT(axn_backward_args, grad_x, DATA, true),
                                      SLOT(axn_backward_args, grad_scale, PARAMETERS, true),
                                      SLOT(axn_backward_args, grad_shift, PARAMETERS, true),
                                      SLOT(axn_backward_args, shift, PARAMETERS, false),
                                      SLOT(axn_backward_args, residual, DATA, false),
                                      SLOT(axn_backward_args, grad_residual, DATA, true)},
                                     start_backward,
                                     offsetof(axn_plan_info, backward_workspace),
                                     run_backward};

static void refuse_shape(const struct view *view, const char *name, const struct form *form,
                         bool written_last) {
  int64_t extents[AXN_MAX_RANK];
  for (int place = 0; place < form->rank; place++)
    extents[place] = form->extents[form_axis(form, place, written_last)];
  PyObject *is = core_tuple(view->rank, view->shape), *due = core_tuple(form->rank, extents);
  if (is != NULL && due != NULL)
    PyErr_Format(core_argument_error, "%s: shape %R where %R is expected", name, is, due);
  Py_XDECREF(is);
  Py_XDECREF(due);
}

/* Which of the strides an array lies by; null: it is dense. */
static const int64_t *strides_for(const plan_object *self, const struct slot *slot) {
  const bool like_x = strcmp(slot->name, "x") == 0 || strcmp(slot->name, "grad_x") == 0;
  const int64_t *strides = self->strides[like_x ? 0 : 1];
  for (int axis = 0; slot->kind == DATA && axis < self->forms[DATA].rank; axis++)
    if (strides[axis] != 0) return strides;
  return NULL;
}

static bool lies_right(const plan_object *self, const struct view *view, const struct slot *slot) {
  const struct form *form = &self->forms[slot->kind];
  const int64_t *strides = strides_for(self, slot);
  return strides != NULL ? view_has_strides(view, form, self->order.written_last, strides)
                         : view_is_dense(view, form, self->order);
}

static bool check_view(const plan_object *self, const struct view *view, const struct slot *slot) {
  const struct form *form = &self->forms[slot->kind];
  const struct element *element = plan_element(self, slot->kind);
  const bool scalar = slot->kind == COUNT && view->rank == 0;
  if (view->element != element) {
    PyErr_Format(core_argument_error, "%s: %s where %s is expected", slot->name,
                 view->element->name, element->name);
  } else if (slot->written && view->read_only) {
    PyErr_Format(core_argument_error, "%s: read-only, but it is written", slot->name);
  } else if (!scalar && !view_has_shape(view, form, self->order.written_last)) {
    refuse_shape(view, slot->name, form, self->order.written_last);
  } else if (!scalar && !lies_right(self, view, slot) && strides_for(self, slot) != NULL) {
    PyErr_Format(core_argument_error, "%s: its elements do not lie as those of %s", slot->name,
                 strcmp(slot->name, "grad_x") == 0 ? "x" : "y or grad_y");
  } else if (!scalar && !lies_right(self, view, slot)) {
    PyErr_Format(core_argument_error,
                 "%s: its elements do not lie one after the other with %s, as x's do", slot->name,
                 self->order.memory_last ? "channels last" : "channels first");
  } else {
    return true;
  }
  return false;
}

/* What a run holds open. */
struct run {
  union arguments arguments;
  struct view views[SLOTS_MOST];
  int open;
};

/* An array of no elements may have no address; the library wants one all the same. */
static void set_pointer(struct run *run, const struct slot *slot, void *data) {
  static char nowhere[64];
  if (data == NULL) data = nowhere;
  memcpy((char *)&run->arguments + slot->offset, &data, sizeof data);
}

static bool open_arrays(const plan_object *self, const struct pass *pass, PyObject *const *args,
                        struct run *run) {
  for (int i = 0; i < pass->count; i++) {
    if (Py_IsNone(args[i])) continue;
    struct view *view = &run->views[run->open];
    if (!view_open(view, args[i], pass->slots[i].name)) return false;
    run->open++;
    if (!check_view(self, view, &pass->slots[i])) return false;
    set_pointer(run, &pass->slots[i], view->data);
  }
  return true;
}

/* A tensor that lies in the order of its axes and has as many elements as a form, taken for that. */
static void fold(struct view *view, const struct form *form) {
  int64_t dense = 1;
  for (int axis = view->rank - 1; axis >= 0; axis--) {
    if (view->shape[axis] > 1 && view->strides[axis] != dense) return;
    dense *= view->shape[axis];
  }
  if (dense != form_size(form)) return;
  view->rank = form->rank;
  for (int axis = form->rank - 1; axis >= 0; axis--) {
    view->shape[axis] = form->extents[axis];
    view->strides[axis] = 1;
    for (int inner = axis + 1; inner < form->rank; inner++)
      view->strides[axis] *= form->extents[inner];
  }
}

/* Mean and rstd as only this file knows them: one after the other, in the place of both. */
static bool take_statistics(const plan_object *self, const struct pass *pass, int place,
                            PyObject *bytes, struct run *run) {
  char *data = PyBytes_AsString(bytes);
  const size_t size = statistics_size(self);
  if (data == NULL || (size_t)PyBytes_Size(bytes) != 2 * size)
    return PyErr_Format(PyExc_SystemError, "these are no statistics of this plan"), false;
  set_pointer(run, &pass->slots[place], data + (place == pass->rstd ? size : 0));
  return true;
}

static bool take_tensor(const plan_object *self, const struct slot *slot, PyObject *tensor,
                        struct run *run) {
  struct view *view = &run->views[0];
  const struct form *form = &self->forms[slot->kind];
  if (!tensor_open(view, tensor, slot->name)) return false;
  if (self->folded || slot->kind != DATA) fold(view, form);
  if (!check_view(self, view, slot)) return false;
  if (view->data == NULL && form_size(form) > 0)
    return PyErr_Format(core_argument_error, "%s: without memory", slot->name), false;
  set_pointer(run, slot, view->data);
  return true;
}

static bool open_tensors(const plan_object *self, const struct pass *pass, PyObject *const *args,
                         struct run *run) {
  bool taken = true;
  for (int i = 0; i < pass->count && taken; i++) {
    if (Py_IsNone(args[i])) continue;
    taken = PyBytes_Check(args[i]) ? take_statistics(self, pass, i, args[i], run)
                                   : take_tensor(self, &pass->slots[i], args[i], run);
  }
  return taken;
}

typedef bool (*taker)(const plan_object *, const struct pass *, PyObject *const *, struct run *);

/* Elements up to which a run takes less time than it would to let other threads have Python's
 * lock. */
enum { SMALL = 4096 };

/* Bytes of workspace up to which it is on the stack: malloc() tidies up before it hands out a kilobyte. */
enum { SMALL_WORKSPACE = 8192 };

static PyObject *run_pass(plan_object *self, const struct pass *pass, taker take,
                          PyObject *const *args, Py_ssize_t count) {
  if (count != pass->count)
    return PyErr_Format(PyExc_TypeError, "%d arguments are due", pass->count);
  size_t size;
  memcpy(&size, (const char *)&self->info + pass->workspace, sizeof size);
  char room[SMALL_WORKSPACE];
  void *workspace = size > sizeof room ? malloc(size) : size > 0 ? room : NULL;
  if (size > 0 && workspace == NULL) return PyErr_NoMemory();
  struct run run;
  run.open = 0;
  axn_error error;
  axn_status status = AXN_OK;
  pass->start(&run.arguments, &self->info, workspace);
  const bool taken = take(self, pass, args, &run);
  if (taken && take == open_tensors && self->info.elements < SMALL) {
    status = pass->run(self->plan, &run.arguments, &error);
  } else if (taken) {
    Py_BEGIN_ALLOW_THREADS status = pass->run(self->plan, &run.arguments, &error);
    Py_END_ALLOW_THREADS
  }
  if (taken && status == AXN_OK && pass == &training && self->info.elements == 0)
    clear_statistics(self, &run.arguments);
  while (run.open > 0) view_close(&run.views[--run.open]);
  if (workspace != room) free(workspace);
  if (!taken) return NULL;
  if (status != AXN_OK) return core_raise(status, &error);
  Py_RETURN_NONE;
}

#define METHODS(name)                                                                              \
  static PyObject *plan_##name(PyObject *self, PyObject *const *args, Py_ssize_t count) {          \
    return run_pass((plan_object *)self, &name, open_arrays, args, count);                         \
  }                                                                                                \
  static PyObject *plan_##name##_of_tensors(PyObject *self, PyObject *const *args,                 \
                                            Py_ssize_t count) {                                    \
    return run_pass((plan_object *)self, &name, open_tensors, args, count);                        \
  }
METHODS(training)
METHODS(inference)
METHODS(backward)

#define ENTRY(name)                                                                                \
  { #name, (PyCFunction)(void (*)(void))plan_##name, METH_FASTCALL, NULL }
PyMethodDef plan_methods[] = {
    ENTRY(training), ENTRY(training_of_tensors), ENTRY(inference),     ENTRY(inference_of_tensors),
    ENTRY(backward), ENTRY(backward_of_tensors), {NULL, NULL, 0, NULL}};

PyObject *core_forward(PyObject *object, PyObject *const *tensors, bool given, bool over,
                       PyObject **statistics) {
  plan_object *self = (plan_object *)object;
  PyObject *const x = tensors[0], *const scale = tensors[1], *const shift = tensors[2];
  PyObject *const residual = tensors[3], *const mean = tensors[4], *const variance = tensors[5];
  PyObject *y = over ? Py_NewRef(x) : core_empty_like(x), *kept = Py_None, *done = NULL;
  if (y == NULL) return NULL;
  if (statistics != NULL) {
    kept = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(2 * statistics_size(self)));
    if (kept == NULL) return Py_DECREF(y), NULL;
    *statistics = kept;
  }
  if (given || (statistics == NULL && !self->training_counts)) {
    PyObject *const args[] = {x, y, scale, shift, mean, variance, residual};
    done = run_pass(self, &inference, open_tensors, args, 7);
  } else {
    PyObject *const args[] = {x, y, scale, shift, kept, kept, mean, variance, Py_None, residual};
    done = run_pass(self, &training, open_tensors, args, 10);
  }
  if (done == NULL) {
    if (statistics != NULL) Py_CLEAR(*statistics);
    Py_CLEAR(y);
  }
  Py_XDECREF(done);
  return y;
}

enum { GRADIENTS = 4 }; /* by x, scale, shift and residual */

static bool is_wanted(PyObject *wanted, int input) {
  return Py_IsTrue(PyTuple_GetItem(wanted, input)) != 0;
}

/* Room for the gradients that are wanted, and that of an activation's argument; false with an
 * exception. */
static bool make_room(const plan_object *self, PyObject *const *tensors, PyObject *wanted,
                      PyObject **room) {
  PyObject *const likes[] = {tensors[0], tensors[1],
                             Py_IsNone(tensors[2]) ? tensors[1] : tensors[2], tensors[0]};
  for (int i = 0; i < GRADIENTS; i++) {
    const bool due = is_wanted(wanted, i) && (i < GRADIENTS - 1 || self->active);
    room[i] = due ? core_empty_like(likes[i]) : Py_NewRef(Py_None);
    if (room[i] == NULL) return false;
  }
  if (!self->active || !Py_IsNone(room[0]) || !Py_IsNone(room[GRADIENTS - 1])) return true;
  Py_DECREF(room[0]);
  return (room[0] = core_empty_like(tensors[0])) != NULL;
}

/* The gradients that were made room for, as autograd takes them. */
static PyObject *by_input(PyObject *const *gradients, PyObject *wanted) {
  Py_ssize_t count = 0;
  for (int i = 0; i < GRADIENTS; i++) count += !Py_IsNone(PyTuple_GetItem(wanted, i));
  PyObject *result = PyTuple_New(count);
  for (int i = 0, place = 0; i < GRADIENTS && result != NULL; i++)
    if (!Py_IsNone(PyTuple_GetItem(wanted, i)))
      PyTuple_SetItem(result, place++, Py_NewRef(is_wanted(wanted, i) ? gradients[i] : Py_None));
  return result;
}

PyObject *core_backward(PyObject *plan, PyObject *grad_y, PyObject *const *tensors,
                        PyObject *const *statistics, PyObject *wanted) {
  plan_object *self = (plan_object *)plan;
  PyObject *room[GRADIENTS] = {NULL}, *result = NULL, *done = NULL;
  if (make_room(self, tensors, wanted, room)) {
    PyObject *const args[] = {
        tensors[0],         grad_y,  tensors[1], statistics[0], statistics[1], statistics[2],
        statistics[3],      room[0], room[1],    room[2],       tensors[2],    tensors[3],
        room[GRADIENTS - 1]};
    done = run_pass(self, &backward, open_tensors, args, 13);
  }
  if (done != NULL) {
    PyObject *const gradients[] = {room[0], room[1], room[2],
                                   self->active ? room[GRADIENTS - 1] : grad_y};
    result = by_input(gradients, wanted);
  }
  Py_XDECREF(done);
  for (int i = 0; i < GRADIENTS; i++) Py_XDECREF(room[i]);
  return result;
}
