/* SPDX-License-Identifier: MIT */
/* The two methods of the autograd.Function by which PyTorch differentiates eager calls. They are in C since
 * within a model, whose other layers have taken the caches, a few frames of Python take as long as the
 * normalization of some rows. */
#include "core.h"

enum { INPUTS = 4, RUNNING = 2 }; /* x, scale, shift, residual; mean and variance */

/* Attributes of the context that goes from forward to backward: PyTorch's own, and in `kept` the plan, the
 * options, whether statistics are given, those that are not, and by input whether a gradient is wanted: None
 * where there is no such input. */
enum { TO_SAVE, SAVED, NEEDED, KEPT, FORWARD, NAMES };
enum { PLAN, OPTIONS, GIVEN, STATISTICS, WANTED, ALL_KEPT };

static PyObject *name_of(int index) {
  static PyObject *names[NAMES];
  static const char *const texts[] = {"to_save", "saved_tensors", "needs_input_grad", "kept",
                                      "_forward_cls"};
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

/* The call that this thread hands to forward past PyTorch, which looks long at each argument of its own, most
 * of all at those that are no tensors. Between the two it may run Python, and so other calls. */
static _Thread_local const struct core_call *current;

PyObject *core_differentiate(PyObject *function, const struct core_call *call) {
  Py_ssize_t count = 0;
  for (int i = 0; i < INPUTS; i++) count += !Py_IsNone(call->tensors[i]);
  PyObject *args = PyTuple_New(count);
  if (args == NULL) return NULL;
  for (int i = 0, place = 0; i < INPUTS; i++)
    if (!Py_IsNone(call->tensors[i])) PyTuple_SetItem(args, place++, Py_NewRef(call->tensors[i]));
  const struct core_call *outer = current;
  current = call;
  PyObject *y = PyObject_CallObject(function, args);
  current = outer;
  Py_DECREF(args);
  return y;
}

/* What backward takes, and no more: what is saved may not be changed until then. */
static PyObject *to_save(const struct core_call *call) {
  PyObject *const *const tensors = call->tensors;
  const bool active = core_plan_is_active(call->plan);
  PyObject *const shift = active || Py_IsNone(tensors[1]) ? tensors[2] : Py_None;
  PyObject *const residual = active ? tensors[3] : Py_None;
  return call->given ? PyTuple_Pack(INPUTS + RUNNING, tensors[0], tensors[1], shift, residual,
                                    tensors[INPUTS], tensors[INPUTS + 1])
                     : PyTuple_Pack(INPUTS, tensors[0], tensors[1], shift, residual);
}

static PyObject *to_keep(const struct core_call *call, PyObject *statistics, PyObject *context) {
  PyObject *needed = get(context, NEEDED), *wanted[INPUTS], *kept = NULL;
  if (needed == NULL) return NULL;
  for (int i = 0, place = 0; i < INPUTS; i++)
    wanted[i] = Py_IsNone(call->tensors[i]) ? Py_None : PyTuple_GetItem(needed, place++);
  PyObject *by_input = PyTuple_Pack(INPUTS, wanted[0], wanted[1], wanted[2], wanted[3]);
  if (by_input != NULL)
    kept = PyTuple_Pack(ALL_KEPT, call->plan, call->options, call->given ? Py_True : Py_False,
                        statistics != NULL ? statistics : Py_None, by_input);
  Py_XDECREF(by_input);
  Py_DECREF(needed);
  return kept;
}

PyObject *core_record(PyObject *module, PyObject *const *args, Py_ssize_t count) {
  (void)module;
  const struct core_call *const call = current;
  if (call == NULL || count < 2) return PyErr_Format(PyExc_TypeError, "not called by normalize()");
  PyObject *statistics = NULL;
  PyObject *y =
      core_forward(call->plan, call->tensors, call->given, false, call->given ? NULL : &statistics);
  if (y == NULL) return NULL;
  if (!set(args[0], KEPT, to_keep(call, statistics, args[0])) ||
      !set(args[0], TO_SAVE, to_save(call)))
    Py_CLEAR(y);
  Py_XDECREF(statistics);
  return y;
}

/* The gradients by what was saved; None where the call is not eager, or the plan does not take the
 * tensors. */
static PyObject *gradients_of(PyObject *kept, PyObject *saved, PyObject *grad_y) {
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
    result = core_backward(PyTuple_GetItem(kept, PLAN), laid, tensors, statistics,
                           PyTuple_GetItem(kept, WANTED));
  Py_XDECREF(laid);
  if (result != NULL || !PyErr_ExceptionMatches(core_argument_error)) return result;
  PyErr_Clear(); /* a batch of gradients; hooks of saved tensors that return them in another layout */
  Py_RETURN_NONE;
}

/* The Function's own backward, which can be differentiated and takes what is not eager. */
static PyObject *call_backward(PyObject *context, PyObject *grad_y) {
  PyObject *function = get(context, FORWARD);
  PyObject *result =
      function != NULL ? PyObject_CallMethod(function, "backward", "OO", context, grad_y) : NULL;
  Py_XDECREF(function);
  return result;
}

static PyObject *node_apply(PyObject *context, PyObject *grad_y) {
  PyObject *kept = get(context, KEPT), *result = NULL;
  PyObject *saved = kept != NULL ? get(context, SAVED) : NULL;
  if (saved != NULL) result = gradients_of(kept, saved, grad_y);
  Py_XDECREF(saved);
  Py_XDECREF(kept);
  if (result == NULL || !Py_IsNone(result)) return result;
  Py_DECREF(result);
  return call_backward(context, grad_y);
}

PyObject *core_node_apply(PyObject *module, PyObject *node) {
  static PyMethodDef method = {"apply", node_apply, METH_O, NULL};
  (void)module;
  if (!PyType_Check(node)) return PyErr_Format(PyExc_TypeError, "a type is expected");
  return PyDescr_NewMethod((PyTypeObject *)node, &method);
}
