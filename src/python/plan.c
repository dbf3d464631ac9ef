/* SPDX-License-Identifier: MIT */
/* axisnorm._core.Plan: a plan of the library, and runs of it on arrays. */
#include "core.h"

#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

enum kind { DATA, PARAMETERS, STATISTICS, RUNNING, COUNT, KINDS };

/* An array among the arguments of a pass. */
struct slot {
  const char *name;
  size_t offset; /* of its pointer */
  enum kind kind;
  bool written;
};

enum { SLOTS_MOST = 13 };

/* Elements up to which a run takes less time than it would to let other threads have Python's
 * lock. */
enum { SMALL = 4096 };

/* Bytes of workspace up to which it is on the stack: malloc() tidies up before it hands out a kilobyte. */
enum { SMALL_WORKSPACE = 8192 };

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

PyTypeObject *core_plan_type;

/* What the arrays beside x look like, from what the plan says of itself. */
static void fill_forms(plan_object *self, const axn_desc *desc) {
  struct form *statistics = &self->forms[STATISTICS], *parameters = &self->forms[PARAMETERS];
  *statistics = *parameters = (struct form){.channel = -1};
  const bool per_element = desc->parameters == AXN_PARAMETERS_PER_ELEMENT;
  for (int axis = 0; axis < desc->rank; axis++) {
    const bool reduced = (self->info.reduced_axes >> axis & 1) != 0;
    const bool kept = !reduced || axis == self->info.split_axis;
    struct form *form = kept ? statistics : parameters;
    if (!kept && !per_element) continue;
    if (axis == 1) form->channel = form->rank;
    /* An empty batch has no ghost batches, though the plan counts one. */
    const bool split = axis == self->info.split_axis && desc->shape[axis] > 0;
    form->extents[form->rank++] = split ? self->info.split_groups : desc->shape[axis];
  }
  if (!per_element) *parameters = (struct form){1, {desc->shape[1]}, -1};
  self->forms[RUNNING] = (struct form){1, {desc->shape[1]}, -1};
  self->forms[COUNT] = (struct form){1, {1}, -1};
}

static int64_t size_of(const struct form *form) {
  int64_t size = 1;
  for (int axis = 0; axis < form->rank; axis++) size *= form->extents[axis];
  return size;
}

/* Arrays are held against forms, the library goes by counts: should these ever differ, it must not
 * come to a run. */
static bool forms_agree(const plan_object *self) {
  const axn_plan_info *info = &self->info;
  if (size_of(&self->forms[DATA]) == info->elements &&
      size_of(&self->forms[PARAMETERS]) == info->parameters &&
      size_of(&self->forms[STATISTICS]) == info->statistics)
    return true;
  PyErr_SetString(PyExc_SystemError, "the plan's description is not understood");
  return false;
}

bool core_parse_norm(const char *name, axn_norm *norm) {
  for (int value = 1; axn_norm_name((axn_norm)value) != NULL; value++)
    if (strcmp(axn_norm_name((axn_norm)value), name) == 0) return *norm = (axn_norm)value, true;
  PyErr_Format(core_argument_error, "norm: '%s' is unknown", name);
  return false;
}

bool core_parse_activation(const char *name, axn_activation *activation) {
  for (int value = 0; axn_activation_name((axn_activation)value) != NULL; value++)
    if (strcmp(axn_activation_name((axn_activation)value), name) == 0)
      return *activation = (axn_activation)value, true;
  PyErr_Format(core_argument_error,
               "activation: '%s' is not 'relu', 'leaky-relu', 'silu', 'gelu' or 'gelu-tanh'", name);
  return false;
}

static bool parse_shape(PyObject *shape, struct form *form, bool written_last) {
  int64_t extents[AXN_MAX_RANK];
  const Py_ssize_t rank = PyTuple_Size(shape);
  if (rank < 0 || rank > AXN_MAX_RANK) {
    PyErr_Format(core_argument_error, "x: %zd axes, more than any normalization takes", rank);
    return false;
  }
  for (Py_ssize_t i = 0; i < rank; i++) extents[i] = PyLong_AsLongLong(PyTuple_GetItem(shape, i));
  form_of_shape(form, (int)rank, extents, written_last);
  return PyErr_Occurred() == NULL;
}

/* Strides of x and what lies like it, or of y: None or a tuple, as the shape is written. */
static bool parse_strides(PyObject *strides, plan_object *self, int64_t *parsed) {
  const struct form *form = &self->forms[DATA];
  if (strides == NULL || Py_IsNone(strides)) return true;
  if (PyTuple_Size(strides) != form->rank) {
    if (PyErr_Occurred() == NULL) PyErr_SetString(PyExc_ValueError, "strides: as many as axes");
    return false;
  }
  for (int place = 0; place < form->rank; place++)
    parsed[form_axis(form, place, self->order.written_last)] =
        PyLong_AsLongLong(PyTuple_GetItem(strides, place));
  return PyErr_Occurred() == NULL;
}

/* A whole number that fits an int, or an int64_t where it is long. */
static bool check_whole(PyObject *item, const char *name, bool is_long) {
  if (!PyIndex_Check(item)) {
    PyErr_Format(PyExc_TypeError, "%s: %R where a whole number is expected", name, item);
    return false;
  }
  const long long value = PyLong_AsLongLong(item);
  const bool fits = PyErr_Occurred() == NULL && (is_long || (value >= INT_MIN && value <= INT_MAX));
  if (fits || (PyErr_Occurred() != NULL && !PyErr_ExceptionMatches(PyExc_OverflowError)))
    return fits;
  PyErr_Format(core_argument_error, "%s: %S is out of range", name, item);
  return false;
}

static bool check_real(PyObject *item, const char *name) {
  PyFloat_AsDouble(item);
  if (PyErr_Occurred() == NULL) return true;
  PyErr_Format(PyExc_TypeError, "%s: %R where a number is expected", name, item);
  return false;
}

/* PyArg_ParseTuple() does not say which argument is at fault. */
static bool check_numbers(PyObject *args) {
  static const struct {
    Py_ssize_t place;
    const char *name;
    enum { WHOLE, LONG, REAL } kind;
  } numbers[] = {{5, "groups", LONG},         {6, "axis", WHOLE},     {8, "epsilon", REAL},
                 {9, "momentum", REAL},       {11, "threads", WHOLE}, {13, "ghost_batch", LONG},
                 {15, "negative_slope", REAL}};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
    if (numbers[i].place >= PyTuple_Size(args)) break;
    PyObject *item = PyTuple_GetItem(args, numbers[i].place);
    if (numbers[i].kind == REAL ? !check_real(item, numbers[i].name)
                                : !check_whole(item, numbers[i].name, numbers[i].kind == LONG))
      return false;
  }
  enum { ACTIVATION = 14 };
  if (PyTuple_Size(args) <= ACTIVATION || PyUnicode_Check(PyTuple_GetItem(args, ACTIVATION)))
    return true;
  PyErr_Format(PyExc_TypeError, "activation: %R where a name is expected",
               PyTuple_GetItem(args, ACTIVATION));
  return false;
}

static bool parse_desc(PyObject *args, axn_desc *desc, plan_object *self) {
  const char *norm, *activation = "none";
  int dtype, written_last, memory_last, per_element, unbiased, hosted;
  long long groups, ghost_batch = 0;
  PyObject *shape, *x_strides = NULL, *y_strides = NULL;
  if (!check_numbers(args) ||
      !PyArg_ParseTuple(args, "siO!ppLipddpip|LsdOO:Plan", &norm, &dtype, &PyTuple_Type, &shape,
                        &written_last, &memory_last, &groups, &desc->axis, &per_element,
                        &desc->epsilon, &desc->momentum, &unbiased, &desc->threads, &hosted,
                        &ghost_batch, &activation, &desc->negative_slope, &x_strides, &y_strides))
    return false;
  if (hosted) desc->parallel_for = core_parallel_for;
  self->order = (struct order){written_last != 0, memory_last != 0};
  self->element = core_element((axn_dtype)dtype);
  if (self->element == NULL)
    return PyErr_Format(core_argument_error, "dtype: %d is unknown", dtype), false;
  desc->dtype = (axn_dtype)dtype;
  self->parameters = core_element(self->element->parameters);
  desc->parameter_dtype = self->element->parameters;
  desc->layout = memory_last ? AXN_CHANNELS_LAST : AXN_CHANNELS_FIRST;
  desc->groups = groups;
  desc->ghost_batch = ghost_batch;
  desc->parameters = per_element ? AXN_PARAMETERS_PER_ELEMENT : AXN_PARAMETERS_PER_CHANNEL;
  desc->running_variance = unbiased ? AXN_RUNNING_VARIANCE_UNBIASED : AXN_RUNNING_VARIANCE_BIASED;
  return core_parse_norm(norm, &desc->norm) &&
         core_parse_activation(activation, &desc->activation) &&
         parse_shape(shape, &self->forms[DATA], self->order.written_last) &&
         parse_strides(x_strides, self, self->strides[0]) &&
         parse_strides(y_strides, self, self->strides[1]);
}

/* The plan of a descriptor whose shape and types `self` has already; takes `self`, also where it
 * fails. */
static PyObject *complete(plan_object *self, const axn_desc *desc) {
  axn_error error;
  axn_status status = axn_plan_create(&self->plan, desc, &error);
  self->info = axn_plan_info_init();
  if (status == AXN_OK) status = axn_plan_describe(self->plan, &self->info, &error);
  if (status != AXN_OK) return Py_DECREF(self), core_raise(status, &error);
  self->active = desc->activation != AXN_ACTIVATION_NONE;
  self->training_counts = desc->norm == AXN_BATCH_NORM || desc->norm == AXN_INSTANCE_NORM;
  fill_forms(self, desc);
  if (!forms_agree(self)) return Py_DECREF(self), NULL;
  return (PyObject *)self;
}

bool core_plan_is_active(PyObject *plan) {
  return ((plan_object *)plan)->active;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
  (void)keywords;
  plan_object *self = (plan_object *)PyType_GenericAlloc(type, 0);
  if (self == NULL) return NULL;
  axn_desc desc = axn_desc_init();
  if (!parse_desc(args, &desc, self)) return Py_DECREF(self), NULL;
  desc.rank = self->forms[DATA].rank;
  memcpy(desc.shape, self->forms[DATA].extents, sizeof desc.shape);
  memcpy(desc.x_strides, self->strides[0], sizeof desc.x_strides);
  memcpy(desc.y_strides, self->strides[1], sizeof desc.y_strides);
  return complete(self, &desc);
}

PyObject *core_make_plan(const axn_desc *desc, bool folded) {
  plan_object *self = (plan_object *)PyType_GenericAlloc(core_plan_type, 0);
  if (self == NULL) return NULL;
  self->element = core_element(desc->dtype);
  self->parameters = core_element(desc->parameter_dtype);
  self->order.memory_last = desc->layout == AXN_CHANNELS_LAST;
  self->folded = folded;
  form_of_shape(&self->forms[DATA], desc->rank, desc->shape, false);
  return complete(self, desc);
}

static void plan_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  axn_plan_destroy(((plan_object *)object)->plan);
  PyObject_Free(object);
  Py_DECREF(type);
}

static const struct element *element_of(const plan_object *self, enum kind kind) {
  if (kind == DATA) return self->element;
  if (kind == COUNT) return &core_int64;
  return kind == PARAMETERS ? self->parameters : core_element(self->element->statistics);
}

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
  const struct element *element = element_of(self, slot->kind);
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

#define SLOT(type, name, kind, written)                                                            \
  { #name, offsetof(type, name), kind, written }
#define START(field)                                                                               \
  static void start_##field(union arguments *a, const axn_plan_info *info, void *workspace) {      \
    a->field = axn_##field##_init();                                                               \
    a->field.workspace = workspace;                                                                \
    a->field.workspace_size = info->field##_workspace;                                             \
  }
START(training)
START(inference)
START(backward)

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
  if (dense != size_of(form)) return;
  view->rank = form->rank;
  for (int axis = form->rank - 1; axis >= 0; axis--) {
    view->shape[axis] = form->extents[axis];
    view->strides[axis] = 1;
    for (int inner = axis + 1; inner < form->rank; inner++)
      view->strides[axis] *= form->extents[inner];
  }
}

/* Mean and rstd as only this file knows them: one after the other, in the place of both. */
static size_t statistics_size(const plan_object *self) {
  return (size_t)self->info.statistics * element_of(self, STATISTICS)->bits / 8;
}

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
  if (view->data == NULL && size_of(form) > 0)
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

PyObject *core_forward(PyObject *object, PyObject *const *tensors, bool given,
                       PyObject **statistics) {
  plan_object *self = (plan_object *)object;
  PyObject *const x = tensors[0], *const scale = tensors[1], *const shift = tensors[2];
  PyObject *const residual = tensors[3], *const mean = tensors[4], *const variance = tensors[5];
  PyObject *y = core_empty_like(x), *kept = Py_None, *done = NULL;
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

#define ENTRY(name)                                                                                \
  { #name, (PyCFunction)(void (*)(void))plan_##name, METH_FASTCALL, NULL }
static PyMethodDef methods[] = {
    ENTRY(training), ENTRY(training_of_tensors), ENTRY(inference),     ENTRY(inference_of_tensors),
    ENTRY(backward), ENTRY(backward_of_tensors), {NULL, NULL, 0, NULL}};

/* How to allocate an array of a kind: its type, its extents in the order of memory, and the axes to
 * take of those in the order of the user, or None. */
static PyObject *allocation(const plan_object *self, enum kind kind) {
  const struct form *form = &self->forms[kind];
  const bool memory_last = self->order.memory_last, written_last = self->order.written_last;
  int64_t extents[AXN_MAX_RANK], places[AXN_MAX_RANK], axes[AXN_MAX_RANK];
  bool same = true;
  for (int place = 0; place < form->rank; place++) {
    const int axis = form_axis(form, place, memory_last);
    extents[place] = form->extents[axis];
    places[axis] = place;
  }
  for (int place = 0; place < form->rank; place++) {
    axes[place] = places[form_axis(form, place, written_last)];
    same = same && axes[place] == place;
  }
  PyObject *shape = core_tuple(form->rank, extents);
  PyObject *order = same ? Py_NewRef(Py_None) : core_tuple(form->rank, axes);
  return Py_BuildValue("(sNN)", element_of(self, kind)->name, shape, order);
}

static PyObject *get_data(PyObject *self, void *closure) {
  return (void)closure, allocation((const plan_object *)self, DATA);
}
/* How an array that is a view has to be allocated: its type, its shape and strides in the order of the
 * user; or None. */
static PyObject *strided(const plan_object *self, int side) {
  const struct form *form = &self->forms[DATA];
  int64_t extents[AXN_MAX_RANK], strides[AXN_MAX_RANK], given = 0;
  for (int place = 0; place < form->rank; place++) {
    const int axis = form_axis(form, place, self->order.written_last);
    extents[place] = form->extents[axis];
    strides[place] = self->strides[side][axis];
    given |= strides[place];
  }
  if (given == 0) Py_RETURN_NONE;
  return Py_BuildValue("(sNN)", self->element->name, core_tuple(form->rank, extents),
                       core_tuple(form->rank, strides));
}

static PyObject *get_x_view(PyObject *self, void *closure) {
  return (void)closure, strided((const plan_object *)self, 0);
}
static PyObject *get_y_view(PyObject *self, void *closure) {
  return (void)closure, strided((const plan_object *)self, 1);
}
static PyObject *get_parameters(PyObject *self, void *closure) {
  return (void)closure, allocation((const plan_object *)self, PARAMETERS);
}
static PyObject *get_statistics(PyObject *self, void *closure) {
  return (void)closure, allocation((const plan_object *)self, STATISTICS);
}

static PyObject *get_workspaces(PyObject *self, void *closure) {
  const axn_plan_info *info = &((const plan_object *)self)->info;
  (void)closure;
  return core_tuple(3, (const int64_t[]){(int64_t)info->training_workspace,
                                         (int64_t)info->inference_workspace,
                                         (int64_t)info->backward_workspace});
}

static PyGetSetDef members[] = {{"data", get_data, NULL, NULL, NULL},
                                {"x_view", get_x_view, NULL, NULL, NULL},
                                {"y_view", get_y_view, NULL, NULL, NULL},
                                {"parameters", get_parameters, NULL, NULL, NULL},
                                {"statistics", get_statistics, NULL, NULL, NULL},
                                {"workspaces", get_workspaces, NULL, NULL, NULL},
                                {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {{Py_tp_new, (void *)plan_new},
                              {Py_tp_dealloc, (void *)plan_dealloc},
                              {Py_tp_methods, methods},
                              {Py_tp_getset, members},
                              {0, NULL}};

PyType_Spec core_plan_spec = {"axisnorm._core.Plan", sizeof(plan_object), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
