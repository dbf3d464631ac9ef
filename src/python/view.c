/* SPDX-License-Identifier: MIT */
/* Arrays of others, seen through the buffer protocol or DLPack. */
#include "core.h"
#include "dlpack.h"

#include <stdio.h>

/* The library, not this table, decides which types there are. Statistics of 16-bit types are float32,
 * and so are their parameters. */
static const struct element elements[] = {
    {"float32", AXN_FLOAT32, "f", kDLFloat, 32, AXN_FLOAT32, AXN_FLOAT32},
    {"float64", AXN_FLOAT64, "d", kDLFloat, 64, AXN_FLOAT64, AXN_FLOAT64},
    {"bfloat16", AXN_BFLOAT16, "", kDLBfloat, 16, AXN_FLOAT32, AXN_FLOAT32},
    {"float16", AXN_FLOAT16, "e", kDLFloat, 16, AXN_FLOAT32, AXN_FLOAT32},
};
enum { ELEMENTS = sizeof elements / sizeof elements[0] };

const struct element core_int64 = {.name = "int64", .formats = "ql", .code = kDLInt, .bits = 64};

const struct element *core_element(axn_dtype dtype) {
  for (int i = 0; i < ELEMENTS; i++)
    if (elements[i].dtype == dtype) return &elements[i];
  return NULL;
}

static bool has_format(const struct element *element, char format, Py_ssize_t size) {
  return format != '\0' && strchr(element->formats, format) != NULL && size * 8 == element->bits;
}

/* The type of a buffer: one character, before it perhaps a mark of this machine's byte order. */
static const struct element *element_of_format(const char *format, Py_ssize_t size) {
  if (format == NULL) return NULL;
  const char native = PY_LITTLE_ENDIAN ? '<' : '>';
  if (*format == '@' || *format == '=' || *format == native) format++;
  if (format[0] == '\0' || format[1] != '\0') return NULL;
  for (int i = 0; i < ELEMENTS; i++)
    if (has_format(&elements[i], *format, size)) return &elements[i];
  return has_format(&core_int64, *format, size) ? &core_int64 : NULL;
}

static const struct element *element_of_dlpack(DLDataType type) {
  if (type.lanes != 1) return NULL;
  for (int i = 0; i < ELEMENTS; i++)
    if (elements[i].code == type.code && elements[i].bits == type.bits) return &elements[i];
  return type.code == kDLInt && type.bits == 64 ? &core_int64 : NULL;
}

static bool refuse_rank(const char *name, int rank) {
  PyErr_Format(core_argument_error, "%s: %d axes, more than any normalization takes", name, rank);
  return false;
}

static bool fill_strided(struct view *view, const char *name) {
  const Py_buffer *buffer = &view->buffer;
  for (int i = 0; i < buffer->ndim; i++) {
    view->shape[i] = buffer->shape[i];
    view->strides[i] = buffer->strides[i] / buffer->itemsize;
    if (buffer->strides[i] % buffer->itemsize != 0 && buffer->shape[i] > 1) {
      PyErr_Format(core_argument_error, "%s: strides that are no whole elements", name);
      return false;
    }
  }
  return true;
}

/* Some exporters give no strides though they are asked for, as ctypes' arrays: one element after the other. */
static bool fill_dense(struct view *view) {
  const Py_buffer *buffer = &view->buffer;
  int64_t dense = 1;
  for (int i = buffer->ndim - 1; i >= 0; i--) {
    view->shape[i] = buffer->shape != NULL ? buffer->shape[i] : buffer->len / buffer->itemsize;
    view->strides[i] = dense;
    if (__builtin_mul_overflow(dense, view->shape[i], &dense))
      dense = 0; /* as below, of no elements */
  }
  return true;
}

static bool fill_from_buffer(struct view *view, const char *name) {
  const Py_buffer *buffer = &view->buffer;
  view->data = buffer->buf;
  view->rank = buffer->ndim;
  view->read_only = buffer->readonly != 0;
  if (buffer->ndim > AXN_MAX_RANK) return refuse_rank(name, buffer->ndim);
  if (view->element == NULL) view->element = element_of_format(buffer->format, buffer->itemsize);
  if (view->element == NULL) {
    PyErr_Format(core_argument_error, "%s: elements of format '%s'" CORE_UNSUPPORTED, name,
                 buffer->format != NULL ? buffer->format : "B");
    return false;
  }
  return buffer->strides == NULL ? fill_dense(view) : fill_strided(view, name);
}

static bool open_buffer(struct view *view, PyObject *array, const char *name) {
  if (PyObject_GetBuffer(array, &view->buffer, PyBUF_RECORDS_RO) != 0) return false;
  if (fill_from_buffer(view, name)) return true;
  PyBuffer_Release(&view->buffer);
  return false;
}

/* NumPy cannot name ml_dtypes' bfloat16 to the buffer protocol: these are opened as 16-bit integers. */
static bool open_unnamed(struct view *view, PyObject *array, const char *name) {
  PyObject *dtype = PyObject_GetAttrString(array, "dtype");
  PyObject *type_name = dtype != NULL ? PyObject_GetAttrString(dtype, "name") : NULL;
  const char *text = type_name != NULL && PyUnicode_Check(type_name)
                         ? PyUnicode_AsUTF8AndSize(type_name, NULL)
                         : NULL;
  PyErr_Clear();
  bool opened = false;
  if (text != NULL && strcmp(text, "bfloat16") == 0) {
    PyObject *integers = PyObject_CallMethod(array, "view", "s", "uint16");
    view->element = core_element(AXN_BFLOAT16);
    opened = integers != NULL && open_buffer(view, integers, name);
    Py_XDECREF(integers);
  } else {
    PyErr_Format(core_argument_error, "%s: elements of type %s" CORE_UNSUPPORTED, name,
                 text != NULL ? text : "that it has");
  }
  Py_XDECREF(type_name);
  Py_XDECREF(dtype);
  return opened;
}

/* An exporter from before version 1 does not know the argument. */
static PyObject *request_capsule(PyObject *array) {
  PyObject *method = PyObject_GetAttrString(array, "__dlpack__");
  if (method == NULL) return NULL;
  PyObject *none = PyTuple_New(0), *newest = Py_BuildValue("{s:(ii)}", "max_version", 1, 0);
  PyObject *capsule = none != NULL && newest != NULL ? PyObject_Call(method, none, newest) : NULL;
  if (capsule == NULL && none != NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
    PyErr_Clear();
    capsule = PyObject_Call(method, none, NULL);
  }
  Py_XDECREF(newest);
  Py_XDECREF(none);
  Py_DECREF(method);
  return capsule;
}

/* The tensor in a capsule that nobody has taken yet; null with an exception otherwise. */
static const DLTensor *tensor_of(PyObject *capsule, bool *read_only) {
  *read_only = false;
  if (PyCapsule_IsValid(capsule, "dltensor"))
    return &((DLManagedTensor *)PyCapsule_GetPointer(capsule, "dltensor"))->dl_tensor;
  DLManagedTensorVersioned *managed = PyCapsule_GetPointer(capsule, "dltensor_versioned");
  if (managed == NULL) return NULL;
  if (managed->version.major != DLPACK_MAJOR_VERSION) {
    PyErr_Format(PyExc_BufferError, "DLPack version %u is not supported", managed->version.major);
    return NULL;
  }
  *read_only = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  return &managed->dl_tensor;
}

bool view_from_tensor(struct view *view, const DLTensor *tensor, const char *name) {
  if (tensor->device.device_type != kDLCPU) {
    PyErr_Format(core_argument_error,
                 "%s: on a device of DLPack type %d; only the CPU (1) is supported", name,
                 (int)tensor->device.device_type);
    return false;
  }
  if (tensor->ndim < 0 || tensor->ndim > AXN_MAX_RANK) return refuse_rank(name, tensor->ndim);
  view->element = element_of_dlpack(tensor->dtype);
  if (view->element == NULL) {
    PyErr_Format(core_argument_error,
                 "%s: elements of DLPack type %d with %d bits" CORE_UNSUPPORTED, name,
                 tensor->dtype.code, tensor->dtype.bits);
    return false;
  }
  view->data = (char *)tensor->data + tensor->byte_offset;
  view->rank = tensor->ndim;
  int64_t dense = 1;
  for (int i = tensor->ndim - 1; i >= 0; i--) {
    view->shape[i] = tensor->shape[i];
    view->strides[i] = tensor->strides != NULL ? tensor->strides[i] : dense;
    if (__builtin_mul_overflow(dense, tensor->shape[i], &dense))
      dense = 0; /* refused as not dense */
  }
  return true;
}

/* Asked before a capsule is, which on another device could mean waiting for it. */
static bool on_cpu(PyObject *array, const char *name) {
  PyObject *device = PyObject_CallMethod(array, "__dlpack_device__", NULL);
  if (device == NULL) return false;
  PyObject *item = PySequence_GetItem(device, 0);
  Py_DECREF(device);
  const long type = item != NULL ? PyLong_AsLong(item) : -1;
  Py_XDECREF(item);
  if (PyErr_Occurred() != NULL) return false;
  if (type == kDLCPU) return true;
  PyErr_Format(core_argument_error,
               "%s: on a device of DLPack type %ld; only the CPU (1) is supported", name, type);
  return false;
}

/* The capsule stays as it came: whoever made it frees the tensor with it. */
static bool open_dlpack(struct view *view, PyObject *array, const char *name) {
  if (!on_cpu(array, name)) return false;
  view->capsule = request_capsule(array);
  const DLTensor *tensor =
      view->capsule != NULL ? tensor_of(view->capsule, &view->read_only) : NULL;
  if (tensor != NULL && view_from_tensor(view, tensor, name)) return true;
  Py_CLEAR(view->capsule);
  return false;
}

/* Raises what an exporter said when it refused: a memoryview that was released, for one. */
static void raise_refusal(PyObject *type, PyObject *value, PyObject *traceback, const char *name) {
  if (!PyErr_GivenExceptionMatches(type, PyExc_ValueError) &&
      !PyErr_GivenExceptionMatches(type, PyExc_BufferError)) {
    PyErr_Restore(type, value, traceback);
    return;
  }
  PyErr_Format(core_argument_error, "%s: %S", name, value);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
}

/* Where the buffer protocol has refused: by DLPack, or else as NumPy's of a type that it cannot name. Such arrays
 * are JAX's, which nobody may write to, though their old version of DLPack cannot say so. */
static bool open_otherwise(struct view *view, PyObject *array, const char *name) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const bool exports = PyObject_HasAttrString(array, "__dlpack__") != 0;
  const bool opened = exports && open_dlpack(view, array, name);
  PyErr_Clear();
  if (opened && PyCapsule_IsValid(view->capsule, "dltensor")) view->read_only = true;
  if (!opened && !PyObject_HasAttrString(array, "dtype"))
    return raise_refusal(type, value, traceback, name), false;
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  return opened || open_unnamed(view, array, name);
}

bool view_open(struct view *view, PyObject *array, const char *name) {
  view->element = NULL;
  view->capsule = NULL;
  view->buffer.obj = NULL;
  if (PyObject_CheckBuffer(array)) {
    if (open_buffer(view, array, name)) return true;
    return !PyErr_ExceptionMatches(core_argument_error) && open_otherwise(view, array, name);
  }
  if (PyObject_HasAttrString(array, "__dlpack__")) return open_dlpack(view, array, name);
  PyObject *type = PyType_GetName(Py_TYPE(array));
  if (type == NULL) return false;
  PyErr_Format(PyExc_TypeError, "%s: %U speaks neither the buffer protocol nor DLPack", name, type);
  Py_DECREF(type);
  return false;
}

void view_close(struct view *view) {
  if (view->buffer.obj != NULL) PyBuffer_Release(&view->buffer);
  Py_CLEAR(view->capsule);
}

int form_axis(const struct form *form, int place, bool last) {
  if (!last || form->channel < 0 || place < form->channel) return place;
  return place + 1 < form->rank ? place + 1 : form->channel;
}

void form_of_shape(struct form *form, int rank, const int64_t *shape, bool written_last) {
  form->rank = rank;
  form->channel = rank > 1 ? 1 : -1;
  for (int place = 0; place < rank; place++)
    form->extents[form_axis(form, place, written_last)] = shape[place];
}

bool view_has_shape(const struct view *view, const struct form *form, bool written_last) {
  if (view->rank != form->rank) return false;
  for (int place = 0; place < form->rank; place++)
    if (view->shape[place] != form->extents[form_axis(form, place, written_last)]) return false;
  return true;
}

bool view_is_dense(const struct view *view, const struct form *form, struct order order) {
  int64_t strides[AXN_MAX_RANK], dense = 1;
  for (int place = 0; place < form->rank; place++) {
    if (form->extents[place] == 0) return true;
    strides[form_axis(form, place, order.written_last)] = view->strides[place];
  }
  for (int place = form->rank - 1; place >= 0; place--) {
    const int axis = form_axis(form, place, order.memory_last);
    if (form->extents[axis] > 1 && strides[axis] != dense) return false;
    if (__builtin_mul_overflow(dense, form->extents[axis], &dense)) return false;
  }
  return true;
}

bool view_has_strides(const struct view *view, const struct form *form, bool written_last,
                      const int64_t *strides) {
  for (int place = 0; place < form->rank; place++) {
    const int axis = form_axis(form, place, written_last);
    if (form->extents[axis] == 0) return true;
    if (form->extents[axis] > 1 && strides[axis] != view->strides[place]) return false;
  }
  return true;
}
