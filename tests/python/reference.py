# SPDX-License-Identifier: MIT
"""The formulas of the normalizations in float64, and the types and cases that tests go through."""

import math
from typing import NamedTuple

import ml_dtypes
import numpy

import axisnorm

NORMS = ["batch", "ghost", "layer", "rms", "instance", "group", "positional"]
TRACKED = ["batch", "ghost", "instance"]  # which take running statistics
ROWS = ["layer", "rms"]  # over the last axes
GROUPS, GHOST = 3, 2
SHAPES = [(6, 6), (4, 6, 4), (2, 6, 5, 7), (2, 6, 3, 2, 3)]


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
    return {"group": {"groups": GROUPS}, "ghost": {"ghost_batch": GHOST}}.get(norm, {})


def functions(norm):
    name = "ghost_batch_norm" if norm == "ghost" else f"{norm}_norm"
    return getattr(axisnorm, name), getattr(axisnorm, f"{name}_backward")


def grouped(norm, x, axis=1, groups=GROUPS):
    """x so that the reduced axes are whole ones, and which these are."""
    if norm == "batch":
        return x, (0, *range(2, x.ndim))
    if norm in ROWS:
        return x, tuple(range(axis, x.ndim))
    if norm == "positional":
        return x, (1,)
    if norm == "ghost":
        split = x.reshape(x.shape[0] // GHOST, GHOST, *x.shape[1:])
        return split, (1, *range(3, split.ndim))
    if norm == "instance":
        return x, tuple(range(2, x.ndim))
    split = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return split, tuple(range(2, split.ndim))


def spread(parameter, rank):
    """[C], or one per element of the last axes, against all axes of x."""
    if parameter.ndim == 1 and rank > 2:
        return parameter.reshape(-1, *[1] * (rank - 2))
    return parameter


def statistics(norm, x, epsilon=1e-5, axis=1, groups=GROUPS):
    """x in parts, their axes, mean and rstd; for rms the mean is 0."""
    parts, axes = grouped(norm, numpy.asarray(x, numpy.float64), axis, groups)
    mean = parts.mean(axes, keepdims=True) * (norm != "rms")
    return parts, axes, mean, 1 / numpy.sqrt(((parts - mean) ** 2).mean(axes, keepdims=True) + epsilon)


def forward(norm, x, scale=1.0, shift=0.0, epsilon=1e-5, axis=1, groups=GROUPS):
    """y and the statistics that the normalization returns."""
    parts, axes, mean, rstd = statistics(norm, x, epsilon, axis, groups)
    y = ((parts - mean) * rstd).reshape(x.shape) * scale + shift
    kept = (rstd,) if norm == "rms" else (mean, rstd)
    return y, *(array.squeeze(axes) for array in kept)


def backward(norm, grad_y, x, scale=1.0, epsilon=1e-5, axis=1, groups=GROUPS):
    """grad_x, and the gradient of scale and shift per element of x, to be summed up; and the largest of the
    terms that grad_x is made of, where a statistic has so few values that they cancel, else 0."""
    grad_y = numpy.asarray(grad_y, numpy.float64)
    parts, axes, mean, rstd = statistics(norm, x, epsilon, axis, groups)
    normalized = (parts - mean) * rstd
    gradient = (grad_y * scale).reshape(parts.shape)
    slope = (gradient * normalized).mean(axes, keepdims=True)
    common = gradient.mean(axes, keepdims=True) * (norm != "rms")
    grad_x = ((gradient - common - normalized * slope) * rstd).reshape(x.shape)
    few = parts.size < 16 * rstd.size
    uncancelled = float(numpy.abs(rstd * gradient).max()) if few else 0.0
    return grad_x, grad_y * normalized.reshape(x.shape), grad_y, uncancelled


SLOPE = 0.25  # of leaky ReLU
ROOT = math.sqrt(2 / math.pi)
ACTIVATIONS = ["relu", "leaky-relu", "silu", "gelu", "gelu-tanh"]


def activate(activation, z):
    """The activation of z and its derivative."""
    if activation.endswith("relu"):
        slope = numpy.where(z < 0, SLOPE if activation == "leaky-relu" else 0.0, 1.0)
        return z * slope, slope
    if activation == "gelu":
        share = (1 + numpy.vectorize(math.erf)(z / math.sqrt(2))) / 2
        rise = numpy.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    else:
        # (1 + tanh(u / 2)) / 2 is the logistic function of u, of which nothing cancels.
        is_silu = activation == "silu"
        u = z if is_silu else 2 * ROOT * (z + 0.044715 * z**3)
        share, rest = 1 / (1 + numpy.exp(-u)), 1 / (1 + numpy.exp(u))
        rise = share * rest * (1 if is_silu else 2 * ROOT * (1 + 3 * 0.044715 * z**2))
    return z * share, share + z * rise


def per_channel(array):
    return array.sum(tuple(axis for axis in range(array.ndim) if axis != 1))


def channels_last(array):
    """The same array, C last in memory."""
    last = numpy.ascontiguousarray(numpy.moveaxis(array, 1, -1))
    return numpy.moveaxis(last, -1, 1)


def assert_near(actual, expected, element, units=4.0, size=1.0):
    """Within some units in the last place of the largest value, or of 1, or of the size given."""
    actual, expected = numpy.asarray(actual, numpy.float64), numpy.asarray(expected, numpy.float64)
    assert actual.shape == expected.shape
    largest = max(1.0, size, float(numpy.abs(expected).max(initial=0)))
    difference = float(numpy.abs(actual - expected).max(initial=0))
    assert difference <= units * element.ulp * largest, f"{difference / element.ulp / largest} units"
