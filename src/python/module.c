/* SPDX-License-Identifier: MIT */
/* axisnorm._core: the library as the Python package sees it. Not for users. */
#include "core.h"
#include "xla.h"

PyObject *core_argument_error;
static PyObject *core_error;

PyObject *core_raise(axn_status status, const axn_error *error) {
  if (status == AXN_ERROR_MEMORY) return PyErr_NoMemory();
  PyObject *message = PyUnicode_FromString(error->message);
  /* Python's word for what is not there. */
  PyObject *said =
      message != NULL ? PyObject_CallMethod(message, "replace", "ss", " null", " None") : NULL;
  if (said != NULL) PyErr_SetObject(core_argument_error, said);
  Py_XDECREF(said);
  Py_XDECREF(message);
  return NULL;
}

PyObject *core_tuple(int count, const int64_t *values) {
  PyObject *tuple = PyTuple_New(count);
  for (int i = 0; i < count && tuple != NULL; i++) {
    PyObject *value = PyLong_FromLongLong(values[i]);
    if (value == NULL || PyTuple_SetItem(tuple, i, value) != 0) Py_CLEAR(tuple);
  }
  return tuple;
}

PyDoc_STRVAR(
    inspect_doc,
    "inspect(array, name, written_last, memory_last=None) -> (dtype, shape, memory_last, "
    "strides)\n\n"
    "Strides are None where the array lies one element after the other, channels first or last, or "
    "as\n"
    "memory_last says; else those of a view, in elements. Raises where no plan takes them; with\n"
    "memory_last given, they are then None too, as the array is not the one to blame yet.");

/* Whether channels are nearer to each other than positions. */
static bool channels_are_inner(const struct view *view, const struct form *form,
                               bool written_last) {
  int64_t channels = 0, positions = INT64_MAX;
  for (int place = 0; place < form->rank; place++) {
    const int axis = form_axis(form, place, written_last);
    if (form->extents[axis] < 2) continue;
    if (axis == 1) channels = view->strides[place];
    if (axis > 1 && view->strides[place] < positions) positions = view->strides[place];
  }
  return channels > 0 && positions < INT64_MAX && channels < positions;
}

static bool all_positive(const struct view *view) {
  for (int place = 0; place < view->rank; place++)
    if (view->shape[place] > 1 && view->strides[place] < 1) return false;
  return true;
}

static PyObject *inspect(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 3 && count != 4) return PyErr_Format(PyExc_TypeError, "3 or 4 arguments are due");
  const char *name = PyUnicode_AsUTF8AndSize(args[1], NULL);
  if (name == NULL) return NULL;
  struct view view;
  if (!view_open(&view, args[0], name)) return NULL;
  struct form form;
  const bool given = count == 4;
  struct order order = {Py_IsTrue(args[2]) != 0, given && Py_IsTrue(args[3]) != 0};
  form_of_shape(&form, view.rank, view.shape, order.written_last);
  bool dense = view_is_dense(&view, &form, order);
  if (!dense && !given) {
    order.memory_last = true;
    dense = view_is_dense(&view, &form, order);
    if (!dense) order.memory_last = channels_are_inner(&view, &form, order.written_last);
  }
  const bool positive = all_positive(&view);
  PyObject *result = NULL;
  if (view.element == &core_int64 && !given)
    PyErr_Format(core_argument_error, "%s: elements of type int64" CORE_UNSUPPORTED, name);
  else if (!dense && !positive && !given)
    PyErr_Format(core_argument_error,
                 "%s: a view that repeats elements or runs backwards; copy it first "
                 "(numpy.ascontiguousarray)",
                 name);
  else
    result = Py_BuildValue("(iNON)", (int)view.element->dtype, core_tuple(view.rank, view.shape),
                           order.memory_last ? Py_True : Py_False,
                           dense || !positive ? Py_NewRef(Py_None)
                                              : core_tuple(view.rank, view.strides));
  view_close(&view);
  return result;
}

typedef XLA_FFI_Error *(*handler)(XLA_FFI_CallFrame *frame);

static bool add_handler(PyObject *handlers, const char *name, handler function) {
  void *address;
  memcpy(&address, &function, sizeof address);
  PyObject *capsule = PyCapsule_New(address, NULL, NULL);
  const bool added = capsule != NULL && PyDict_SetItemString(handlers, name, capsule) == 0;
  Py_XDECREF(capsule);
  return added;
}

PyDoc_STRVAR(
    xla_handlers_doc,
    "xla_handlers() -> {name: capsule}\n\nThe passes as custom calls of XLA, to be registered.");

static PyObject *xla_handlers(PyObject *module, PyObject *none) {
  (void)module, (void)none;
  PyObject *handlers = PyDict_New();
  if (handlers != NULL && !(add_handler(handlers, "axisnorm_training", xla_training) &&
                            add_handler(handlers, "axisnorm_inference", xla_inference) &&
                            add_handler(handlers, "axisnorm_backward", xla_backward)))
    Py_CLEAR(handlers);
  return handlers;
}

static PyMethodDef functions[] = {
    {"inspect", (PyCFunction)(void (*)(void))inspect, METH_FASTCALL, inspect_doc},
    {"use_openmp", (PyCFunction)(void (*)(void))core_use_openmp, METH_FASTCALL, NULL},
    {"use_tensors", (PyCFunction)(void (*)(void))core_use_tensors, METH_FASTCALL, NULL},
    {"normalize", (PyCFunction)(void (*)(void))core_normalize, METH_FASTCALL, NULL},
    {"record", (PyCFunction)(void (*)(void))core_record, METH_FASTCALL, NULL},
    {"node_apply", core_node_apply, METH_O, NULL},
    {"plan_for_tensors", (PyCFunction)(void (*)(void))core_plan_for_tensors, METH_FASTCALL, NULL},
    {"xla_handlers", xla_handlers, METH_NOARGS, xla_handlers_doc},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "axisnorm._core", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyDoc_STRVAR(error_doc,
             "Something that this package or the C library refused; its text says what.");
PyDoc_STRVAR(argument_error_doc, "An argument that is wrong; the text names it.");

static bool add_errors(PyObject *module) {
  core_error = PyErr_NewExceptionWithDoc("axisnorm.Error", error_doc, NULL, NULL);
  PyObject *bases = core_error != NULL ? PyTuple_Pack(2, core_error, PyExc_ValueError) : NULL;
  if (bases == NULL) return false;
  core_argument_error =
      PyErr_NewExceptionWithDoc("axisnorm.ArgumentError", argument_error_doc, bases, NULL);
  Py_DECREF(bases);
  return core_argument_error != NULL && PyModule_AddObjectRef(module, "Error", core_error) == 0 &&
         PyModule_AddObjectRef(module, "ArgumentError", core_argument_error) == 0;
}

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void) {
  PyObject *module = PyModule_Create(&definition);
  PyObject *plan = module != NULL ? PyType_FromSpec(&core_plan_spec) : NULL;
  core_plan_type = (PyTypeObject *)plan;
  if (plan == NULL || PyModule_AddObjectRef(module, "Plan", plan) != 0 || !add_errors(module) ||
      PyModule_AddStringConstant(module, "version", axn_version()) != 0 || !core_watch_forks())
    Py_CLEAR(module);
  return module;
}
