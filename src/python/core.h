/* SPDX-License-Identifier: MIT */
/* What the files of axisnorm._core share. The limited API from Python 3.11 on: one binary for all
 * later versions, and the first limited API with the buffer protocol. */
#ifndef AXISNORM_PYTHON_CORE_H
#define AXISNORM_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "axisnorm/axisnorm.h"

extern PyObject *core_argument_error; /* axisnorm.ArgumentError */

/* Raises what a status of the library means; always returns null. */
PyObject *core_raise(axn_status status, const axn_error *error);

/* What follows "elements of ...": the types that are known. */
#define CORE_UNSUPPORTED                                                                           \
  " are not supported, but float32, float64, float16 and bfloat16 in native byte order"

/* A type of elements. */
struct element {
  const char *name; /* NumPy's */
  axn_dtype dtype;
  const char *formats; /* characters of the struct module that mean it; "" where it has none */
  uint8_t code, bits;  /* DLPack's */
  axn_dtype parameters, statistics; /* what goes with x of this type */
};
const struct element *core_element(axn_dtype dtype);
extern const struct element core_int64;

/* Somebody else's array. */
struct view {
  void *data;
  const struct element *element;
  int rank;
  int64_t shape[AXN_MAX_RANK];
  int64_t strides[AXN_MAX_RANK]; /* in elements */
  bool read_only;
  Py_buffer buffer;  /* one of these three owns it */
  PyObject *capsule; /* of DLPack */
};

/* Opens an array that speaks the buffer protocol or, on a CPU, DLPack; nothing is copied. On failure
 * an exception is set that begins with `name`, and there is nothing to close. */
bool view_open(struct view *view, PyObject *array, const char *name);
void view_close(struct view *view);

/* What a tensor of DLPack says of itself, in a view; or an exception that begins with `name`. */
struct DLTensor;
bool view_from_tensor(struct view *view, const struct DLTensor *tensor, const char *name);

/* The same as view_open for a tensor of PyTorch, which stays its owner's; nothing has to be
 * closed. */
bool tensor_open(struct view *view, PyObject *tensor, const char *name);

/* What an array has to look like: extents in the order N, C, spatial (or what is left of these), and
 * which of them is C. */
struct form {
  int rank;
  int64_t extents[AXN_MAX_RANK];
  int channel; /* -1: there is none, or it is last in every order */
};

/* Where C stands: in the shape that the user writes, and in memory. */
struct order {
  bool written_last, memory_last;
};

/* The axis of a form that stands at a place of the order with C last, or of the plain one. */
int form_axis(const struct form *form, int place, bool last);

/* The form that the shape of x stands for. */
void form_of_shape(struct form *form, int rank, const int64_t *shape, bool written_last);

/* Whether the array has these extents; whether it lies in memory as the order says, without gaps. */
bool view_has_shape(const struct view *view, const struct form *form, bool written_last);
bool view_is_dense(const struct view *view, const struct form *form, struct order order);

/* Whether it lies as these strides say, which are those of the form's axes. */
bool view_has_strides(const struct view *view, const struct form *form, bool written_last,
                      const int64_t *strides);

/* A new tuple of ints. */
PyObject *core_tuple(int count, const int64_t *values);

/* use_openmp(GOMP_parallel, omp_get_num_threads, omp_get_thread_num): the runtime, by addresses, on
 * which loops run. */
PyObject *core_use_openmp(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* What the next run says of threads, of a plan for so many: 0 for these, or 1 in a process that was forked from
 * one with OpenMP's threads. It has none of them, and GNU's runtime would wait for them for ever. */
int core_threads(int planned);
bool core_watch_forks(void); /* once, at the start; false with an exception */

/* Sets the loop of a plan for so many threads as the descriptor says: on that runtime, once there is one. */
void core_set_loop(axn_desc *desc);

/* A plan of a descriptor whose shape is written N, C, spatial. `folded`: tensors of any rank go
 * with it, taken for rows and columns. Null with an exception where the library refuses it. */
extern PyType_Spec core_plan_spec;
extern PyTypeObject *core_plan_type;
PyObject *core_make_plan(const axn_desc *desc, bool folded);

bool core_plan_is_active(PyObject *plan); /* whether it is one with an activation */

/* Passes of a plan over tensors [x, scale, shift, residual, running_mean, running_variance]. Forward
 * returns y, which is x itself where it goes `over` that. The running statistics normalize where they are
 * `given`; `statistics`, if not null, becomes what backward takes for mean and rstd. Backward takes the first
 * four, and as statistics these two and those given (None for others). It returns a tuple of the gradients by
 * the first four, as autograd takes them, of those for which the tuple `wanted` says yes or no, rather than
 * None: None where it says no. */
PyObject *core_forward(PyObject *plan, PyObject *const *tensors, bool given, bool over,
                       PyObject **statistics);
PyObject *core_backward(PyObject *plan, PyObject *grad_y, PyObject *const *tensors,
                        PyObject *const *statistics, PyObject *wanted);

/* A call that autograd is to see to: of the plan, with these tensors, and what it was made of. Hands it to the
 * `apply` of the autograd.Function whose forward is record(). */
struct core_call {
  PyObject *plan, *const *tensors, *options;
  bool given;
};
PyObject *core_differentiate(PyObject *apply, const struct core_call *call);

/* use_tensors(...), normalize(...) and plan_for_tensors(...) in tensor.c, record(...) and node_apply(...) in
 * autograd.c: _core.pyi says more. */
PyObject *core_use_tensors(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_normalize(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_plan_for_tensors(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_record(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_node_apply(PyObject *module, PyObject *node);

/* A new tensor like this one; one with the elements of `tensor` and the strides of x; null with
 * an exception. */
PyObject *core_empty_like(PyObject *tensor);
PyObject *core_laid_like(PyObject *tensor, PyObject *x);

/* Whether a gradient and what a forward pass saved are plain tensors, with nothing that looks on;
 * -1 with an exception. */
int core_is_eager(PyObject *gradient, PyObject *const *saved, Py_ssize_t count);

/* Values of the library's enums by name; false with an exception where there is none. */
bool core_parse_norm(const char *name, axn_norm *norm);
bool core_parse_activation(const char *name, axn_activation *activation);

#endif
