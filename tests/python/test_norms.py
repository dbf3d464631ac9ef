# SPDX-License-Identifier: MIT
"""Values: against the formulas in float64."""

import numpy
import pytest

import axisnorm
import reference
from reference import (
    ACTIVATIONS, ELEMENTS, NORMS, ROWS, SHAPES, SLOPE, TRACKED, activate, arguments, assert_near,
    channels_last, functions, spread,
)


def cases(test):
    test = pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.data.name)(test)
    test = pytest.mark.parametrize("last", [False, True], ids=["first", "last"])(test)
    test = pytest.mark.parametrize("shape", SHAPES, ids=str)(test)
    return pytest.mark.parametrize("norm", NORMS)(test)


def draw(random, shape, element, last=False):
    values = (random.normal(size=shape) * 2 + 1).astype(element.data)
    return channels_last(values) if last else values


def training(norm):
    return {"training": True} if norm in TRACKED else {}


def draw_parameters(random, shape, element):
    return [random.normal(size=shape).astype(element.parameters) for _ in range(2)]


@cases
def test_forward(norm, shape, last, element, random):
    if norm == "instance" and len(shape) == 2:
        return  # one value per statistic: test_single_values
    x = draw(random, shape, element, last)
    scale, shift = draw_parameters(random, shape[1], element)
    y, *statistics = functions(norm)[0](x, scale, shift, return_statistics=True, **training(norm),
                                        **arguments(norm))
    expected = reference.forward(norm, x, spread(scale, x.ndim), spread(shift, x.ndim))
    assert y.dtype == x.dtype and statistics[0].dtype == element.statistics
    for actual, due in zip((y, *statistics), expected, strict=True):
        assert_near(actual, due, element)
    if last and x.ndim > 2:
        assert y.strides == x.strides
    alone = training(norm) if norm in ("batch", "ghost") else {}
    numpy.testing.assert_array_equal(functions(norm)[0](x, scale, shift, **alone, **arguments(norm)), y)


@cases
def test_backward(norm, shape, last, element, random):
    if norm == "instance" and len(shape) == 2:
        return
    x, grad_y = draw(random, shape, element, last), draw(random, shape, element, last)
    scale, _ = draw_parameters(random, shape[1], element)
    run, run_backward = functions(norm)
    channels = {"parameters": "per_channel"} if norm in ROWS else {}
    _, *statistics = run(x, return_statistics=True, **training(norm), **arguments(norm))
    gradients = run_backward(grad_y, x, *statistics, scale, **channels, **arguments(norm))
    grad_x, grad_scale, grad_shift, size = reference.backward(norm, grad_y, x, spread(scale, x.ndim))
    assert_near(gradients.grad_x, grad_x, element, 16, size)
    assert_near(gradients.grad_scale, reference.per_channel(grad_scale), element, 16)
    assert_near(gradients.grad_shift, reference.per_channel(grad_shift), element, 16)
    assert gradients.grad_scale.dtype == element.parameters
    alone = run_backward(grad_y, x, *statistics, output_mask=(True, False, False), **arguments(norm))
    assert alone.grad_scale is None and alone.grad_shift is None
    grad_x, _, _, size = reference.backward(norm, grad_y, x)
    assert_near(alone.grad_x, grad_x, element, 16, size)


@pytest.mark.parametrize("axis", [1, 2, 3, -1, -3])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("norm", ROWS)
def test_axes_of_layer_and_rms(norm, axis, last, random):
    run, run_backward = functions(norm)
    shape = (2, 3, 4, 5)
    first = axis % 4
    element = reference.FLOAT32
    x, grad_y = draw(random, shape, element, last), draw(random, shape, element, last)
    parameters = draw_parameters(random, shape[first:], element)
    if last and first == 1:
        parameters = [channels_last(parameter[None])[0] for parameter in parameters]
    scale, shift = parameters
    y, *statistics = run(x, scale, shift, axis=axis, return_statistics=True)
    expected = reference.forward(norm, x, scale, shift, axis=first)
    for actual, due in zip((y, *statistics), expected, strict=True):
        assert_near(actual, due, element)
    gradients = run_backward(grad_y, x, *statistics, scale, axis=axis)
    grad_x, grad_scale, grad_shift, size = reference.backward(norm, grad_y, x, scale, axis=first)
    assert_near(gradients.grad_x, grad_x, element, 16, size)
    assert_near(gradients.grad_scale, grad_scale.sum(tuple(range(first))), element, 16)
    assert_near(gradients.grad_shift, grad_shift.sum(tuple(range(first))), element, 16)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_layer_norm_written_channels_last(axis, random):
    """The axis counts x's axes as they are written: -1 of N,H,W,C is C."""
    x = draw(random, (2, 3, 4, 5), reference.FLOAT32)
    scale, shift = draw_parameters(random, x.shape[axis:], reference.FLOAT32)
    y = axisnorm.layer_norm(x, scale, shift, axis=axis, layout="nhwc")
    assert_near(y, reference.forward("layer", x, scale, shift, axis=axis % 4)[0], reference.FLOAT32)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("memory_last", [False, True])
def test_written_channels_last(norm, memory_last, random):
    x = draw(random, (2, 6, 5, 7), reference.FLOAT32, memory_last)
    scale, shift = draw_parameters(random, 6, reference.FLOAT32)
    run, run_backward = functions(norm)
    written = numpy.moveaxis(x, 1, -1)
    y, *statistics = run(written, scale, shift, layout="nhwc", return_statistics=True, **training(norm),
                         **arguments(norm))
    expected = run(x, scale, shift, return_statistics=True, **training(norm), **arguments(norm))
    assert y.shape == written.shape and y.strides == written.strides
    numpy.testing.assert_array_equal(numpy.moveaxis(y, -1, 1), expected[0])
    channels = {"parameters": "per_channel"} if norm in ROWS else {}
    actual = run_backward(y, written, *statistics, scale, layout="nhwc", **channels, **arguments(norm))
    expected = run_backward(expected[0], x, *expected[1:], scale, **channels, **arguments(norm))
    numpy.testing.assert_array_equal(numpy.moveaxis(actual.grad_x, -1, 1), expected.grad_x)
    numpy.testing.assert_array_equal(actual.grad_scale, expected.grad_scale)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics(norm, unbiased, random):
    x = draw(random, (4, 6, 5, 3), reference.FLOAT32)
    mean, variance = numpy.zeros(6, "float32"), numpy.ones(6, "float32")
    run = functions(norm)[0]
    run(x, running_mean=mean, running_variance=variance, training=True, momentum=0.25, unbiased=unbiased)
    parts, axes = reference.grouped(norm, x.astype("float64"))
    due_mean, due_variance = parts.mean(axes), parts.var(axes, ddof=int(unbiased))
    if norm == "instance":
        due_mean, due_variance = due_mean.mean(0), due_variance.mean(0)
    assert_near(mean, 0.25 * due_mean, reference.FLOAT32)
    assert_near(variance, 0.75 + 0.25 * due_variance, reference.FLOAT32)
    scale, shift = draw_parameters(random, 6, reference.FLOAT32)
    kept = mean.copy(), variance.copy()
    y = run(x, scale, shift, mean, variance, epsilon=1e-3)
    rstd = 1 / numpy.sqrt(variance.astype("float64") + 1e-3)
    due = (x - spread(mean, 4)) * spread(rstd * scale, 4) + spread(shift, 4)
    assert_near(y, due, reference.FLOAT32)
    numpy.testing.assert_array_equal((mean, variance), kept)
    grad_y = draw(random, x.shape, reference.FLOAT32)
    backward = functions(norm)[1]
    gradients = backward(grad_y, x, scale=scale, running_mean=mean, running_variance=variance, epsilon=1e-3)
    assert_near(gradients.grad_x, grad_y * spread(rstd * scale, 4), reference.FLOAT32)
    normalized = (x - spread(mean, 4)) * spread(rstd, 4)
    assert_near(gradients.grad_scale, reference.per_channel(grad_y * normalized), reference.FLOAT32, 16)
    only = backward(grad_y, None, running_mean=mean, running_variance=variance, epsilon=1e-3,
                    output_mask=(True, False, True))
    assert_near(only.grad_x, grad_y * spread(rstd, 4), reference.FLOAT32)


def test_cumulative_average(random):
    mean, variance = numpy.zeros(3, "float32"), numpy.zeros(3, "float32")
    count = numpy.zeros((), "int64")
    batches = [draw(random, (4, 3, 5), reference.FLOAT32) for _ in range(5)]
    for x in batches:
        axisnorm.batch_norm(x, running_mean=mean, running_variance=variance, training=True, momentum=None,
                            batch_count=count)
    assert count == 5
    due = numpy.mean([x.astype("float64").mean((0, 2)) for x in batches], 0)
    assert_near(mean, due, reference.FLOAT32, 8)


def test_single_values():
    x = numpy.ones((3, 4), "float32")
    with pytest.raises(axisnorm.ArgumentError, match="one value"):
        axisnorm.instance_norm(x, training=True)
    numpy.testing.assert_array_equal(axisnorm.instance_norm(x, shift=numpy.full(4, 2, "float32")), 2 * x)


def test_no_samples():
    x = numpy.empty((0, 4, 3), "float32")
    assert axisnorm.group_norm(x, groups=2).shape == (0, 4, 3)
    mean = rstd = numpy.empty((0, 2), "float32")
    gradients = axisnorm.group_norm_backward(x, x, mean, rstd, groups=2)
    numpy.testing.assert_array_equal(gradients.grad_scale, numpy.zeros(4))
    y, mean, _ = axisnorm.ghost_batch_norm(x, ghost_batch=2, training=True, return_statistics=True)
    assert y.shape == (0, 4, 3) and mean.shape == (0, 4)
    kept = numpy.ones((2, 4), "float32")  # what was there before is no statistic
    axisnorm.batch_norm(x, training=True, return_statistics=True, out=(None, *kept))
    numpy.testing.assert_array_equal(kept, 0)


@pytest.mark.parametrize("norm", NORMS)
def test_in_place(norm, random):
    x, grad_y = draw(random, (4, 6, 4, 4), reference.FLOAT32), draw(random, (4, 6, 4, 4), reference.FLOAT32)
    run, run_backward = functions(norm)
    expected = run(x, return_statistics=True, **training(norm), **arguments(norm))
    due = run_backward(grad_y, x, *expected[1:], **arguments(norm))
    gradients = run_backward(grad_y, x, *expected[1:], out=(grad_y, None, None), **arguments(norm))
    assert gradients.grad_x is grad_y
    numpy.testing.assert_array_equal(grad_y, due.grad_x)
    numpy.testing.assert_array_equal(gradients.grad_scale, due.grad_scale)
    y = run(x, out=x, **training(norm), **arguments(norm))
    assert y is x
    numpy.testing.assert_array_equal(x, expected[0])


def test_outputs(random):
    x = draw(random, (3, 6, 4, 4), reference.FLOAT32)
    expected = axisnorm.group_norm(x, groups=3, return_statistics=True)
    out = numpy.empty_like(x), None, numpy.empty((3, 3), "float32")
    result = axisnorm.group_norm(x, groups=3, out=out, return_statistics=True)
    assert result[0] is out[0] and result[2] is out[2]
    for actual, due in zip(result, expected):
        numpy.testing.assert_array_equal(actual, due)


@pytest.mark.parametrize("norm", ["layer", "rms", "instance", "group", "positional"])
def test_a_sample_has_the_same_bits_in_any_batch(norm, random):
    x = draw(random, (5, 6, 9, 9), reference.FLOAT32)
    y = functions(norm)[0](x, **arguments(norm))
    for index in range(5):
        alone = functions(norm)[0](x[index:index + 1], **arguments(norm))
        numpy.testing.assert_array_equal(alone[0], y[index])


def test_running_statistics_of_ghost_batches(random):
    """One ghost batch after the other, each as a batch of its own."""
    x = draw(random, (6, 3, 5), reference.FLOAT32)
    ghost, plain = ([numpy.zeros(3, "float32"), numpy.ones(3, "float32")] for _ in range(2))
    count = numpy.zeros((), "int64")
    y = axisnorm.ghost_batch_norm(x, None, None, *ghost, ghost_batch=2, training=True, momentum=0.3,
                                  batch_count=count)
    parts = [axisnorm.batch_norm(x[i:i + 2], None, None, *plain, training=True, momentum=0.3)
             for i in range(0, 6, 2)]
    assert_near(y, numpy.concatenate(parts), reference.FLOAT32)
    for actual, due in zip(ghost, plain, strict=True):
        assert_near(actual, due, reference.FLOAT32)
    assert count == 3


def test_outputs_of_rms(random):
    x = draw(random, (3, 6), reference.FLOAT32)
    y, rstd = numpy.empty_like(x), numpy.empty(3, "float32")
    result = axisnorm.rms_norm(x, out=(y, rstd), return_statistics=True)
    assert result[0] is y and result[1] is rstd
    numpy.testing.assert_array_equal(y, axisnorm.rms_norm(x))
    with pytest.raises(axisnorm.ArgumentError, match="out: 3 arrays where y and rstd are expected"):
        axisnorm.rms_norm(x, out=(y, None, rstd), return_statistics=True)


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.data.name)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_residual_and_activation(norm, activation, element, random):
    x, grad_y, residual = (draw(random, (4, 6, 5, 7), element) for _ in range(3))
    scale, shift = draw_parameters(random, 6, element)
    run, run_backward = functions(norm)
    fused = {"residual": residual, "activation": activation, "negative_slope": SLOPE, **arguments(norm)}
    y, *statistics = run(x, scale, shift, return_statistics=True, **training(norm), **fused)
    z = reference.forward(norm, x, spread(scale, 4), spread(shift, 4))[0] + residual.astype("float64")
    due, slope = activate(activation, z)
    assert_near(y, due, element)
    if norm not in ("batch", "ghost"):
        numpy.testing.assert_array_equal(run(x, scale, shift, **fused), y)
    grad_residual = numpy.empty_like(x)
    channels = {"parameters": "per_channel"} if norm in ROWS else {}
    gradients = run_backward(grad_y, x, *statistics, scale, shift=shift, grad_residual=grad_residual,
                             **channels, **fused)
    gradient = grad_y.astype("float64") * slope
    grad_x, grad_scale, grad_shift, size = reference.backward(norm, gradient, x, spread(scale, 4))
    # The derivative of this one has the term z^3 * (1 - s(z)), of which 1 - s cancels where s comes near to
    # 1: at z = 8, just before it is 1, that is half a unit of 2 * sqrt(2 / pi) * (z + 3 * 0.044715 * z^3), 61.
    units = 64 if activation == "gelu-tanh" else 16
    assert_near(grad_residual, gradient, element, units)
    assert_near(gradients.grad_x, grad_x, element, units, size)
    assert_near(gradients.grad_scale, reference.per_channel(grad_scale), element, units)
    assert_near(gradients.grad_shift, reference.per_channel(grad_shift), element, units)


@pytest.mark.parametrize("norm", TRACKED)
def test_residual_in_inference(norm, random):
    x, residual = (draw(random, (4, 6, 5), reference.FLOAT32) for _ in range(2))
    mean, variance = draw_parameters(random, 6, reference.FLOAT32)
    given = {"running_mean": mean, "running_variance": variance**2, **arguments(norm)}
    run, run_backward = functions(norm)
    assert_near(run(x, residual=residual, **given), run(x, **given) + residual, reference.FLOAT32)
    y = run(x, residual=residual, activation="relu", **given)
    assert_near(y, numpy.maximum(run(x, residual=residual, **given), 0), reference.FLOAT32)
    gradients = run_backward(residual, x, residual=residual, activation="relu", **given)
    due = run_backward(numpy.where(y > 0, residual, 0).astype("float32"), x, **given)
    for actual, expected in zip(gradients, due, strict=True):
        assert_near(actual, expected, reference.FLOAT32)
