/* SPDX-License-Identifier: MIT */
/* axisnorm._core.Plan: a plan of the library, from what Python says, and what it says of itself. */
#include "plan.h"

#include <limits.h>

PyTypeObject *core_plan_type;

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
  if (hosted) core_set_loop(desc);
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

/* Arrays are held against forms, the library goes by counts: should these ever differ, it must not
 * come to a run. */
static bool forms_agree(const plan_object *self) {
  const axn_plan_info *info = &self->info;
  if (form_size(&self->forms[DATA]) == info->elements &&
      form_size(&self->forms[PARAMETERS]) == info->parameters &&
      form_size(&self->forms[STATISTICS]) == info->statistics)
    return true;
  PyErr_SetString(PyExc_SystemError, "the plan's description is not understood");
  return false;
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

bool core_plan_is_active(PyObject *plan) {
  return ((plan_object *)plan)->active;
}

static void plan_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  axn_plan_destroy(((plan_object *)object)->plan);
  PyObject_Free(object);
  Py_DECREF(type);
}

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
  return Py_BuildValue("(sNN)", plan_element(self, kind)->name, shape, order);
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

static PyObject *get_data(PyObject *self, void *closure) {
  return (void)closure, allocation((const plan_object *)self, DATA);
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
                              {Py_tp_methods, plan_methods},
                              {Py_tp_getset, members},
                              {0, NULL}};

PyType_Spec core_plan_spec = {"axisnorm._core.Plan", sizeof(plan_object), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
