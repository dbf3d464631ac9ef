/* SPDX-License-Identifier: MIT */
/* The two methods of the autograd.Function by which PyTorch differentiates eager calls. They are in C since
 * within a model, whose other layers have taken the caches, a few frames of Python take as long as the
 * normalization of some rows. */
#include "core.h"

enum { INPUTS = 4, RUNNING = 2 }; /* x, scale, shift, residual; mean and variance */

/* Attributes of the context that goes from forward to backward: PyTorch's own, and the plan, the options,
 * whether statistics are given, and those that are not. */
enum { TO_SAVE, SAVED, NEEDED, KEPT, NAMES };
enum { PLAN, OPTIONS, GIVEN, STATISTICS, ALL_KEPT };

static PyObject *name_of(int index) {
  static PyObject *names[NAMES];
  static const char *const texts[] = {"to_save", "saved_tensors", "needs_input_grad", "kept"};
  if (names[index] == NULL) names[index] = PyUnicode_InternFromString(texts[index]);
  return names[index];
}

static PyObject *get(PyObject *context, int index) {
  PyObject *name = name_of(index);
  return name != NULL ? PyObject_GetAttr(context, name) : NULL;
}

/* Takes the value, which may be null. */
static bool set(PyObject *context, int index, PyObject *value) {
  PyObject *name = name_of(index);
  const bool is_set = name != NULL && value != NULL && PyObject_SetAttr(context, name, value) == 0;
  Py_XDECREF(value);
  return is_set;
}

/* What backward takes, and no more: what is saved may not be changed until then. */
static PyObject *to_save(PyObject *plan, PyObject *const *tensors, bool given) {
  const bool active = core_plan_is_active(plan);
  PyObject *const shift = active || Py_IsNone(tensors[1]) ? tensors[2] : Py_None;
  PyObject *const residual = active ? tensors[3] : Py_None;
  return given ? PyTuple_Pack(INPUTS + RUNNING, tensors[0], tensors[1], shift, residual,
                              tensors[INPUTS], tensors[INPUTS + 1])
               : PyTuple_Pack(INPUTS, tensors[0], tensors[1], shift, residual);
}

PyObject *core_record(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  PyObject *const context = args[0], *const call = count == INPUTS + 2 ? args[INPUTS + 1] : NULL;
  if (call == NULL || !PyTuple_Check(call) || PyTuple_Size(call) != 5)
    return PyErr_Format(PyExc_TypeError, "6 arguments are due, the last one a tuple of 5");
  PyObject *const plan = PyTuple_GetItem(call, 0), *const options = PyTuple_GetItem(call, 4);
  PyObject *const is_given = PyTuple_GetItem(call, 3);
  PyObject *const tensors[] = {
      args[1], args[2], args[3], args[4], PyTuple_GetItem(call, 1), PyTuple_GetItem(call, 2)};
  const bool given = Py_IsTrue(is_given) != 0;
  PyObject *statistics = NULL, *y = core_forward(plan, tensors, given, given ? NULL : &statistics);
  if (y == NULL) return NULL;
  PyObject *kept =
      PyTuple_Pack(ALL_KEPT, plan, options, is_given, statistics != NULL ? statistics : Py_None);
  Py_XDECREF(statistics);
  if (!set(context, KEPT, kept) || !set(context, TO_SAVE, to_save(plan, tensors, given)))
    Py_CLEAR(y);
  return y;
}

/* The gradients by what was saved; None where the call is not eager, or the plan does not take the
 * tensors. */
static PyObject *gradients_of(PyObject *kept, PyObject *saved, PyObject *mask, PyObject *grad_y) {
  PyObject *tensors[INPUTS + RUNNING];
  const bool given = Py_IsTrue(PyTuple_GetItem(kept, GIVEN)) != 0;
  const int count = given ? INPUTS + RUNNING : INPUTS;
  for (int i = 0; i < count; i++)
    if ((tensors[i] = PyTuple_GetItem(saved, i)) == NULL) return NULL;
  const int eager = core_is_eager(grad_y, tensors, count);
  if (eager <= 0) return eager < 0 ? NULL : Py_NewRef(Py_None);
  PyObject *own = PyTuple_GetItem(kept, STATISTICS);
  PyObject *const statistics[] = {given ? Py_None : own, given ? Py_None : own,
                                  given ? tensors[INPUTS] : Py_None,
                                  given ? tensors[INPUTS + 1] : Py_None};
  PyObject *laid = core_laid_like(grad_y, tensors[0]), *result = NULL;
  if (laid != NULL)
    result = core_backward(PyTuple_GetItem(kept, PLAN), laid, tensors, statistics, mask);
  Py_XDECREF(laid);
  if (result != NULL || !PyErr_ExceptionMatches(core_argument_error)) return result;
  PyErr_Clear(); /* a batch of gradients; hooks of saved tensors that return them in another layout */
  Py_RETURN_NONE;
}

PyObject *core_gradients(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  if (count != 2) return PyErr_Format(PyExc_TypeError, "2 arguments are due");
  PyObject *kept = get(args[0], KEPT), *result = NULL;
  PyObject *saved = kept != NULL ? get(args[0], SAVED) : NULL;
  PyObject *mask = saved != NULL ? get(args[0], NEEDED) : NULL;
  if (mask != NULL) result = gradients_of(kept, saved, mask, args[1]);
  Py_XDECREF(mask);
  Py_XDECREF(saved);
  Py_XDECREF(kept);
  return result;
}
