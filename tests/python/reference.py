# SPDX-License-Identifier: MIT
"""The formulas of the four normalizations in float64, and the types and cases that tests go through."""

from typing import NamedTuple

import ml_dtypes
import numpy

import axisnorm

NORMS = ["batch", "layer", "instance", "group"]
GROUPS = 3
SHAPES = [(5, 6), (3, 6, 4), (2, 6, 5, 7), (2, 6, 3, 2, 3)]


class Element(NamedTuple):
    """A type of x, the type of its parameters and statistics, and its unit in the last place at 1."""

    data: numpy.dtype
    parameters: numpy.dtype
    statistics: numpy.dtype
    ulp: float


def _element(data, other):
    ulp = float(ml_dtypes.finfo(data).eps)
    return Element(numpy.dtype(data), numpy.dtype(other), numpy.dtype(other), ulp)


def _is_known(element):
    try:
        axisnorm.layer_norm(numpy.zeros((2, 3), element.data))
    except axisnorm.ArgumentError as error:
        assert "dtype" in str(error)
        return False
    return True


FLOAT32 = _element("float32", "float32")
UNKNOWN, ELEMENTS = [], [FLOAT32]
for element in (_element("float64", "float64"), _element("float16", "float32"),
                _element(ml_dtypes.bfloat16, "float32")):
    (ELEMENTS if _is_known(element) else UNKNOWN).append(element)


def arguments(norm):
    return {"groups": GROUPS} if norm == "group" else {}


def functions(norm):
    return getattr(axisnorm, f"{norm}_norm"), getattr(axisnorm, f"{norm}_norm_backward")


def grouped(norm, x, axis=1, groups=GROUPS):
    """x so that the reduced axes are whole ones, and which these are."""
    if norm == "batch":
        return x, (0, *range(2, x.ndim))
    if norm == "layer":
        return x, tuple(range(axis, x.ndim))
    if norm == "instance":
        return x, tuple(range(2, x.ndim))
    split = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return split, tuple(range(2, split.ndim))


def spread(parameter, rank):
    """[C], or one per element of the last axes, against all axes of x."""
    if parameter.ndim == 1 and rank > 2:
        return parameter.reshape(-1, *[1] * (rank - 2))
    return parameter


def forward(norm, x, scale=1.0, shift=0.0, epsilon=1e-5, axis=1, groups=GROUPS):
    x = numpy.asarray(x, numpy.float64)
    parts, axes = grouped(norm, x, axis, groups)
    mean, variance = parts.mean(axes, keepdims=True), parts.var(axes, keepdims=True)
    rstd = 1 / numpy.sqrt(variance + epsilon)
    normalized = ((parts - mean) * rstd).reshape(x.shape)
    y = normalized * scale + shift
    return y, mean.squeeze(axes), rstd.squeeze(axes)


def backward(norm, grad_y, x, scale=1.0, epsilon=1e-5, axis=1, groups=GROUPS):
    """grad_x, and the gradient of scale and shift per element of x, to be summed up."""
    grad_y, x = numpy.asarray(grad_y, numpy.float64), numpy.asarray(x, numpy.float64)
    normalized, _, _ = forward(norm, x, epsilon=epsilon, axis=axis, groups=groups)
    parts, axes = grouped(norm, normalized, axis, groups)
    gradient = (grad_y * scale).reshape(parts.shape)
    mean = gradient.mean(axes, keepdims=True)
    slope = (gradient * parts).mean(axes, keepdims=True)
    rstd = 1 / numpy.sqrt(grouped(norm, x, axis, groups)[0].var(axes, keepdims=True) + epsilon)
    grad_x = ((gradient - mean - parts * slope) * rstd).reshape(x.shape)
    return grad_x, grad_y * normalized, grad_y


def per_channel(array):
    return array.sum(tuple(axis for axis in range(array.ndim) if axis != 1))


def channels_last(array):
    """The same array, C last in memory."""
    last = numpy.ascontiguousarray(numpy.moveaxis(array, 1, -1))
    return numpy.moveaxis(last, -1, 1)


def assert_near(actual, expected, element, units=4.0):
    """Within some units in the last place of the largest value, or of 1."""
    actual, expected = numpy.asarray(actual, numpy.float64), numpy.asarray(expected, numpy.float64)
    assert actual.shape == expected.shape
    largest = max(1.0, float(numpy.abs(expected).max(initial=0)))
    difference = float(numpy.abs(actual - expected).max(initial=0))
    assert difference <= units * element.ulp * largest, f"{difference / element.ulp / largest} units"
