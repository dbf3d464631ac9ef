/* SPDX-License-Identifier: MIT */
/* axisnorm._core: the library as the Python package sees it. Not for users. */
#include "core.h"

PyObject *core_argument_error;
static PyObject *core_error;

PyObject *core_raise(axn_status status, const axn_error *error) {
  if (status == AXN_ERROR_MEMORY) return PyErr_NoMemory();
  PyErr_SetString(core_argument_error, error->message);
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

PyDoc_STRVAR(inspect_doc, "inspect(array, name, written_last) -> (dtype, shape, memory_last)\n\n"
                          "Raises where the array lies neither channels first nor channels last.");

static PyObject *inspect(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 3) return PyErr_Format(PyExc_TypeError, "3 arguments are due");
  const char *name = PyUnicode_AsUTF8AndSize(args[1], NULL);
  if (name == NULL) return NULL;
  struct view view;
  if (!view_open(&view, args[0], name)) return NULL;
  struct form form;
  struct order order = {Py_IsTrue(args[2]) != 0, false};
  form_of_shape(&form, view.rank, view.shape, order.written_last);
  bool dense = view_is_dense(&view, &form, order);
  if (!dense) {
    order.memory_last = true;
    dense = view_is_dense(&view, &form, order);
  }
  PyObject *result = NULL;
  if (view.element == &core_int64)
    PyErr_Format(core_argument_error, "%s: elements of type int64 are not supported", name);
  else if (dense)
    result = Py_BuildValue("(iNO)", (int)view.element->dtype, core_tuple(view.rank, view.shape),
                           order.memory_last ? Py_True : Py_False);
  else
    PyErr_Format(
        core_argument_error,
        "%s: a view whose elements do not lie one after the other, neither with channels first nor "
        "with channels last; copy it first (numpy.ascontiguousarray)",
        name);
  view_close(&view);
  return result;
}

static PyMethodDef functions[] = {
    {"inspect", (PyCFunction)(void (*)(void))inspect, METH_FASTCALL, inspect_doc},
    {"use_openmp", (PyCFunction)(void (*)(void))core_use_openmp, METH_FASTCALL, NULL},
    {"use_tensors", (PyCFunction)(void (*)(void))core_use_tensors, METH_FASTCALL, NULL},
    {"normalize", (PyCFunction)(void (*)(void))core_normalize, METH_FASTCALL, NULL},
    {"plan_for_tensors", (PyCFunction)(void (*)(void))core_plan_for_tensors, METH_FASTCALL, NULL},
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
      PyModule_AddStringConstant(module, "version", axn_version()) != 0)
    Py_CLEAR(module);
  return module;
}
