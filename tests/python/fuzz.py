# SPDX-License-Identifier: MIT
"""fuzz.py SEED SECONDS: random calls, most of them wrong. Every one ends in a result or an exception of the
expected kinds, and no input changes. The last line says how many did which."""

import random
import sys
import time

import ml_dtypes
import numpy

import axisnorm

DTYPES = ["float32"] * 80 + ["float64", "float16", "int64", "int8", ">f4", ml_dtypes.bfloat16]
NORMS = ("batch", "ghost_batch", "layer", "rms", "instance", "group", "positional")
FUNCTIONS = [getattr(axisnorm, f"{norm}_norm{kind}") for norm in NORMS
             for kind in ("", "_backward")]
LIKE_X = ("x", "grad_y", "residual", "grad_residual")
EXPECTED = (axisnorm.Error, TypeError, ValueError, BufferError, OverflowError)


def twist(draw, array):
    """Another view of the array, often one that is not dense."""
    kind = draw.randrange(40)
    if kind == 0 and array.ndim:
        return array[..., ::draw.choice([-1, 2])]
    if kind == 1:
        return array.transpose(draw.sample(range(array.ndim), array.ndim))
    if kind == 2 and array.ndim > 1:
        return numpy.moveaxis(numpy.ascontiguousarray(numpy.moveaxis(array, 1, -1)), -1, 1)
    if kind == 3:
        return numpy.broadcast_to(array, (draw.randrange(3), *array.shape))
    if kind == 4:
        array.flags.writeable = False
    if kind == 5:
        return numpy.frombuffer(b"x" + array.tobytes(), "u1")[1:].view(array.dtype).reshape(array.shape)
    if kind == 6 and array.dtype.kind == "f":
        return memoryview(array)
    return array


def array_of(draw, shape):
    values = numpy.random.default_rng(draw.randrange(1 << 30)).normal(size=shape)
    return twist(draw, values.astype(draw.choice(DTYPES)))


def shape_for(draw, name, shape):
    """Mostly what is due, else anything."""
    if draw.random() < 0.02:
        return tuple(draw.randrange(5) for _ in range(draw.randrange(8)))
    if name in LIKE_X:
        return shape
    if name in ("mean", "rstd"):
        return draw.choice([shape[:1], shape[:2], shape[1:2], (*shape[:1], 2)])
    return draw.choice([shape[1:2], shape[1:2], shape[1:], shape[-1:]])


def value_of(draw, name, shape):
    odd = [None, 0, -1, 2, 1.5, "x", b"y", [1.0], 10**30, float("nan"), float("inf"), numpy.ones(3), True]
    if draw.random() < 0.01:
        return draw.choice(odd)
    if name in ("x", "grad_y"):
        return array_of(draw, shape_for(draw, name, shape))
    if name in ("scale", "shift", "mean", "rstd", "running_mean", "running_variance", "residual",
                "grad_residual"):
        return array_of(draw, shape_for(draw, name, shape)) if draw.random() < 0.7 else None
    choices = {
        "training": [True, False], "epsilon": [1e-5, 1e-3, 1e308], "momentum": [0.1, 0, 1, None],
        "unbiased": [True, False], "batch_count": [None, numpy.zeros(1, "int64"), numpy.zeros((), "int64")],
        "layout": ["nchw", "nhwc"], "return_statistics": [True, False], "threads": [0, 1, 2, 5],
        "axis": [0, 1, 2, 3, -1, -2, -9], "groups": [1, 2, 3, 4],
        "ghost_batch": [1, 2, 3, 4], "negative_slope": [0.01, 0, -2],
        "activation": [None, "relu", "leaky-relu", "silu", "gelu", "gelu-tanh"],
        "parameters": [None, "per_channel", "per_element"],
        "output_mask": [(True, True, True), (False, True, False), (True, False, False), (False,) * 3],
    }
    if name == "out":
        return draw.choice([None, None, array_of(draw, shape), (array_of(draw, shape), None, None)])
    return draw.choice(choices[name])


def call(draw):
    function = draw.choice(FUNCTIONS)
    shape = tuple(draw.choice([1, 2, 3, 4, 6]) for _ in range(draw.choice([1, 2, 3, 4, 4, 5, 6])))
    if draw.random() < 0.05:
        shape = (0, *shape[1:])
    code = function.__code__
    names = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    due = ("x", "grad_y", "groups", "ghost_batch", "mean", "rstd")
    keywords = {name: value_of(draw, name, shape) for name in names if name in due or draw.random() < 0.5}
    inputs = ("x", "grad_y", "scale", "shift", "mean", "rstd", "residual")
    fixed = [keywords[name] for name in inputs if isinstance(keywords.get(name), numpy.ndarray)]
    before = [value.tobytes() for value in fixed]
    try:
        function(**keywords)
        return True
    except EXPECTED:
        return False
    finally:
        assert before == [value.tobytes() for value in fixed], "an input changed"


def main():
    seed, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    draw = random.Random(seed)
    worked = refused = 0
    while time.monotonic() < end:
        if call(draw):
            worked += 1
        else:
            refused += 1
    print(worked, refused)


if __name__ == "__main__":
    main()
