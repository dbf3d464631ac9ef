# SPDX-License-Identifier: MIT
"""axisnorm.torch beside PyTorch's own: functions, gradients, transforms, compilers."""

import copy
import ctypes
import shutil
import warnings

import pytest

torch = pytest.importorskip("torch")

import axisnorm.torch
from axisnorm.torch import _runtime
from torch.nn import functional

LAYOUTS = ["contiguous", "channels_last", "transposed"]
KINDS = ["batch", "batch_tracked", "batch_given", "instance", "instance_tracked", "instance_given", "layer",
         "layer_axis_1", "rms", "rms_axis_1", "rms_bare", "group", "group_bare"]


@pytest.fixture(autouse=True)
def seed(random):
    torch.manual_seed(int(random.integers(1 << 31)))


def lay(x, layout):
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.transpose(0, -1).contiguous().transpose(0, -1) if layout == "transposed" else x


def parameters(*shape):
    return torch.randn(*shape, requires_grad=True), torch.randn(*shape, requires_grad=True)


def case(kind, shape=(4, 6, 5, 3)):
    """A function of a module of functions, axisnorm.torch or torch.nn.functional, and x; and the parameters
    that have gradients."""
    c = shape[1]
    scale, shift = parameters(c)
    given = torch.randn(c), torch.rand(c) + 0.5

    def running():  # for each call a copy, since training changes it
        return [tensor.clone() for tensor in given]

    functions = {
        "batch": lambda f, x: f.batch_norm(x, None, None, scale, shift, True),
        "batch_tracked": lambda f, x: f.batch_norm(x, *running(), scale, shift, True, 0.3, 1e-3),
        "batch_given": lambda f, x: f.batch_norm(x, *given, scale, shift, False, 0.1, 1e-3),
        "instance": lambda f, x: f.instance_norm(x, None, None, scale, shift),
        "instance_tracked": lambda f, x: f.instance_norm(x, *running(), scale, shift, True, 0.3),
        "instance_given": lambda f, x: f.instance_norm(x, *given, scale, shift, False),
        "group": lambda f, x: f.group_norm(x, 3, scale, shift, 1e-3),
        "group_bare": lambda f, x: f.group_norm(x, 2),
    }
    if kind.startswith("layer"):
        axis = 1 if kind == "layer_axis_1" else -1
        scale, shift = parameters(*shape[axis:])
        return lambda f, x: f.layer_norm(x, shape[axis:], scale, shift), (scale, shift)
    if kind == "rms_bare":
        return lambda f, x: f.rms_norm(x, shape[-1:]), ()
    if kind.startswith("rms"):
        axis = 1 if kind == "rms_axis_1" else -1
        scale, _ = parameters(*shape[axis:])
        return lambda f, x: f.rms_norm(x, shape[axis:], scale, 1e-3), (scale,)
    return functions[kind], () if kind == "group_bare" else (scale, shift)


def near(actual, expected, tolerance=2e-5):
    largest = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * largest)


def count_calls(monkeypatch):
    """How often PyTorch's own functions are called from ours."""
    calls = []
    for name in ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm"):
        native = getattr(functional, name)
        count = lambda *a, native=native, **k: calls.append(1) or native(*a, **k)  # noqa: E731
        monkeypatch.setattr(functional, name, count)
    return calls


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_functions_and_gradients(kind, layout, monkeypatch):
    function, variables = case(kind)
    x = lay(torch.randn(4, 6, 5, 3), layout).requires_grad_()
    theirs = function(functional, x)
    grad_y = torch.randn_like(theirs)
    due = torch.autograd.grad(theirs, (x, *variables), grad_y)
    calls = count_calls(monkeypatch)
    ours = function(axisnorm.torch, x)
    actual = torch.autograd.grad(ours, (x, *variables), grad_y)
    assert not calls
    near(ours, theirs)
    for gradient, expected in zip(actual, due, strict=True):
        near(gradient, expected)
    if layout == "channels_last" and not kind.startswith(("layer", "rms")):
        assert ours.stride() == x.stride() and actual[0].stride() == x.stride()


@pytest.mark.parametrize("shape", [(5, 6), (4, 6, 7), (2, 6, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks(kind, shape):
    if kind.startswith("instance") and len(shape) == 2:
        return
    function, variables = case(kind, shape)
    for layout in LAYOUTS:
        x = lay(torch.randn(shape), layout).requires_grad_()
        theirs, ours = function(functional, x), function(axisnorm.torch, x)
        near(ours, theirs)
        grad_y = torch.randn_like(theirs)
        pairs = zip(torch.autograd.grad(ours, (x, *variables), grad_y),
                    torch.autograd.grad(theirs, (x, *variables), grad_y), strict=True)
        for gradient, expected in pairs:
            near(gradient, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_differences(kind):
    """gradcheck takes float64, so differences of float32 values stand for it: along random directions."""
    function, variables = case(kind)
    x = torch.randn(4, 6, 5, 3, requires_grad=True)
    weights = torch.randn(4, 6, 5, 3)
    inputs = (x, *variables)
    gradients = torch.autograd.grad((function(axisnorm.torch, x) * weights).sum(), inputs)
    step = 1e-3
    for tensor, gradient in zip(inputs, gradients, strict=True):
        direction = torch.randn_like(tensor)
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(direction, alpha=sign * step)
                sums.append((function(axisnorm.torch, x).double() * weights).sum())
                tensor.sub_(direction, alpha=sign * step)
        slope = float(sums[0] - sums[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    function, variables = case(kind)
    x, grad_y = torch.randn(4, 6, 5, 3, requires_grad=True), torch.randn(4, 6, 5, 3, requires_grad=True)
    inputs = (x, grad_y, *variables[:1])
    results = []
    for module in (functional, axisnorm.torch):
        first = torch.autograd.grad(function(module, x), (x, *variables), grad_y, create_graph=True)
        torch.manual_seed(1)
        total = sum((gradient * torch.randn_like(gradient)).sum() for gradient in first)
        results.append(torch.autograd.grad(total, inputs, allow_unused=True))
    for actual, due in zip(results[1], results[0], strict=True):
        near(actual, due, 1e-4)


def test_third_derivative():
    """Against the formula: PyTorch's own layer_norm takes statistics for constants from the third one on."""

    def formula(x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()

    start, weights = torch.randn(3, 8), torch.randn(4, 3, 8)
    results = []
    ours = lambda x: axisnorm.torch.layer_norm(x, (8,))  # noqa: E731
    for function, dtype in ((formula, torch.float64), (ours, torch.float32)):
        x = start.to(dtype).requires_grad_()
        value = function(x)
        for weight in weights[:3]:
            value, = torch.autograd.grad(value, x, weight.to(dtype), create_graph=True)
        results.append(value.detach().float())
    near(results[1], results[0], 1e-4)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_only_the_gradients_that_are_due(frozen):
    x, (scale, shift) = torch.randn(4, 6, 5, requires_grad=True), parameters(6)
    inputs = [x, scale, shift]
    inputs[frozen].requires_grad_(False)
    axisnorm.torch.group_norm(x, 3, scale, shift).sum().backward()
    assert [tensor.grad is None for tensor in inputs] == [place == frozen for place in range(3)]


def test_running_statistics():
    for name in ("batch_norm", "instance_norm"):
        ours, theirs = ([torch.zeros(6), torch.ones(6)] for _ in range(2))
        for _ in range(3):
            x = torch.randn(4, 6, 5, 3) * 2 + 1
            getattr(axisnorm.torch, name)(x, *ours, None, None, True, 0.3)
            getattr(functional, name)(x, *theirs, None, None, True, 0.3)
        for actual, due in zip(ours, theirs, strict=True):
            near(actual, due)


OPERATORS = torch.ops.axisnorm


def operator_calls():
    plain, active = ("none", 0.0), ("silu", 0.0)
    for layout in ("contiguous", "channels_last"):
        x = lay(torch.randn(4, 6, 5, 3), layout).requires_grad_()
        residual = lay(torch.randn(4, 6, 5, 3), layout).requires_grad_()
        (scale, shift), running = parameters(6), (torch.randn(6), torch.rand(6) + 0.5)
        layer = parameters(6, 5, 3)
        grad_y = torch.randn_like(x)
        every, some = [True] * 4, [True, False, False, False]
        mean = rstd = torch.rand(4, 3)
        yield OPERATORS.normalize, (x, scale, shift, None, "group", 3, 1, 1e-5, *plain)
        yield OPERATORS.normalize, (x, scale, shift, residual, "group", 3, 1, 1e-5, *active)
        yield OPERATORS.normalize_by, (x, scale, shift, residual, *running, 1e-5, "relu", 0.0)
        if layout == "channels_last":
            continue
        yield OPERATORS.normalize, (x, scale, None, None, "batch", 1, 1, 1e-5, *plain)
        yield OPERATORS.normalize, (x, None, None, None, "instance", 1, 1, 1e-5, "leaky-relu", 0.2)
        yield OPERATORS.normalize, (x, *layer, residual, "layer", 1, 1, 1e-5, *plain)
        yield OPERATORS.normalize, (x, layer[0], None, None, "rms", 1, 1, 1e-5, "gelu", 0.0)
        tracked = (x, scale, shift, residual, *running)
        yield OPERATORS.normalize_and_track, (*tracked, "batch", 1e-5, 0.1, *plain)
        yield OPERATORS.normalize_and_track, (*tracked, "instance", 1e-5, 0.1, "gelu-tanh", 0.0)
        yield OPERATORS.normalize_by, (x, scale, shift, None, *running, 1e-5, *plain)
        with torch.no_grad():
            group = (mean, rstd, "group", 3, 1, 1e-5)
            yield OPERATORS.normalize_backward, (grad_y, x, scale, None, None, *group, *plain, every)
            yield OPERATORS.normalize_backward, (grad_y, x, scale, shift, residual, *group, *active, every)
            yield OPERATORS.normalize_backward, (grad_y, x, None, None, None, *group, *plain, some)
            by = (*running, 1e-5)
            yield OPERATORS.normalize_by_backward, (grad_y, x, scale, None, None, *by, *plain, every)
            yield OPERATORS.normalize_by_backward, (grad_y, x, scale, shift, residual, *by, *active, every)


def test_operators():
    for operator, arguments in operator_calls():
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_function_transforms(kind):
    function, _ = case(kind)
    x = torch.randn(4, 6, 5, 3)

    def loss(module):
        return lambda x: function(module, x).pow(3).sum()

    near(torch.func.grad(loss(axisnorm.torch))(x), torch.func.grad(loss(functional))(x), 1e-4)
    if kind.endswith("tracked"):
        return  # vmap may not update tensors outside of it, PyTorch's own neither
    many = torch.randn(3, 4, 6, 5, 3)
    near(torch.func.vmap(lambda x: function(axisnorm.torch, x))(many),
         torch.stack([function(functional, x) for x in many]))
    near(torch.func.vmap(torch.func.grad(loss(axisnorm.torch)))(many),
         torch.stack([torch.func.grad(loss(functional))(x) for x in many]), 1e-4)


def test_jacobians():
    x = torch.randn(2, 6)
    ours = torch.func.jacrev(lambda x: axisnorm.torch.layer_norm(x, (6,)))(x)
    near(ours, torch.func.jacrev(lambda x: functional.layer_norm(x, (6,)))(x))
    scales = torch.randn(3, 6)
    ours = torch.func.vmap(lambda scale: axisnorm.torch.layer_norm(x, (6,), scale))(scales)
    near(ours, torch.stack([functional.layer_norm(x, (6,), scale) for scale in scales]))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                torch.nn.GroupNorm(2, 8), torch.nn.Flatten(1), torch.nn.LayerNorm(8 * 36))
    ours = axisnorm.torch.replace(copy.deepcopy(model))
    compiled = torch.compile(ours, backend=backend, fullgraph=True)
    for batch in (4, 5):
        x = torch.randn(batch, 3, 8, 8)
        actual, due = compiled(x), model(x)
        near(actual, due, 1e-4)
        actual.pow(2).mean().backward()
        due.pow(2).mean().backward()
    for mine, yours in zip(ours.parameters(), model.parameters(), strict=True):
        near(mine.grad, yours.grad, 1e-4)
    for mine, yours in zip(ours.buffers(), model.buffers(), strict=True):
        near(mine, yours, 1e-4)


def test_compilers_may_fuse():
    """Compiled, normalizations are PyTorch's own operators, but for those of which a type has to be converted."""
    calls = []

    def backend(graph, inputs):
        calls.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def all_of_them(x, residual, scale):
        y = axisnorm.torch.layer_norm(x, (6,), scale, residual=residual, activation="silu")
        y = axisnorm.torch.group_norm(axisnorm.torch.rms_norm(y, (6,), scale), 2)
        y = axisnorm.torch.batch_norm(y, torch.zeros(4), torch.ones(4))
        y = axisnorm.torch.batch_norm(y, torch.zeros(4), torch.ones(4), training=True)
        return axisnorm.torch.layer_norm(axisnorm.torch.instance_norm(y).bfloat16(), (6,), scale)

    x, residual, scale = torch.randn(3, 4, 6), torch.randn(3, 4, 6), torch.randn(6)
    torch._dynamo.reset()
    compiled = torch.compile(all_of_them, backend=backend, fullgraph=True)(x, residual, scale)
    near(compiled.float(), all_of_them(x, residual, scale).float(), 1e-2)
    assert [call for call in calls if "axisnorm" in call] == ["axisnorm.normalize"], calls
    for name in ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"):
        assert any(name in call for call in calls), name


def test_export():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.GroupNorm(2, 4)).eval()
    axisnorm.torch.replace(model)
    x = torch.randn(2, 4, 3, 3)
    dynamic = {"input": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(model, (x,), dynamic_shapes=dynamic)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("axisnorm.normalize_by" in name for name in names)
    other = torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(program.module()(other), model(other))


def test_forward_mode_is_left_to_pytorch():
    x = torch.randn(2, 6)
    calls = [torch.func.jvp(lambda x, f=f: f.layer_norm(x, (6,)), (x,), (x + 1,))
             for f in (axisnorm.torch, functional)]
    near(calls[0][1], calls[1][1])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x + 1)
        y = axisnorm.torch.layer_norm(dual, (6,))
        near(torch.autograd.forward_ad.unpack_dual(y).tangent, calls[1][1])


def test_meta_and_fake():
    x = torch.empty(4, 6, 5, 3, device="meta")
    y, mean, rstd = OPERATORS.normalize(x, None, None, None, "group", 3, 1, 1e-5, "none", 0.0)
    assert y.shape == x.shape and mean.shape == rstd.shape == (4, 3) and y.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_default_epsilon_of_rms_norm(dtype):
    """Values so small that it is most of what they are divided by."""
    x = (torch.randn(4, 6) * 1e-3).to(dtype)
    torch.testing.assert_close(axisnorm.torch.rms_norm(x, (6,)), functional.rms_norm(x, (6,)))


ROUNDING = {torch.float64: 2.0 ** -40, torch.bfloat16: 2.0 ** -8, torch.float16: 2.0 ** -11}
PAIRS = [(torch.float64, torch.float64)] + [
    (dtype, parameter) for dtype in (torch.bfloat16, torch.float16) for parameter in (dtype, torch.float32)]


@pytest.mark.parametrize(("dtype", "parameter"), PAIRS, ids=str)
@pytest.mark.parametrize("name", ["group", "layer", "rms", "batch", "batch_given"])
def test_other_types(dtype, parameter, name, monkeypatch):
    """x with parameters of its own type or float32, on axisnorm, beside PyTorch in float64: y is rounded once,
    gradients near that."""
    calls = count_calls(monkeypatch)
    x = torch.randn(4, 6, 5).to(dtype).requires_grad_()
    scale, shift = (torch.randn(5 if name in ("layer", "rms") else 6).to(parameter).requires_grad_()
                    for _ in range(2))
    given = torch.randn(6).to(parameter), (torch.rand(6) + 0.5).to(parameter)
    functions = {
        "group": lambda f, x, scale, shift, *_: f.group_norm(x, 3, scale, shift),
        "layer": lambda f, x, scale, shift, *_: f.layer_norm(x, (5,), scale, shift),
        "rms": lambda f, x, scale, shift, *_: f.rms_norm(x, (5,), scale, 1e-5),
        "batch": lambda f, x, scale, shift, *_: f.batch_norm(x, None, None, scale, shift, True),
        "batch_given": lambda f, x, scale, shift, *given: f.batch_norm(x, *given, scale, shift),
    }
    inputs = (x, scale) if name == "rms" else (x, scale, shift)
    y = functions[name](axisnorm.torch, x, scale, shift, *given)
    assert not calls and y.dtype == dtype
    grad_y = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, grad_y)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, scale, shift)]
    due = functions[name](functional, *exact, *(tensor.double() for tensor in given))
    unit = ROUNDING[dtype]
    assert ((y.double() - due).abs() <= due.abs() * unit + 1e-5).all()
    due = torch.autograd.grad(due, exact[:len(inputs)], grad_y.double())
    for tensor, gradient, expected in zip(inputs, gradients, due, strict=True):
        assert gradient.dtype == tensor.dtype
        near(gradient.double(), expected, 2 * unit)


def test_autocast():
    x = torch.randn(4, 6, 5, 3)
    linear = torch.nn.Linear(3, 3)
    for module in (torch.nn.BatchNorm2d(6), torch.nn.GroupNorm(3, 6), torch.nn.LayerNorm(3),
                   torch.nn.InstanceNorm2d(6), torch.nn.RMSNorm(3)):
        ours = axisnorm.torch.replace(copy.deepcopy(module))
        with torch.autocast("cpu", torch.bfloat16):
            for value in (x, linear(x)):
                actual, due = ours(value), module(value)
                assert actual.dtype == due.dtype
                torch.testing.assert_close(actual, due, rtol=2e-2, atol=2e-2)


def outcome(function):
    """A result, or the type and text of what was raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function()
        return "result", result.shape, result.dtype
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
        return "error", type(error) if not isinstance(error, ValueError) else ValueError, ""


UNUSUAL = {
    "no samples": lambda f: f.batch_norm(torch.randn(0, 6, 3), torch.zeros(6), torch.ones(6), training=True),
    "one value": lambda f: f.batch_norm(torch.randn(1, 6), None, None, training=True),
    "one value per instance": lambda f: f.instance_norm(torch.randn(2, 6, 1)),
    "no statistics": lambda f: f.batch_norm(torch.randn(2, 6), None, None),
    "half the statistics": lambda f: f.batch_norm(torch.randn(2, 6), torch.zeros(6), None, training=True),
    "wrong weight": lambda f: f.group_norm(torch.randn(2, 6, 3), 3, torch.randn(5)),
    "wrong groups": lambda f: f.group_norm(torch.randn(2, 6, 3), 4),
    "wrong shape": lambda f: f.layer_norm(torch.randn(2, 6, 3), (4,)),
    "wrong layer weight": lambda f: f.layer_norm(torch.randn(2, 6, 3), (6, 3), torch.randn(3)),
    "wrong running": lambda f: f.batch_norm(torch.randn(2, 6), torch.zeros(5), torch.ones(5), training=True),
    "one axis": lambda f: f.layer_norm(torch.randn(6), (6,)),
    "many axes": lambda f: f.layer_norm(torch.randn(1, 2, 1, 2, 1, 2, 3), (2, 3)),
    "integers": lambda f: f.group_norm(torch.ones(2, 6, dtype=torch.int64), 2),
    "other device": lambda f: f.group_norm(torch.ones(2, 6, device="meta"), 2),
    "float64 weight": lambda f: f.group_norm(torch.ones(2, 6), 2, torch.ones(6, dtype=torch.float64)),
    "epsilon": lambda f: f.layer_norm(torch.randn(2, 3), (3,), eps=0.0),
    "wrong rms shape": lambda f: f.rms_norm(torch.randn(2, 6, 3), (4,)),
    "wrong rms weight": lambda f: f.rms_norm(torch.randn(2, 6, 3), (6, 3), torch.randn(3)),
    "rms of integers": lambda f: f.rms_norm(torch.ones(2, 6, dtype=torch.int64), (6,)),
    "no tensor": lambda f: f.layer_norm([1.0, 2.0, 3.0], (3,)),
    "nothing": lambda f: f.layer_norm(None, (3,)),
    "no rms tensor": lambda f: f.rms_norm(None, (3,)),
    "rms epsilon": lambda f: f.rms_norm(torch.randn(2, 3), (3,), eps=0.0),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_arguments_as_in_pytorch(name):
    assert outcome(lambda: UNUSUAL[name](axisnorm.torch)) == outcome(lambda: UNUSUAL[name](functional))


def test_every_rank_of_layer_norm():
    for shape, rank in [((6,), 1), ((1, 2, 1, 2, 1, 2, 3), 2), ((2, 3, 4), 3)]:
        x = torch.randn(shape)
        near(axisnorm.torch.layer_norm(x, shape[-rank:]), functional.layer_norm(x, shape[-rank:]))


def test_one_pool_of_threads(tmp_path):
    """The functions of the runtime that PyTorch is bound to, and those of another copy, do the same."""
    if not _runtime.HOSTED:
        pytest.skip("PyTorch without GNU's OpenMP interface")
    x = torch.randn(8, 64, 56, 56)
    due = axisnorm.torch.group_norm(x, 32)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            assert torch.equal(axisnorm.torch.group_norm(x, 32), due)
    finally:
        torch.set_num_threads(threads)
    mapped = [line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line]
    if not mapped:
        pytest.skip("PyTorch with another runtime than GNU's")
    other = ctypes.CDLL(shutil.copy(mapped[0], tmp_path / "libgomp-other.so"))
    functions = (other.GOMP_parallel, other.omp_get_num_threads, other.omp_get_thread_num)
    try:
        axisnorm._core.use_openmp(*(ctypes.cast(function, ctypes.c_void_p).value for function in functions))
        assert torch.equal(axisnorm.torch.group_norm(x, 32), due)
    finally:
        assert _runtime._use_threads_of_torch()
