# SPDX-License-Identifier: MIT
"""axisnorm.jax beside the formulas: results, derivatives, transforms, and what is refused."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

jax = pytest.importorskip("jax", minversion="0.5")

import axisnorm
import axisnorm.jax
import jax.numpy as jnp
import reference
from axisnorm.jax import _calls, _formulas
from axisnorm.jax._norm import Norm
from jax.test_util import check_grads
from reference import ACTIVATIONS, ELEMENTS, NORMS, ROWS, SLOPE, TRACKED

SHAPE = (4, 6, 3, 2)


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def function(norm, module=axisnorm.jax):
    return getattr(module, "ghost_batch_norm" if norm == "ghost" else f"{norm}_norm")


def arguments(norm, channels_last=False):
    """What a call takes to normalize by the statistics of x."""
    given = reference.arguments(norm)
    if norm in ("batch", "ghost"):
        given["training"] = True
    if channels_last:
        given["layout"] = "nhwc"
    return given


def parameters(random, norm, shape, dtype="float64"):
    shape = shape[1:] if norm in ROWS else shape[1:2]
    return random.normal(size=shape).astype(dtype), random.normal(size=shape).astype(dtype)


def last(array):
    return numpy.moveaxis(array, 1, -1)


def near(actual, expected, tolerance=1e-11):
    """Pytrees, within a tolerance of the largest value."""
    for one, due in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, due = numpy.asarray(one, numpy.float64), numpy.asarray(due, numpy.float64)
        assert one.shape == due.shape
        numpy.testing.assert_allclose(one, due, rtol=0, atol=tolerance * max(1, numpy.abs(due).max(initial=0)))


def same_bits(actual, expected):
    for one, due in zip(jax.tree.leaves(actual), expected, strict=True):
        numpy.testing.assert_array_equal(numpy.asarray(one), due, strict=True)


@pytest.mark.parametrize("shape", [(4, 6), SHAPE], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_forward(norm, shape, random):
    if norm == "instance" and len(shape) == 2:
        return
    x, (scale, shift) = random.normal(size=shape), parameters(random, norm, shape)
    given = arguments(norm)
    actual = jax.jit(lambda *a: function(norm)(*a, **given, return_statistics=True))(x, scale, shift)
    spread = [reference.spread(p, len(shape)) if norm not in ROWS else p for p in (scale, shift)]
    near(actual, reference.forward(norm, x, *spread))
    if norm not in ROWS:
        x = last(x)
        given = arguments(norm, channels_last=True)
        y, mean, _ = function(norm)(x, scale, shift, **given, return_statistics=True)
        near((y, mean), (last(numpy.asarray(actual[0])), numpy.asarray(actual[1])))


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda element: element.data.name)
@pytest.mark.parametrize("norm", NORMS)
def test_the_bits_of_the_library(norm, element, random):
    """Those of the package's functions of NumPy arrays, forward and backward."""
    x, residual, grad_y = random.normal(size=(3, *SHAPE)).astype(element.data)
    scale, shift = parameters(random, norm, SHAPE, element.parameters)
    given, (forward, backward) = arguments(norm), reference.functions(norm)
    ending = {"activation": "silu", "residual": residual}
    due, *statistics = forward(x, scale, shift, **given, **ending, return_statistics=True)
    ours = lambda x, scale, shift, residual: function(norm)(  # noqa: E731
        x, scale, shift, **given, activation="silu", residual=residual)
    y, pull_back = jax.vjp(ours, x, scale, shift, residual)
    given.pop("training", None)
    grad_residual = numpy.empty_like(x)
    gradients = backward(grad_y, x, *statistics, scale, shift=shift, **given, **ending,
                         grad_residual=grad_residual)
    same_bits((y, pull_back(jnp.asarray(grad_y))), (due, *gradients, grad_residual))


CASES = [(norm, activation, given)
         for norm, activation in zip(NORMS, [None, *ACTIVATIONS, "silu"], strict=True)
         for given in ((False, True) if norm in TRACKED else (False,))]


@pytest.mark.parametrize("norm, activation, given", CASES)
def test_gradients(norm, activation, given, random):
    """Against differences in float64. Away from 0, where ReLUs have none."""
    x, residual = random.normal(size=(2, *SHAPE))
    scale, shift = parameters(random, norm, SHAPE)
    keywords = arguments(norm) | {"activation": activation, "negative_slope": SLOPE}
    if given:
        keywords |= {"training": False, "running_mean": random.normal(size=6),
                     "running_variance": random.random(6) + 0.5}
    ours = lambda x, scale, shift, residual: function(norm)(  # noqa: E731
        x, scale, shift, residual=residual, **keywords)
    if activation in ("relu", "leaky-relu"):
        without = keywords | {"activation": None}
        z = function(norm)(x, scale, shift, residual=residual, **without)
        residual = residual + numpy.where(numpy.abs(z) < 0.1, 0.2, 0)
    check_grads(jax.jit(ours), (x, scale, shift, residual), order=1, modes=["rev"])


@pytest.mark.parametrize("norm, given", [("batch", True), ("group", False), ("rms", False)])
def test_second_derivatives(norm, given, random):
    x, (scale, shift) = random.normal(size=SHAPE), parameters(random, norm, SHAPE)
    keywords = reference.arguments(norm) | {"activation": "gelu"}
    if given:
        keywords |= {"running_mean": numpy.zeros(6), "running_variance": numpy.ones(6)}
    check_grads(lambda *a: function(norm)(*a, **keywords), (x, scale, shift), order=2, modes=["rev"])


def test_only_what_is_there_has_gradients(random):
    x, residual = random.normal(size=(2, *SHAPE))
    ours = lambda x, residual: axisnorm.jax.layer_norm(x, residual=residual).sum()  # noqa: E731
    grad_x, grad_residual = jax.grad(ours, (0, 1))(x, residual)
    near((grad_x, grad_residual), (0 * x, 0 * x + 1))
    near(jax.grad(lambda x: axisnorm.jax.rms_norm(x).sum())(x),
         jax.grad(lambda x: (x / jnp.sqrt((x * x).mean((1, 2, 3), keepdims=True) + 1e-5)).sum())(x))


def test_statistics_are_constants(random):
    x = random.normal(size=SHAPE)
    def loss(x):
        _, mean, rstd, new_mean, new_variance = axisnorm.jax.batch_norm(
            x, running_mean=jnp.zeros(6), running_variance=jnp.ones(6), training=True, return_statistics=True)
        return (mean + rstd + new_mean + new_variance).sum()
    near(jax.grad(loss)(x), 0 * x)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("norm", TRACKED)
def test_running_statistics(norm, momentum, random):
    bare = reference.arguments(norm)
    given = bare | {"training": True, "momentum": momentum}
    mean, variance, count = numpy.zeros(6), numpy.ones(6), numpy.zeros(1, numpy.int64)
    state = mean.copy(), variance.copy(), jnp.zeros((), jnp.int32)
    formula = (jnp.zeros(6), jnp.ones(6)), jnp.zeros((), jnp.int32)
    step = jax.jit(lambda x, *s: function(norm)(x, None, None, *s[:2], batch_count=s[2], **given))
    described = Norm(norm, ghost_batch=bare.get("ghost_batch", 0),
                     momentum=-1.0 if momentum is None else momentum)
    for _ in range(3):
        x = random.normal(size=SHAPE) * 2 + 1
        y = function(norm, axisnorm)(x, None, None, mean, variance, batch_count=count, **given)
        actual, *state = step(x, *state)
        same_bits((actual, *state[:2]), (y, mean, variance))
        assert int(state[2]) == count[0] and state[2].dtype == jnp.int32 and state[2].shape == ()
        result = _formulas.training(described, jnp.asarray(x), None, None, None, *formula)
        formula = result.running, result.batch_count
        near((result.y, *formula), (y, mean, variance, count[0]))
    by_running = function(norm)(x, None, None, *state[:2], **bare)
    same_bits((by_running,), (function(norm, axisnorm)(x, None, None, mean, variance, **bare),))
    assert not numpy.array_equal(actual, by_running)


@pytest.mark.parametrize("norm, given", [(norm, given) for norm, _, given in CASES])
def test_vmap(norm, given, random):
    """Of values and of gradients of each, where parameters are shared and where they are not."""
    x, residual = random.normal(size=(2, 3, *SHAPE))
    scale, shift = parameters(random, norm, SHAPE)
    keywords = arguments(norm) | {"activation": "gelu-tanh"}
    if given:
        keywords |= {"training": False, "running_mean": random.normal(size=6),
                     "running_variance": random.random(6) + 0.5}

    def loss(x, scale, shift, residual):
        y = function(norm)(x, scale, shift, residual=residual, **keywords)
        return (y * jnp.cos(x)).sum(), y

    grad = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))

    def compare(axes, *args):
        mapped = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2, 3), has_aux=True), axes))(*args)
        each = [grad(*(a if axis is None else jnp.take(a, i, axis) for axis, a in zip(axes, args, strict=True)))
                for i in range(3)]
        near(mapped, jax.tree.map(lambda *values: jnp.stack(values), *each))

    compare((0, None, None, 0), x, scale, shift, residual)
    compare((1, None, None, None), numpy.moveaxis(x, 0, 1), scale, shift, residual[0])
    compare((None, 0, None, None), x[0], numpy.stack([scale, 2 * scale, -scale]), shift, residual[0])


@pytest.mark.parametrize("present, activation", [(0, None), *((present, "silu") for present in range(8))])
def test_vmap_of_some_gradients(present, activation, random):
    """Any of scale, shift and residual may be missing."""
    x, residual = random.normal(size=(2, 3, 2, 4))
    arrays = *random.normal(size=(2, 4)), residual
    given = [array if present >> bit & 1 else None for bit, array in enumerate(arrays)]
    loss = lambda x, *given: (axisnorm.jax.layer_norm(  # noqa: E731
        x, *given[:2], residual=given[2], activation=activation) ** 2).sum()
    grad = jax.grad(loss, tuple(place for place in range(4) if place == 0 or given[place - 1] is not None))
    axes = (0, None, None, None if given[2] is None else 0)
    mapped = jax.jit(jax.vmap(grad, axes))(x, *given)
    each = [grad(x[i], *given[:2], None if given[2] is None else residual[i]) for i in range(3)]
    near(mapped, jax.tree.map(lambda *values: jnp.stack(values), *each))


def test_vmap_of_vmap_is_one_call(random):
    """A function of one vector over many, as Equinox has it."""
    x, scale = random.normal(size=(5, 7, 6)), random.normal(size=6)
    ours = jax.vmap(jax.vmap(lambda x, scale: axisnorm.jax.layer_norm(x, scale, axis=-1), (0, None)), (0, None))
    near(ours(x, scale), axisnorm.layer_norm(x, scale, axis=-1))
    gradient = jax.jit(jax.grad(lambda x, scale: (ours(x, scale) ** 3).sum(), (0, 1)))
    whole = jax.grad(lambda x, scale: (axisnorm.jax.layer_norm(x, scale, axis=-1) ** 3).sum(), (0, 1))
    near(gradient(x, scale), whole(x, scale))
    assert gradient.lower(x, scale).as_text().count("custom_call @axisnorm") == 2


@pytest.mark.parametrize("norm", ["batch", "group", "rms"])
def test_vmap_of_nothing(norm, random):
    """A batch of none, whether it goes along the samples or is taken in turn."""
    x, (scale, _) = jnp.zeros((4, 6, 0, 3)), parameters(random, norm, (4, 6, 3))
    ours = lambda x: function(norm)(x, scale, **arguments(norm))  # noqa: E731
    gradient = jax.grad(lambda x: ours(x).sum())
    assert jax.vmap(ours, 2)(x).shape == jax.jit(jax.vmap(gradient, 2))(x).shape == (0, 4, 6, 3)


def test_constants_as_scalars_of_jax(random):
    x = random.normal(size=(4, 6))
    near(axisnorm.jax.group_norm(x, groups=jnp.int32(3), epsilon=jnp.float64(1e-3)),
         axisnorm.jax.group_norm(x, groups=3, epsilon=1e-3))
    near(axisnorm.jax.rms_norm(x, axis=jnp.int32(-1), activation="leaky-relu", negative_slope=jnp.float64(0.5)),
         axisnorm.jax.rms_norm(x, axis=-1, activation="leaky-relu", negative_slope=0.5))


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("norm", ROWS)
def test_rows(norm, axis, random):
    """Parameters per element, of any rank and axis; per channel, in any layout."""
    x = random.normal(size=(2, 3, 4, 5, 2, 2))
    scale, shift = random.normal(size=(2, *x.shape[axis:]))
    y, *statistics = function(norm)(x, scale, shift, axis=axis, return_statistics=True)
    near((y, *statistics), reference.forward(norm, x, scale, shift, axis=axis % 6))
    scale, shift = random.normal(size=(2, 3))
    x = x[:, :, :, 0]
    y = function(norm)(x, scale, shift)
    near(y, reference.forward(norm, x, *(reference.spread(p, 5) for p in (scale, shift)))[0])
    near(function(norm)(last(x), scale, shift, layout="nhwc"), last(numpy.asarray(y)))
    near(function(norm)(last(x), scale, layout="nhwc", axis=-1),
         reference.forward(norm, last(x), scale, axis=4)[0])


@pytest.mark.parametrize("norm, activation", [
    *((norm, activation) for norm, activation, given in CASES if not given),
    *(("layer", activation) for activation in (None, *ACTIVATIONS) if activation != "leaky-relu")])
def test_formulas(norm, activation, random):
    """What other devices compute: the same."""
    given, wanted = reference.arguments(norm), (True, True, activation is not None)
    for channels_last in (False, True):
        x, residual, grad_y = random.normal(size=(3, *SHAPE))
        scale, shift = random.normal(size=(2, 2 if channels_last else 6))
        described = Norm(norm, channels_last, groups=2 if norm == "group" else 1,
                         ghost_batch=given.get("ghost_batch", 0), activation=activation or "none")

        def both(training, backward, grad_y, *operands):
            result = training(described, *operands, None, None)
            return result, backward(described, grad_y, *operands, (result.mean, result.rstd), None, wanted)

        due, actual = (jax.jit(both, static_argnums=(0, 1))(*passes, grad_y, x, scale, shift, residual)
                       for passes in ((_calls.training, _calls.backward),
                                      (_formulas.training, _calls._formulas_backward)))
        near(actual, due, 1e-10)


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="leaves branches that are dead to the compiler")
def test_other_devices_have_no_custom_call(random):
    x = random.normal(size=SHAPE)
    gradient = jax.jit(jax.grad(lambda x: axisnorm.jax.group_norm(x, groups=2).sum()))
    assert "axisnorm_backward" in gradient.lower(x).as_text()
    assert "custom_call @axisnorm" not in gradient.trace(x).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="is not there yet")
def test_shard_map(random):
    mesh, axis = jax.sharding.Mesh(jax.devices()[:1], "d"), jax.sharding.PartitionSpec("d")
    x, scale = random.normal(size=SHAPE), random.normal(size=6)
    norm = lambda x, scale: axisnorm.jax.group_norm(x, scale, groups=2)  # noqa: E731
    mapped = jax.shard_map(norm, mesh=mesh, in_specs=(axis, jax.sharding.PartitionSpec()), out_specs=axis,
                           check_vma=False)
    gradients = [jax.jit(jax.grad(lambda *args, f=f: (f(*args) ** 3).sum(), (0, 1)))(x, scale)
                 for f in (mapped, norm)]
    near(*gradients)


def test_shapes_without_data():
    x = jax.ShapeDtypeStruct((4, 6, 5), jnp.bfloat16)
    y, mean, rstd = jax.eval_shape(lambda x: axisnorm.jax.group_norm(x, groups=3, return_statistics=True), x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert (mean.shape, mean.dtype) == (rstd.shape, rstd.dtype) == ((4, 3), jnp.float32)


def test_without_float64(random):
    jax.config.update("jax_enable_x64", False)
    x = random.normal(size=SHAPE)
    y = axisnorm.jax.layer_norm(x)
    assert y.dtype == jnp.float32
    same_bits((y,), (axisnorm.layer_norm(x.astype(numpy.float32)),))


def test_parameters_of_the_type_of_x(random):
    """As they come where a whole model is cast; gradients come back so."""
    x, scale = (jnp.asarray(a, jnp.bfloat16) for a in (random.normal(size=(4, 6)), random.normal(size=6)))
    y, pull_back = jax.vjp(lambda x, scale: axisnorm.jax.layer_norm(x, scale), x, scale)
    same_bits((y,), (axisnorm.layer_norm(numpy.asarray(x), numpy.asarray(scale, numpy.float32)),))
    assert [gradient.dtype for gradient in pull_back(y)] == [jnp.bfloat16] * 2


@pytest.mark.parametrize("norm", NORMS)
def test_empty_batch(norm):
    x, (scale, _) = jnp.zeros((0, 6, 4)), numpy.zeros((2, 6, 4) if norm in ROWS else (2, 6))
    given = arguments(norm)
    ours = lambda x, scale: function(norm)(x, scale, **given, return_statistics=True)  # noqa: E731
    results, pull_back = jax.vjp(ours, x, scale)
    assert results[0].shape == x.shape
    for array, extent in zip(results[1:], function(norm, axisnorm)(
            numpy.asarray(x), scale, **given, return_statistics=True)[1:], strict=True):
        near(array, numpy.zeros(extent.shape))
    near(pull_back(results), (numpy.zeros(x.shape), 0 * scale))
    assert jax.vmap(lambda x: ours(x, scale)[0])(jnp.stack([x, x])).shape == (2, *x.shape)


@pytest.mark.parametrize("norm", ROWS)
def test_empty_batch_as_one_row(norm):
    x, scale = jnp.zeros((0, 3)), jnp.ones((0, 3))
    ours = lambda x, scale: function(norm)(x, scale, axis=0, return_statistics=True)  # noqa: E731
    results, pull_back = jax.vjp(ours, x, scale)
    due = function(norm, axisnorm)(numpy.zeros((0, 3)), numpy.zeros((0, 3)), axis=0, return_statistics=True)
    near(results, due)
    assert [gradient.shape for gradient in pull_back(results)] == [(0, 3)] * 2


def test_threads(random):
    """Large enough for XLA's pool: several calls at the same time, in one program and in several."""
    x = random.normal(size=(16, 32, 24, 24)).astype(numpy.float32)
    due = axisnorm.group_norm(x, groups=8), axisnorm.layer_norm(x), axisnorm.batch_norm(x, training=True)
    ours = jax.jit(lambda x: (axisnorm.jax.group_norm(x, groups=8), axisnorm.jax.layer_norm(x),
                              axisnorm.jax.batch_norm(x, training=True)))
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: ours(x), range(40)):
            same_bits(result, due)


def test_more_plans_than_are_kept(random):
    x, count = random.normal(size=(2, 8)).astype(numpy.float32), 300
    many = jax.jit(lambda x: sum(_calls._inference(Norm("rms", epsilon=1.0 + i), x, None, None, None, None)
                                 for i in range(count)))
    due = sum(x / numpy.sqrt((x.astype(float) ** 2).mean(1, keepdims=True) + 1 + i) for i in range(count))
    for _ in range(2):
        near(many(x), due, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_stay_as_they_are(dtype):
    """Where NumPy's functions are to write to them."""
    out = jnp.ones((2, 4), dtype)
    with pytest.raises(axisnorm.ArgumentError, match="y: read-only"):
        axisnorm.layer_norm(jnp.arange(8).reshape(2, 4).astype(dtype), out=out)
    near(out.astype("float32"), numpy.ones((2, 4)), 0)


X = numpy.ones((4, 6, 3), numpy.float32)
WRONG = [
    ("x: elements of type int32", lambda: axisnorm.jax.layer_norm(numpy.ones((2, 3), numpy.int32))),
    ("groups: 4", lambda: axisnorm.jax.group_norm(X, groups=4)),
    ("ghost_batch", lambda: axisnorm.jax.ghost_batch_norm(X, ghost_batch=3, training=True)),
    ("epsilon", lambda: axisnorm.jax.layer_norm(X, epsilon=0)),
    ("momentum", lambda: axisnorm.jax.batch_norm(X, momentum=2.0, training=True)),
    ("momentum: -1.0 is not from 0 to 1, or None", lambda: axisnorm.jax.batch_norm(
        X, None, None, X[0, :, 0], X[0, :, 0], training=True, momentum=-1.0, batch_count=1)),
    ("activation: 'tanh'", lambda: axisnorm.jax.layer_norm(X, activation="tanh")),
    ("activation: ''", lambda: axisnorm.jax.layer_norm(X, activation="")),
    ("layout: 'nwhc'", lambda: axisnorm.jax.batch_norm(X, layout="nwhc")),
    ("axis: 3", lambda: axisnorm.jax.layer_norm(X, axis=3)),
    ("rank", lambda: axisnorm.jax.positional_norm(X[0, 0])),
    ("scale: shape (5,) where (6,)", lambda: axisnorm.jax.batch_norm(X, numpy.ones(5, "f"), training=True)),
    ("scale: float64 where float32", lambda: axisnorm.jax.batch_norm(X, numpy.ones(6), training=True)),
    ("residual: shape", lambda: axisnorm.jax.rms_norm(X, residual=X[0])),
    ("residual: float64", lambda: axisnorm.jax.rms_norm(X, residual=X.astype(float))),
    ("running_mean, running_variance: are None", lambda: axisnorm.jax.batch_norm(X)),
    ("running_variance: is None", lambda: axisnorm.jax.batch_norm(X, running_mean=X[0, :, 0])),
    ("running_mean: shape (3,)", lambda: axisnorm.jax.batch_norm(X, None, None, X[0, 0], X[0, 0])),
    ("batch_count: is required", lambda: axisnorm.jax.batch_norm(
        X, None, None, X[0, :, 0], X[0, :, 0], training=True, momentum=None)),
    ("batch_count: float32", lambda: axisnorm.jax.batch_norm(
        X, None, None, X[0, :, 0], X[0, :, 0], training=True, batch_count=X[0, 0, 0])),
    ("one value per statistic", lambda: axisnorm.jax.batch_norm(X[:1, :, 0], training=True)),
    ("one value per statistic", lambda: jax.grad(lambda x: axisnorm.jax.instance_norm(x).sum())(X[:, :, :1])),
    ("return_statistics", lambda: axisnorm.jax.batch_norm(
        X, None, None, X[0, :, 0], X[0, :, 0], return_statistics=True)),
]


@pytest.mark.parametrize("text, call", WRONG, ids=[text for text, _ in WRONG])
def test_errors(text, call):
    with pytest.raises(axisnorm.ArgumentError) as error:
        call()
    assert text in str(error.value)


def test_what_is_no_number_or_name():
    for text, options in [("axis: 1.0 where a whole number", {"axis": 1.0}), ("axis: None", {"axis": None}),
                          ("activation: \\[\\] where a name", {"activation": []}),
                          ("epsilon: 'x' where a number", {"epsilon": "x"})]:
        with pytest.raises(TypeError, match=text):
            axisnorm.jax.layer_norm(X, **options)


def test_errors_are_of_the_trace():
    with pytest.raises(axisnorm.ArgumentError, match="groups"):
        jax.eval_shape(lambda x: axisnorm.jax.group_norm(x, groups=4), X)


def test_a_wrong_count_is_an_error_of_the_run():
    with pytest.raises(jax.errors.JaxRuntimeError, match="batch_count: -1 is negative"):
        axisnorm.jax.batch_norm(X, None, None, X[0, :, 0], X[0, :, 0], training=True, batch_count=-1)


def test_a_count_that_no_longer_fits_is_an_error_of_the_run():
    with pytest.raises(jax.errors.JaxRuntimeError, match="batch_count: 2147483648 does not fit"):
        axisnorm.jax.batch_norm(X, None, None, X[0, :, 0], X[0, :, 0], training=True,
                                batch_count=jnp.int32(2**31 - 1))


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(axisnorm.jax.layer_norm, (X,), (X,))


def call_by_hand(results, *arguments, **attributes):
    good = {"norm": "group", "activation": "none", "axis": numpy.int64(1), "groups": numpy.int64(3),
            "ghost_batch": numpy.int64(0), "channels_last": numpy.int64(0), "per_element": numpy.int64(0),
            "threads": numpy.int64(2), "unbiased": numpy.int64(1), "epsilon": 1e-5, "momentum": 0.1,
            "negative_slope": 0.01, "operands": numpy.int64(0)}
    call = jax.ffi.ffi_call("axisnorm_inference", results)
    return jax.block_until_ready(jax.jit(lambda *a: call(*a, **(good | attributes)))(*arguments))


def test_calls_by_hand():
    """The handlers trust nothing that a program could hold."""
    y, room = jax.ShapeDtypeStruct(X.shape, X.dtype), jax.ShapeDtypeStruct((1 << 16,), jnp.uint8)
    call_by_hand([y, room], X)
    scale = numpy.int64(1)
    for text, results, given, attributes in [
            ("attributes: not those", [y, room], (X,), {"more": numpy.int64(1)}),
            ("attributes: not those", [y, room], (X,), {"axis": 1.0}),
            ("norm: is none", [y, room], (X,), {"norm": "grou"}),
            ("activation: is none", [y, room], (X,), {"activation": ""}),
            ("groups", [y, room], (X,), {"groups": numpy.int64(4)}),
            ("argument 1: is missing", [y, room], (X,), {"operands": scale}),
            ("scale: 5 elements", [y, room], (X, X[0, 0, 0].repeat(5)), {"operands": scale}),
            ("scale: 6 elements of type 12", [y, room], (X, numpy.ones(6)), {"operands": scale}),
            ("operands: not as many", [y, room], (X, X), {}),
            ("y: 1 elements", [jax.ShapeDtypeStruct((1,), X.dtype), room], (X,), {}),
            ("result 1: is missing", [y], (X,), {}),
            ("workspace", [y, jax.ShapeDtypeStruct((1,), jnp.uint8)], (X,), {}),
            ("workspace: bytes", [y, jax.ShapeDtypeStruct((1 << 16,), jnp.float32)], (X,), {}),
            ("dtype", [y, room], (X.astype(numpy.int32),), {}),
            ("rank", [y, room], (X[0, 0, 0],), {}),
            ("x: 9 axes", [y, room], (X.reshape(1, 1, 1, 1, 1, 1, 4, 6, 3),), {})]:
        with pytest.raises(jax.errors.JaxRuntimeError) as error:
            call_by_hand(results, *given, **attributes)
        assert text in str(error.value)


FIELDS = {
    "Extension_Base": "type next", "Api_Version": "major_version minor_version",
    "Metadata": "api_version traits", "Metadata_Extension": "metadata", "Error_Create_Args": "message errc",
    "Error_Destroy_Args": "error", "ThreadPool_Schedule_Args": "ctx task data",
    "ThreadPool_NumThreads_Args": "ctx num_threads", "ByteSpan": "ptr len", "Scalar": "dtype value",
    "Buffer": "dtype data rank dims", "Args": "size types args", "Rets": "size types rets",
    "Attrs": "size types names attrs", "CallFrame": "api ctx stage args rets attrs",
    "Api": "api_version XLA_FFI_Error_Create XLA_FFI_Error_Destroy XLA_FFI_ThreadPool_Schedule "
           "XLA_FFI_ThreadPool_NumThreads"}
VALUES = ["Extension_Metadata", "Error_Code_INVALID_ARGUMENT", "Error_Code_RESOURCE_EXHAUSTED",
          *(f"DataType_{name}" for name in ("S32", "S64", "U8", "F16", "F32", "F64", "BF16")),
          "ArgType_BUFFER", "RetType_BUFFER", "AttrType_SCALAR", "AttrType_STRING", "API_MAJOR"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_interface_is_the_one_that_is_declared(tmp_path):
    """xla_ffi.h beside jaxlib's header: places of fields, and values."""
    numbers = [f"XLA_FFI_{value}" for value in VALUES]
    for struct, fields in FIELDS.items():
        numbers += [f"offsetof(XLA_FFI_{struct}, {field})" for field in fields.split()]
        numbers += [f"sizeof(((XLA_FFI_{struct} *)0)->{field})" for field in fields.split()]
    program = "\n".join(["#include HEADER", "#include <stdio.h>", "int main(void) {", *(
        f'  printf("%d {number}\\n", (int)({number}));' for number in numbers), "  return 0;", "}"])
    (tmp_path / "numbers.c").write_text(program)
    printed = []
    sources = Path(__file__).parents[2] / "src" / "python"
    for header in (sources / "xla_ffi.h", Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"):
        subprocess.run(["cc", f'-DHEADER="{header}"', "numbers.c", "-o", "numbers"], cwd=tmp_path, check=True)
        printed.append(subprocess.run([tmp_path / "numbers"], check=True, capture_output=True, text=True).stdout)
    assert printed[0] == printed[1] and printed[0].count("\n") == len(numbers)


def test_jax_is_not_imported_unasked():
    program = "import sys, axisnorm; assert 'jax' not in sys.modules; import axisnorm.jax"
    subprocess.run([sys.executable, "-c", program], check=True)
