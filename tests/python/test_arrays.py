# SPDX-License-Identifier: MIT
"""Which arrays are taken, from whom, and what is refused in which words."""

import array
import ctypes
import gc
import weakref

import ml_dtypes
import numpy
import pytest

import axisnorm
from reference import FLOAT32, UNKNOWN, channels_last


class OnlyDLPack:
    """An array that speaks DLPack alone, in the version of the protocol that is asked for."""

    def __init__(self, array, versioned=True, device=(1, 0)):
        self.array, self.versioned, self.device = array, versioned, device

    def __dlpack__(self, **keywords):
        if not self.versioned and keywords:
            raise TypeError("unexpected keyword")
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.device


def refused(match, function, *args, **keywords):
    with pytest.raises(axisnorm.ArgumentError, match=match) as caught:
        function(*args, **keywords)
    assert isinstance(caught.value, axisnorm.Error) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_dlpack(versioned, last, random):
    x = random.normal(size=(2, 4, 3, 3)).astype("float32")
    if last:
        x = channels_last(x)
    out = numpy.empty_like(x)
    speaker = OnlyDLPack(out, versioned)
    assert axisnorm.group_norm(OnlyDLPack(x, versioned), groups=2, out=speaker) is speaker
    numpy.testing.assert_array_equal(out, axisnorm.group_norm(x, groups=2))


def test_dlpack_arrays_are_let_go():
    x = numpy.ones((2, 4), "float32")
    reference = weakref.ref(x)
    for versioned in (False, True):
        for _ in range(3):
            axisnorm.layer_norm(OnlyDLPack(x, versioned))
            refused("groups", axisnorm.group_norm, OnlyDLPack(x, versioned), groups=3)
    del x
    gc.collect()
    assert reference() is None


def test_dlpack_refusals():
    x = numpy.ones((2, 4), "float32")
    refused(r"x: on a device of DLPack type 2", axisnorm.layer_norm, OnlyDLPack(x, device=(2, 0)))
    refused(r"x: elements of DLPack type 1 with 8 bits", axisnorm.layer_norm, OnlyDLPack(x.astype("uint8")))
    x.flags.writeable = False
    if numpy.lib.NumpyVersion(numpy.__version__) >= "2.1.0":  # before, DLPack could not say so
        refused("y: read-only", axisnorm.layer_norm, numpy.ones((2, 4), "float32"), out=OnlyDLPack(x))


def test_other_buffers(random):
    x = random.normal(size=(2, 4)).astype("float32")
    expected = axisnorm.layer_norm(x)
    numpy.testing.assert_array_equal(axisnorm.layer_norm(memoryview(x)), expected)
    flat = array.array("f", x.ravel())
    shaped = memoryview(flat).cast("B").cast("f", (2, 4))
    axisnorm.layer_norm(shaped, out=shaped)
    numpy.testing.assert_array_equal(numpy.reshape(flat, (2, 4)), expected)
    x.flags.writeable = False
    numpy.testing.assert_array_equal(axisnorm.layer_norm(x), expected)


def test_buffers_without_strides(random):
    """ctypes' arrays give none, also when they are asked for."""
    x = random.normal(size=(3, 2, 4)).astype("float32")
    foreign = (ctypes.c_float * 4 * 2 * 3).from_buffer_copy(x)
    numpy.testing.assert_array_equal(axisnorm.layer_norm(foreign), axisnorm.layer_norm(x))
    out = (ctypes.c_float * 4 * 2 * 3)()
    axisnorm.group_norm(x, groups=2, out=out)
    numpy.testing.assert_array_equal(out, axisnorm.group_norm(x, groups=2))
    refused("shift: shape", axisnorm.group_norm, x, None, (ctypes.c_float * 3)(), groups=2)


def test_buffers_that_refuse():
    released = memoryview(numpy.ones((2, 4), "float32"))
    released.release()
    refused("x: .*released", axisnorm.layer_norm, released)


def test_not_arrays():
    for value in ([1.0], 3, "text", object()):
        with pytest.raises(TypeError, match="x: .* neither the buffer protocol nor DLPack"):
            axisnorm.layer_norm(value)
    refused("x: elements of format 'B'", axisnorm.layer_norm, b"bytes")


@pytest.mark.parametrize("dtype", ["int32", "int64", ">f4", "complex64", "bool", "U3", "datetime64[s]", "O"])
def test_types_refused(dtype):
    refused("x: elements of .* float32, float64, float16 and bfloat16", axisnorm.layer_norm,
            numpy.zeros((2, 3), dtype))


@pytest.mark.parametrize("element", UNKNOWN, ids=lambda element: element.data.name)
def test_types_that_the_library_does_not_know(element):
    refused("dtype", axisnorm.layer_norm, numpy.zeros((2, 3), element.data))
    refused("scale: .* where float32 is expected", axisnorm.group_norm, numpy.zeros((2, 3), "float32"),
            numpy.zeros(3, element.data), groups=1)


def test_bfloat16_is_seen_without_a_copy():
    with pytest.raises(axisnorm.ArgumentError, match="scale: bfloat16 where float32 is expected"):
        axisnorm.group_norm(numpy.zeros((2, 3), "float32"), numpy.zeros(3, ml_dtypes.bfloat16), groups=1)


VIEWS = {
    "channels": lambda x: x[:, ::2],
    "slice": lambda x: x[:, 1:4],
    "samples": lambda x: x[1::2],
    "crop": lambda x: x[..., 1:, 1:-1],
    "columns": lambda x: x[..., ::3],
    "channels last": lambda x: channels_last(x)[:, 2:5],
    "transposed": lambda x: x.transpose(0, 3, 2, 1),
}


def drawn(view, random):
    return VIEWS[view](random.normal(size=(4, 6, 4, 8)).astype("float32"))


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "group", "rms", "positional", "ghost_batch"])
@pytest.mark.parametrize("view", VIEWS)
def test_views(view, norm, random):
    run, run_backward = (getattr(axisnorm, f"{norm}_norm{kind}") for kind in ("", "_backward"))
    options = {"groups": 1} if norm == "group" else {"ghost_batch": 2} if norm == "ghost_batch" else {}
    if norm in ("layer", "rms"):
        options["parameters"] = "per_channel"
    x, grad_y, out = (drawn(view, random) for _ in range(3))
    scale, shift = random.normal(size=(2, x.shape[1])).astype("float32")
    train = {"training": True} if norm in ("batch", "ghost_batch") else {}
    expected = run(x.copy(), scale, shift, return_statistics=True, **train, **options)
    kept, whole, outside = x.copy(), out.base, out.base.copy()
    actual = run(x, scale, shift, out=(out, *[None] * (len(expected) - 1)), return_statistics=True, **train,
                 **options)
    for one, two in zip(actual, expected, strict=True):
        numpy.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    numpy.testing.assert_array_equal(x, kept)
    out[...] = 0
    numpy.testing.assert_array_equal(whole, numpy.where(whole == 0, 0, outside))
    due = run_backward(grad_y.copy(), x.copy(), *expected[1:], scale, **options)
    found = run_backward(grad_y, x, *expected[1:], scale, **options)
    for one, two in zip(found, due, strict=True):
        numpy.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_views_with_residual_and_activation(random):
    whole = random.normal(size=(3, 12, 5, 7)).astype("float32")
    x, residual, grad_y = whole[:, :4], whole[:, 4:8], whole[:, 8:]
    out = numpy.zeros_like(whole)
    options = {"groups": 2, "activation": "silu"}
    expected = axisnorm.group_norm(x.copy(), residual=residual.copy(), **options)
    y, mean, rstd = axisnorm.group_norm(x, residual=residual, out=(out[:, 4:8], None, None), **options,
                                        return_statistics=True)
    numpy.testing.assert_array_equal(y, expected)
    assert not out[:, :4].any() and not out[:, 8:].any()
    numpy.testing.assert_array_equal(axisnorm.group_norm(x, residual=residual, **options), expected)
    due, found = numpy.empty_like(x.copy()), out[:, 8:]
    gradients = axisnorm.group_norm_backward(grad_y.copy(), x.copy(), mean, rstd, residual=residual.copy(),
                                             grad_residual=due, **options)
    actual = axisnorm.group_norm_backward(grad_y, x, mean, rstd, residual=residual, grad_residual=found,
                                          **options)
    assert actual.grad_x.strides == x.strides
    numpy.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-6)
    for one, two in zip(actual, gradients, strict=True):
        numpy.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_one_buffer_for_input_and_output(random):
    features = random.normal(size=(2, 9, 4, 4)).astype("float32")
    expected = axisnorm.instance_norm(features[:, :4].copy())
    axisnorm.instance_norm(features[:, :4], out=features[:, 5:])
    numpy.testing.assert_array_equal(features[:, 5:], expected)
    refused("y: overlaps x", axisnorm.instance_norm, features[:, :4], out=features[:, 3:7])


REFUSED = {
    "reversed": lambda x: x[:, ::-1],
    "broadcast": lambda x: numpy.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("view", REFUSED)
def test_views_that_are_refused(view, random):
    x = REFUSED[view](random.normal(size=(4, 6, 4, 8)).astype("float32"))
    refused("x: a view that repeats elements or runs backwards", axisnorm.batch_norm, x, training=True)
    whole = numpy.ascontiguousarray(x)
    out = REFUSED[view](numpy.zeros((4, 6, 4, 8), "float32"))
    message = "read-only" if view == "broadcast" else "do not lie one after the other"
    refused("y: .*" + message, axisnorm.batch_norm, whole, training=True, out=out)
    assert not out.any()


def test_windows_are_refused(random):
    x = random.normal(size=(3, 20)).astype("float32")
    windows = numpy.lib.stride_tricks.sliding_window_view(x, 4, axis=1)
    refused("x_strides.*overlap", axisnorm.instance_norm, windows)


def test_views_that_are_dense(random):
    x = random.normal(size=(6, 4, 5, 5)).astype("float32")
    expected = axisnorm.group_norm(x[2:4].copy(), groups=2)
    numpy.testing.assert_array_equal(axisnorm.group_norm(x[2:4], groups=2), expected)
    strange = numpy.lib.stride_tricks.as_strided(x, (1, 1, 5, 5), (12, 4, 20, 4))
    assert axisnorm.instance_norm(strange).shape == (1, 1, 5, 5)


def test_layouts_must_agree(random):
    x = random.normal(size=(2, 4, 3, 3)).astype("float32")
    out = axisnorm.group_norm(x, groups=2, out=channels_last(x))
    assert out.strides != x.strides
    numpy.testing.assert_array_equal(out, axisnorm.group_norm(x, groups=2))
    refused("residual: its elements do not lie as those of y", axisnorm.group_norm, x, groups=2, residual=x,
            out=channels_last(x))
    scale = numpy.ones((4, 3, 3), "float32")
    refused("scale: .* with channels last, as x's do", axisnorm.layer_norm, channels_last(x), scale)
    refused("layout: 'hwcn'", axisnorm.group_norm, x, groups=2, layout="hwcn")


def test_shapes_must_fit():
    x = numpy.ones((2, 4, 3), "float32")
    wrong = numpy.ones(3, "float32")
    refused(r"scale: shape \(3,\) where \(4,\) is expected", axisnorm.group_norm, x, wrong, groups=2)
    refused(r"shift: shape \(3,\) where \(4,\) is expected", axisnorm.group_norm, x, None, wrong, groups=2)
    refused(r"scale: shape \(3,\) where \(4,\) is expected", axisnorm.layer_norm, x, wrong)
    refused(r"y: shape \(2, 4\) where \(2, 4, 3\)", axisnorm.layer_norm, x, out=x[..., 0].copy())
    refused(r"rstd: shape \(3,\) where \(2, 2\)", axisnorm.group_norm_backward, x, x,
            numpy.ones((2, 2), "float32"), wrong, groups=2)
    refused(r"running_mean: shape \(3,\) where \(4,\)", axisnorm.batch_norm, x, None, None, wrong, wrong)
    refused("9 axes", axisnorm.layer_norm, numpy.ones([1] * 9, "float32"))
    refused("rank", axisnorm.layer_norm, numpy.ones(3, "float32"))
    refused("rank", axisnorm.layer_norm, numpy.float32(3))


def test_outputs_that_are_read_only():
    x = numpy.ones((4, 3), "float32")
    fixed = numpy.zeros(3, "float32")
    fixed.flags.writeable = False
    refused("running_mean: read-only", axisnorm.batch_norm, x, None, None, fixed, numpy.ones(3, "float32"),
            training=True)
    axisnorm.batch_norm(x, fixed, fixed, fixed, fixed)


def test_overlaps():
    memory = numpy.ones(20, "float32")
    x, y = memory[:12].reshape(4, 3), memory[6:18].reshape(4, 3)
    refused("overlap", axisnorm.layer_norm, x, out=y)


def test_numbers():
    x = numpy.ones((4, 6), "float32")
    refused("axis: 2", axisnorm.layer_norm, x, axis=2)
    refused("groups", axisnorm.group_norm, x, groups=4)
    refused("groups", axisnorm.group_norm, x, groups=10**30)
    refused("ghost_batch", axisnorm.ghost_batch_norm, x, ghost_batch=3, training=True)
    refused("ghost_batch", axisnorm.ghost_batch_norm, x, ghost_batch=10**30, training=True)
    refused("activation: 'tanh'", axisnorm.layer_norm, x, activation="tanh")
    refused("activation: ''", axisnorm.layer_norm, x, activation="")
    refused("negative_slope", axisnorm.layer_norm, x, activation="leaky-relu", negative_slope=float("inf"))
    refused(r"residual: shape \(3, 6\) where \(4, 6\)", axisnorm.layer_norm, x, residual=x[:3])
    refused("rstd", axisnorm.rms_norm_backward, x, x, None)
    refused("epsilon", axisnorm.layer_norm, x, epsilon=0)
    refused("momentum", axisnorm.batch_norm, x, training=True, momentum=2)
    refused("threads", axisnorm.layer_norm, x, threads=-1)
    refused("threads: 1000000000000 is out of range", axisnorm.layer_norm, x, threads=10**12)
    refused(r"groups: 1\d* is out of range", axisnorm.group_norm, x, groups=10**30)
    refused("activation: 'tanh' is not 'relu', 'leaky-relu', 'silu', 'gelu' or 'gelu-tanh'", axisnorm.layer_norm, x,
            activation="tanh")
    for momentum in (-1, 3, float("nan"), numpy.float32(-1)):
        refused(f"momentum: {momentum} is not from 0 to 1, or None", axisnorm.batch_norm, x, training=True,
                momentum=momentum)
    refused("running_mean, running_variance: are None", axisnorm.batch_norm, x)
    refused("parameters: 'none'", axisnorm.layer_norm, x, parameters="none")
    refused("return_statistics", axisnorm.batch_norm, x, None, None, *[numpy.ones(6, "float32")] * 2,
            return_statistics=True)
    refused("out: 2 arrays", axisnorm.layer_norm, x, out=(x, x), return_statistics=True)
    refused("output_mask: three entries", axisnorm.layer_norm_backward, x, x, None, None, output_mask=(True,))
    refused("out: three entries", axisnorm.layer_norm_backward, x, x, None, None,
            out=numpy.ones((3, 6), "float32"))
    refused("mean, rstd", axisnorm.layer_norm_backward, x, x, None, None)
    refused("running_mean", axisnorm.batch_norm, x)


def test_arguments_of_other_types_are_named():
    x = numpy.ones((4, 6), "float32")
    wrong = {"groups: 2.5 where a whole number is expected": lambda: axisnorm.group_norm(x, groups=2.5),
             "ghost_batch: '2' where a whole": lambda: axisnorm.ghost_batch_norm(x, ghost_batch="2", training=True),
             r"axis: \(0, 1\) where a whole": lambda: axisnorm.layer_norm(x, axis=(0, 1)),
             "threads: None where a whole": lambda: axisnorm.layer_norm(x, threads=None),
             "epsilon: '1' where a number": lambda: axisnorm.layer_norm(x, epsilon="1"),
             "momentum: '1' where a number": lambda: axisnorm.batch_norm(x, training=True, momentum="1"),
             "negative_slope: None where a number":
                 lambda: axisnorm.layer_norm(x, activation="leaky-relu", negative_slope=None),
             "activation: 3 where a name is expected": lambda: axisnorm.layer_norm(x, activation=3)}
    for message, call in wrong.items():
        with pytest.raises(TypeError, match="^" + message):
            call()
    assert axisnorm.group_norm(x, groups=numpy.int64(2), epsilon=numpy.float32(1e-5)).shape == (4, 6)


def test_numbers_of_another_type_than_in_a_call_before():
    """Plans are kept, and 2 == 2.0."""
    x = numpy.ones((4, 6), "float32")
    axisnorm.group_norm(x, groups=2), axisnorm.layer_norm(x, axis=1)
    with pytest.raises(TypeError, match="groups: 2.0 where a whole number is expected"):
        axisnorm.group_norm(x, groups=2.0)
    with pytest.raises(TypeError, match="axis: 1.0 where a whole number is expected"):
        axisnorm.layer_norm(x, axis=1.0)
    with pytest.raises(TypeError, match=r"epsilon: \[1\] where a number is expected"):
        axisnorm.layer_norm(x, epsilon=[1])
    numpy.testing.assert_array_equal(axisnorm.group_norm(x, groups=numpy.int64(2), epsilon=numpy.array(1e-5)),
                                     axisnorm.group_norm(x, groups=2))


def test_nothing_is_written_after_an_error():
    x, y = numpy.ones((4, 3), "float32"), numpy.zeros((4, 3), "float32")
    mean = numpy.zeros(3, "float32")
    refused("batch_count", axisnorm.batch_norm, x, running_mean=mean, running_variance=mean + 1,
            training=True, momentum=None, out=y)
    assert not y.any() and not mean.any()


def test_element_of_statistics():
    x = numpy.ones((4, 3), FLOAT32.data)
    assert axisnorm.layer_norm(x, return_statistics=True)[1].dtype == FLOAT32.statistics
