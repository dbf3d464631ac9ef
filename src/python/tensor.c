/* SPDX-License-Identifier: MIT */
/* Tensors of PyTorch: read where they lie, and plans for them from a cache. Nothing of PyTorch is
 * linked: tensors are read through DLPack's exchange functions, or their attributes where it has
 * none yet, and what else there is to ask are functions of its own that use_tensors() is given. */
#include "core.h"
#include "dlpack.h"

static struct {
  int (*read)(void *object, DLTensor *tensor); /* null: by attributes */
  PyObject *types; /* of tensors that are no more than they seem: exactly these */
  PyObject *
      questions; /* functions; a true answer means that something looks on, or computes otherwise */
  PyObject *oddities; /* methods of tensors; a true answer: the values are not those in memory */
  PyObject
      *forward_ad; /* the module whose _current_level is 0 or above within forward derivatives */
  PyObject *has_gradients,
      *threads;            /* whether gradients are recorded; as many threads as there are */
  PyObject *empty_strided; /* of a tuple of extents, one of strides, and a dtype */
  PyObject *current_level, *requires_grad; /* names of attributes */
  PyObject *dtypes[4];                     /* in the order of axn_dtype */
} host;

static bool fill_int64(PyObject *tuple, int count, int64_t *values) {
  for (int i = 0; i < count; i++) {
    PyObject *item = PySequence_GetItem(tuple, i);
    values[i] = item != NULL ? PyLong_AsLongLong(item) : 0;
    Py_XDECREF(item);
  }
  return PyErr_Occurred() == NULL;
}

static const struct element *element_of_dtype(PyObject *dtype) {
  for (int i = 0; i < 4; i++)
    if (dtype == host.dtypes[i]) return core_element((axn_dtype)(i + 1));
  return NULL;
}

static bool fill_from_attributes(struct view *view, PyObject *shape, PyObject *strides,
                                 PyObject *data, PyObject *dtype, const char *name) {
  const Py_ssize_t rank = PySequence_Size(shape);
  if (rank < 0) return false;
  view->rank = (int)rank;
  view->element = element_of_dtype(dtype);
  if (rank > AXN_MAX_RANK || view->element == NULL) {
    PyErr_Format(core_argument_error, "%s: %zd axes of %S are not supported", name, rank, dtype);
    return false;
  }
  view->data = PyLong_AsVoidPtr(data);
  return fill_int64(shape, view->rank, view->shape) &&
         fill_int64(strides, view->rank, view->strides);
}

static bool open_by_attributes(struct view *view, PyObject *tensor, const char *name) {
  PyObject *shape = PyObject_GetAttrString(tensor, "shape");
  PyObject *dtype = shape != NULL ? PyObject_GetAttrString(tensor, "dtype") : NULL;
  PyObject *on_cpu = dtype != NULL ? PyObject_GetAttrString(tensor, "is_cpu") : NULL;
  PyObject *strides = on_cpu != NULL ? PyObject_CallMethod(tensor, "stride", NULL) : NULL;
  PyObject *data = strides != NULL ? PyObject_CallMethod(tensor, "data_ptr", NULL) : NULL;
  bool filled = data != NULL && fill_from_attributes(view, shape, strides, data, dtype, name);
  if (filled && !Py_IsTrue(on_cpu)) {
    PyErr_Format(core_argument_error, "%s: not on the CPU", name);
    filled = false;
  }
  Py_XDECREF(data);
  Py_XDECREF(strides);
  Py_XDECREF(on_cpu);
  Py_XDECREF(dtype);
  Py_XDECREF(shape);
  return filled;
}

bool tensor_open(struct view *view, PyObject *tensor, const char *name) {
  view->read_only = false;
  DLTensor description;
  if (host.read == NULL) {
    if (open_by_attributes(view, tensor, name)) return true;
  } else if (host.read(tensor, &description) == 0) {
    return view_from_tensor(view, &description, name);
  }
  /* An error of PyTorch's means a tensor without memory of its own: sparse, or of a transform. */
  if (!PyErr_ExceptionMatches(core_argument_error))
    PyErr_Format(core_argument_error, "%s: a tensor that has no memory of its own", name);
  return false;
}

static bool take_reader(PyObject *capsule) {
  host.read = NULL;
  if (Py_IsNone(capsule)) return true;
  const DLPackExchangeAPI *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  while (api != NULL && api->version.major != DLPACK_MAJOR_VERSION) api = api->previous;
  if (api != NULL) host.read = api->dltensor_from_py_object_no_sync;
  return PyErr_Occurred() == NULL;
}

static void keep(PyObject **place, PyObject *object) {
  PyObject *before = *place;
  *place = Py_NewRef(object);
  Py_XDECREF(before);
}

PyObject *core_use_tensors(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 9 || !PyTuple_Check(args[1]) || !PyTuple_Check(args[2]) || !PyTuple_Check(args[3]) ||
      PyTuple_Size(args[8]) != 4)
    return PyErr_Format(PyExc_TypeError, "9 arguments are due");
  if (host.current_level == NULL) host.current_level = PyUnicode_InternFromString("_current_level");
  if (host.requires_grad == NULL) host.requires_grad = PyUnicode_InternFromString("requires_grad");
  if (host.current_level == NULL || host.requires_grad == NULL || !take_reader(args[0]))
    return NULL;
  PyObject **const places[] = {&host.types,        &host.questions,     &host.oddities,
                               &host.forward_ad,   &host.has_gradients, &host.threads,
                               &host.empty_strided};
  for (int i = 0; i < 7; i++) keep(places[i], args[i + 1]);
  for (int i = 0; i < 4; i++) keep(&host.dtypes[i], PyTuple_GetItem(args[8], i));
  Py_RETURN_NONE;
}

/* The truth of what a call returned, which it takes; -1 with an exception. */
static int truth(PyObject *result) {
  if (result == NULL) return -1;
  const int value = PyObject_IsTrue(result);
  Py_DECREF(result);
  return value;
}

/* Whether one of the first functions, of a tensor or of nothing, has a true answer; -1 with an
 * exception. */
static int any_true(PyObject *functions, Py_ssize_t most, PyObject *tensor) {
  Py_ssize_t count = PyTuple_Size(functions);
  if (most < count) count = most;
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *function = PyTuple_GetItem(functions, i);
    const int answer = truth(tensor == NULL ? PyObject_CallNoArgs(function)
                                            : PyObject_CallFunctionObjArgs(function, tensor, NULL));
    if (answer != 0) return answer;
  }
  return 0;
}

static int in_forward_derivative(void) {
  PyObject *level = PyObject_GetAttr(host.forward_ad, host.current_level);
  const long value = level != NULL ? PyLong_AsLong(level) : -1;
  Py_XDECREF(level);
  return PyErr_Occurred() != NULL ? -1 : value >= 0;
}

static bool has_plain_type(PyObject *tensor) {
  const Py_ssize_t count = PyTuple_Size(host.types);
  for (Py_ssize_t i = 0; i < count; i++)
    if (Py_TYPE(tensor) == (PyTypeObject *)PyTuple_GetItem(host.types, i)) return true;
  return false;
}

/* Whether one of the tensors, each a tensor or None, wants a gradient; -1 with an exception. */
static int any_wants_gradient(PyObject *const *tensors, Py_ssize_t count) {
  int wants = truth(PyObject_CallNoArgs(host.has_gradients));
  if (wants != 1) return wants;
  wants = 0;
  for (Py_ssize_t i = 0; i < count && wants == 0; i++)
    if (!Py_IsNone(tensors[i])) wants = truth(PyObject_GetAttr(tensors[i], host.requires_grad));
  return wants;
}

enum { IN_BACKWARD = 2, ALL = 100 }; /* which of the questions there are to ask */

/* Whether none of the tensors is other than it seems, and nothing looks on; -1 with an exception. */
static int is_eager(PyObject *const *tensors, Py_ssize_t count, Py_ssize_t questions) {
  int odd = any_true(host.questions, questions, NULL);
  if (odd == 0) odd = in_forward_derivative();
  for (Py_ssize_t i = 0; i < count && odd == 0; i++) {
    if (Py_IsNone(tensors[i])) continue;
    odd = has_plain_type(tensors[i]) ? any_true(host.oddities, ALL, tensors[i]) : 1;
  }
  return odd < 0 ? -1 : odd == 0;
}

int core_is_eager(PyObject *gradient, PyObject *const *saved, Py_ssize_t count) {
  if (host.has_gradients == NULL) return 0;
  for (Py_ssize_t i = 0; i < count; i++)
    if (!Py_IsNone(saved[i]) && !has_plain_type(saved[i])) return 0;
  const int how =
      truth(PyObject_CallNoArgs(host.has_gradients)); /* then it is to have one of its own */
  if (how != 0) return how < 0 ? -1 : 0;
  return is_eager(&gradient, 1, IN_BACKWARD);
}

PyObject *core_empty_like(PyObject *tensor) {
  struct view view;
  if (!tensor_open(&view, tensor, "a tensor")) return NULL;
  if (view.element == &core_int64)
    return PyErr_Format(core_argument_error, "a tensor: int64 is not supported");
  PyObject *shape = core_tuple(view.rank, view.shape);
  PyObject *strides = shape != NULL ? core_tuple(view.rank, view.strides) : NULL;
  PyObject *empty = NULL;
  if (strides != NULL)
    empty = PyObject_CallFunctionObjArgs(host.empty_strided, shape, strides,
                                         host.dtypes[view.element->dtype - AXN_FLOAT32], NULL);
  Py_XDECREF(strides);
  Py_XDECREF(shape);
  return empty;
}

/* Plans by what they are made of. A set of four; in a full one the oldest goes. Runs hold a
 * reference of their own, and all of this runs under Python's lock. */
enum { SETS = 256, WAYS = 4 };

struct key {
  int64_t norm, dtype, parameter_dtype, layout, groups, folded, activation, threads, rank;
  int64_t shape[AXN_MAX_RANK];
  double epsilon, momentum, negative_slope;
};

static struct set {
  struct key keys[WAYS];
  PyObject *plans[WAYS];
  int next;
} sets[SETS];

static struct set *set_of(const struct key *key) {
  uint64_t words[sizeof *key / 8], hash = 0;
  memcpy(words, key, sizeof *key);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    hash = (hash ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
    hash ^= hash >> 32;
  }
  return &sets[hash % SETS];
}

static PyObject *plan_of_key(const struct key *key) {
  axn_desc desc = axn_desc_init();
  desc.norm = (axn_norm)key->norm;
  desc.dtype = (axn_dtype)key->dtype;
  desc.parameter_dtype = (axn_dtype)key->parameter_dtype;
  desc.layout = (axn_layout)key->layout;
  desc.rank = (int)key->rank;
  memcpy(desc.shape, key->shape, sizeof desc.shape);
  desc.groups = key->groups;
  desc.parameters = key->folded ? AXN_PARAMETERS_PER_ELEMENT : AXN_PARAMETERS_PER_CHANNEL;
  desc.epsilon = key->epsilon;
  desc.momentum = key->momentum;
  desc.activation = (axn_activation)key->activation;
  desc.negative_slope = key->negative_slope;
  desc.threads = (int)key->threads;
  core_set_loop(&desc);
  desc.cold_outputs = 1; /* between two layers come others */
  return core_make_plan(&desc, key->folded != 0);
}

static PyObject *cached_plan(const struct key *key) {
  struct set *set = set_of(key);
  for (int way = 0; way < WAYS; way++)
    if (set->plans[way] != NULL && memcmp(&set->keys[way], key, sizeof *key) == 0)
      return Py_NewRef(set->plans[way]);
  PyObject *plan = plan_of_key(key);
  if (plan == NULL) return NULL;
  const int way = set->next;
  PyObject *before = set->plans[way];
  set->next = (way + 1) % WAYS;
  set->keys[way] = *key;
  set->plans[way] = Py_NewRef(plan);
  Py_XDECREF(before);
  return plan;
}

/* The tensors of a call. */
enum { X, SCALE, SHIFT, RESIDUAL, RUNNING_MEAN, RUNNING_VARIANCE, TENSORS };

static bool has_strides(const struct view *view, const struct view *other) {
  if (view->rank != other->rank) return false;
  for (int axis = 0; axis < view->rank; axis++)
    if (view->shape[axis] != other->shape[axis] ||
        (view->shape[axis] > 1 && view->strides[axis] != other->strides[axis]))
      return false;
  return true;
}

PyObject *core_laid_like(PyObject *tensor, PyObject *x) {
  struct view view, like;
  if (!tensor_open(&view, tensor, "grad_y") || !tensor_open(&like, x, "x")) return NULL;
  if (view.data != NULL && has_strides(&view, &like)) return Py_NewRef(tensor);
  PyObject *copy = core_empty_like(x);
  PyObject *copied = copy != NULL ? PyObject_CallMethod(copy, "copy_", "O", tensor) : NULL;
  Py_XDECREF(copy);
  return copied;
}

/* Whether the axes are those of x from `first` to before `end`, dense in this order. */
static bool has_axes(const struct view *view, const struct view *x, int first, int end) {
  if (view->rank != end - first) return false;
  int64_t dense = 1;
  for (int axis = view->rank - 1; axis >= 0; axis--) {
    if (view->shape[axis] != x->shape[first + axis]) return false;
    if (view->shape[axis] > 1 && view->strides[axis] != dense) return false;
    dense *= view->shape[axis];
  }
  return true;
}

/* x of normalizations over rows: of any rank, as rows and columns. */
static bool take_rows(struct key *key, const struct view *x, int first) {
  if (first < 0 || first >= x->rank || !has_axes(x, x, 0, x->rank)) return false;
  key->folded = 1;
  key->rank = 2;
  key->shape[0] = key->shape[1] = 1;
  for (int axis = 0; axis < x->rank; axis++) key->shape[axis >= first] *= x->shape[axis];
  return true;
}

static bool take_channels(struct key *key, const struct view *x) {
  struct form form;
  if (x->rank < (key->norm == AXN_INSTANCE_NORM ? 3 : 2) || x->rank > 5) return false;
  form_of_shape(&form, x->rank, x->shape, false);
  if (!view_is_dense(x, &form, (struct order){false, false})) {
    if (!view_is_dense(x, &form, (struct order){false, true})) return false;
    key->layout = AXN_CHANNELS_LAST;
  }
  key->rank = x->rank;
  memcpy(key->shape, x->shape, (size_t)x->rank * sizeof key->shape[0]);
  return true;
}

static bool is_known_type(const struct view *view) {
  return view->element != NULL && view->element != &core_int64;
}

/* Scale and shift: of x's type, or of that of its statistics; both of the same. */
static bool take_parameters(struct key *key, const struct view *views, PyObject *const *tensors,
                            int first, int end) {
  const struct element *due = NULL;
  for (int i = SCALE; i <= SHIFT; i++) {
    if (Py_IsNone(tensors[i])) continue;
    if (!has_axes(&views[i], &views[X], first, end)) return false;
    if (due != NULL && views[i].element != due) return false;
    due = views[i].element;
  }
  const struct element *x = views[X].element;
  if (due == NULL) due = core_element(x->statistics);
  key->parameter_dtype = due->dtype;
  return due == x || due->dtype == x->statistics;
}

static bool take_others(const struct view *views, PyObject *const *tensors) {
  const struct view *x = &views[X], *residual = &views[RESIDUAL];
  if (Py_IsNone(tensors[RUNNING_MEAN]) != Py_IsNone(tensors[RUNNING_VARIANCE])) return false;
  if (!Py_IsNone(tensors[RESIDUAL]) &&
      (residual->element != x->element || !has_strides(residual, x)))
    return false;
  for (int i = RUNNING_MEAN; i <= RUNNING_VARIANCE; i++)
    if (!Py_IsNone(tensors[i]) &&
        (views[i].element == &core_int64 || views[i].element->dtype != x->element->statistics ||
         !has_axes(&views[i], x, 1, 2)))
      return false;
  return true;
}

/* The first axis that is normalized over: an int, or a tuple of the extents of the last axes, as
 * PyTorch says it. -1 where that does not fit, with an exception where it is neither. */
static int first_axis(PyObject *axis, const struct view *x) {
  if (!PyTuple_Check(axis)) {
    const long first = PyLong_AsLong(axis);
    return first < 0 || first > AXN_MAX_RANK ? -1 : (int)first;
  }
  const Py_ssize_t count = PyTuple_Size(axis);
  if (count == 0 || count > x->rank) return -1;
  const int first = x->rank - (int)count;
  for (int i = first; i < x->rank; i++)
    if (PyLong_AsLongLong(PyTuple_GetItem(axis, i - first)) != x->shape[i]) return -1;
  return first;
}

static bool take_tensors(struct key *key, PyObject *const *tensors, PyObject *axis) {
  static const char *const names[] = {"x",        "scale",        "shift",
                                      "residual", "running_mean", "running_variance"};
  struct view views[TENSORS];
  if (Py_IsNone(tensors[X])) return false;
  for (int i = 0; i < TENSORS; i++)
    if (!Py_IsNone(tensors[i]) && (!tensor_open(&views[i], tensors[i], names[i]) ||
                                   !is_known_type(&views[i]) || views[i].data == NULL))
      return false;
  const bool rows = key->norm == AXN_LAYER_NORM || key->norm == AXN_RMS_NORM;
  const struct view *x = &views[X];
  for (int i = 0; i < x->rank; i++)
    if (x->shape[i] == 0) return false;
  key->dtype = x->element->dtype;
  key->layout = AXN_CHANNELS_FIRST;
  const int first = first_axis(axis, x);
  if (rows ? !take_rows(key, x, first) : !take_channels(key, x)) return false;
  return take_parameters(key, views, tensors, rows ? first : 1, rows ? x->rank : 2) &&
         take_others(views, tensors);
}

static bool parse_key(struct key *key, PyObject *norm, PyObject *const *options) {
  const char *name = PyUnicode_AsUTF8AndSize(norm, NULL);
  const char *applied = name != NULL ? PyUnicode_AsUTF8AndSize(options[4], NULL) : NULL;
  axn_norm known;
  axn_activation activation;
  if (applied == NULL || !core_parse_norm(name, &known) ||
      !core_parse_activation(applied, &activation))
    return false;
  PyObject *threads = PyObject_CallNoArgs(host.threads);
  key->norm = known;
  key->activation = activation;
  key->threads = threads != NULL ? PyLong_AsLong(threads) : 0;
  Py_XDECREF(threads);
  key->groups = known == AXN_GROUP_NORM ? PyLong_AsLongLong(options[0]) : 1;
  key->epsilon = PyFloat_AsDouble(options[2]);
  key->momentum = Py_IsNone(options[3]) ? 0 : PyFloat_AsDouble(options[3]);
  key->negative_slope = activation == AXN_ACTIVATION_LEAKY_RELU ? PyFloat_AsDouble(options[5]) : 0;
  return PyErr_Occurred() == NULL;
}

/* A plan, or null: with an exception where the library has an error to tell, without where
 * tensors do not fit together. */
static PyObject *plan_for(PyObject *norm, PyObject *const *tensors, PyObject *const *options) {
  struct key key = {0};
  if (!parse_key(&key, norm, options)) return NULL;
  return take_tensors(&key, tensors, options[1]) ? cached_plan(&key) : NULL;
}

PyObject *core_plan_for_tensors(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 7 + TENSORS) return PyErr_Format(PyExc_TypeError, "13 arguments are due");
  PyObject *plan = plan_for(args[0], args + 1, args + 1 + TENSORS);
  if (plan != NULL || PyErr_Occurred() != NULL) return plan;
  Py_RETURN_NONE;
}

static PyObject *normalize(PyObject *function, PyObject *choice, PyObject *const *tensors,
                           bool over, PyObject *momentum, PyObject *given) {
  enum { OPTIONS = 6 };
  const bool is_given = Py_IsTrue(given) != 0;
  if (is_given && Py_IsNone(tensors[RUNNING_MEAN])) Py_RETURN_NONE;
  const int eager = host.questions != NULL ? is_eager(tensors, TENSORS, ALL) : 0;
  if (eager <= 0) return eager < 0 ? NULL : Py_NewRef(Py_None);
  const int wants_gradient = any_wants_gradient(tensors, TENSORS);
  if (wants_gradient < 0) return NULL;
  PyObject *values[OPTIONS]; /* norm, groups, axis, epsilon, activation, negative slope */
  for (int i = 0; i < OPTIONS; i++) values[i] = PyTuple_GetItem(choice, i);
  PyObject *const options[] = {values[1], values[2], values[3], momentum, values[4], values[5]};
  PyObject *plan = plan_for(values[0], tensors, options);
  if (plan == NULL) {
    if (PyErr_Occurred() != NULL && !PyErr_ExceptionMatches(core_argument_error)) return NULL;
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  const struct core_call call = {plan, tensors, choice, is_given};
  PyObject *y = wants_gradient ? core_differentiate(function, &call)
                               : core_forward(plan, tensors, is_given, over, NULL);
  Py_DECREF(plan);
  return y;
}

PyObject *core_normalize(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  const bool runs = count == 11; /* with running statistics, or without all that goes with them */
  if ((count != 7 && !runs) || !PyTuple_Check(args[1]) || PyTuple_Size(args[1]) != 6)
    return PyErr_Format(PyExc_TypeError, "7 or 11 arguments are due");
  PyObject *const tensors[TENSORS] = {
      args[2], args[3], args[4], args[5], runs ? args[7] : Py_None, runs ? args[8] : Py_None};
  return normalize(args[0], args[1], tensors, Py_IsTrue(args[6]) != 0, runs ? args[9] : Py_None,
                   runs ? args[10] : Py_False);
}
