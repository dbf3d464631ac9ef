# SPDX-License-Identifier: MIT
"""axisnorm.torch's residuals and activations, in functions, modules and whole models, beside PyTorch's own."""

import concurrent.futures
import copy
import gc
import pickle

import pytest

torch = pytest.importorskip("torch")

import axisnorm
import axisnorm.torch as ours
from torch import nn
from torch.nn import functional

ACTIVATIONS = {
    "none": lambda z: z, "relu": functional.relu, "leaky-relu": lambda z: functional.leaky_relu(z, 0.2),
    "silu": functional.silu, "gelu": functional.gelu,
    "gelu-tanh": lambda z: functional.gelu(z, approximate="tanh"),
}
NORMS = ["batch", "batch_tracked", "batch_given", "instance", "instance_given", "layer", "rms", "group"]


@pytest.fixture(autouse=True)
def seed(random):
    torch.manual_seed(int(random.integers(1 << 31)))


def near(actual, expected, tolerance=2e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def case(norm, dtype=torch.float32):
    """A function of a module of functions and what may have gradients: x, scale and shift."""
    given = torch.randn(6, dtype=dtype), torch.rand(6, dtype=dtype) + 0.5

    def function(f, x, scale, shift, **fused):
        running = [tensor.clone() for tensor in given]
        return {
            "batch": lambda: f.batch_norm(x, None, None, scale, shift, True, **fused),
            "batch_tracked": lambda: f.batch_norm(x, *running, scale, shift, True, **fused),
            "batch_given": lambda: f.batch_norm(x, *running, scale, shift, **fused),
            "instance": lambda: f.instance_norm(x, None, None, scale, shift, **fused),
            "instance_given": lambda: f.instance_norm(x, *running, scale, shift, False, **fused),
            "layer": lambda: f.layer_norm(x, (3,), scale, shift, **fused),
            "rms": lambda: f.rms_norm(x, (3,), scale, 1e-3, **fused),
            "group": lambda: f.group_norm(x, 3, scale, shift, **fused),
        }[norm]()

    count = 3 if norm in ("layer", "rms") else 6
    x = torch.randn(4, 6, 5, 3, dtype=dtype, requires_grad=True)
    return function, [x, *(torch.randn(count, dtype=dtype, requires_grad=True) for _ in range(2))]


def composed(function, inputs, residual, activation):
    z = function(functional, *inputs)
    return ACTIVATIONS[activation](z if residual is None else z + residual)


def gradients(y, inputs, grad_y):
    return torch.autograd.grad(y, inputs, grad_y, allow_unused=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_fused(norm, activation):
    function, inputs = case(norm)
    for lies in (lambda x: x, lambda x: x.to(memory_format=torch.channels_last)):
        for residual in (None, torch.randn(4, 6, 5, 3, requires_grad=True)):
            inputs[0] = lies(inputs[0].detach()).requires_grad_()
            due = composed(function, inputs, residual, activation)
            fused = {"residual": residual, "activation": None if activation == "none" else activation,
                     "negative_slope": 0.2}
            actual = function(ours, *inputs, **fused)
            near(actual, due)
            with torch.no_grad():
                near(function(ours, *inputs, **fused), due)
            variables = inputs if residual is None else [*inputs, residual]
            grad_y = torch.randn_like(due)
            pairs = zip(gradients(actual, variables, grad_y), gradients(due, variables, grad_y), strict=True)
            for gradient, expected in pairs:
                assert (gradient is None) == (expected is None)
                near(gradient, expected, 1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["batch", "batch_given", "layer", "rms", "group"])
def test_gradcheck(norm, activation):
    """In float64, first and second derivatives, of all inputs. Away from 0, where ReLU has none."""
    function, (x, scale, shift) = case(norm, torch.float64)
    inputs = [x.detach()[:2, :, :2].requires_grad_(), scale, shift]
    residual = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        z = function(functional, *inputs) + residual
        residual += torch.where(z.abs() < 1e-3, 1e-2, 0.0)
    inputs.append(residual.requires_grad_())

    def fused(x, scale, shift, residual):
        return function(ours, x, scale, shift, residual=residual, negative_slope=0.2,
                        activation=None if activation == "none" else activation)

    assert torch.autograd.gradcheck(fused, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(fused, inputs, fast_mode=True)


@pytest.mark.parametrize("frozen", range(4))
def test_only_the_gradients_that_are_due(frozen):
    inputs = [torch.randn(4, 6, 5), torch.randn(6), torch.randn(6), torch.randn(4, 6, 5)]
    for place, tensor in enumerate(inputs):
        tensor.requires_grad_(place != frozen)
    for activation in (None, "silu"):
        x, scale, shift, residual = inputs
        y = ours.group_norm(x, 3, scale, shift, residual=residual, activation=activation)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        for alone in (wanted, wanted[-1:]):
            due = functional.group_norm(x, 3, scale, shift) + residual
            due = due if activation is None else functional.silu(due)
            pairs = zip(torch.autograd.grad(y.sum(), alone, retain_graph=True),
                        torch.autograd.grad(due.sum(), alone), strict=True)
            for actual, expected in pairs:
                near(actual, expected, 1e-4)


def test_fused_transforms_and_compilers():
    torch._dynamo.reset()
    function, (x, scale, shift) = case("group")
    residual = torch.randn_like(x)

    def loss(x, residual):
        y = function(ours, x, scale, shift, residual=residual, activation="gelu")
        return y.pow(2).sum()

    due = torch.autograd.grad(
        composed(function, (x, scale, shift), residual.requires_grad_(), "gelu").pow(2).sum(), (x, residual))
    for expected, actual in zip(due, torch.func.grad(loss, (0, 1))(x, residual), strict=True):
        near(actual, expected, 1e-4)
    many = torch.func.vmap(torch.func.grad(loss), (None, 0))(x, torch.stack([residual, residual]))
    near(many[1], due[0], 1e-4)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for expected, actual in zip(due, torch.autograd.grad(compiled(x, residual), (x, residual)), strict=True):
        near(actual, expected, 1e-4)


def test_what_pytorch_computes_has_residual_and_activation_too():
    x, residual = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    actual = ours.layer_norm(x, (3,), eps=0.0, residual=residual, activation="silu")
    near(actual, functional.silu(functional.layer_norm(x, (3,), eps=0.0) + residual))
    mixed = ours.layer_norm(x.bfloat16(), (3,), residual=residual)  # as x + residual, float32
    assert mixed.dtype == torch.float32
    assert ours.layer_norm(x.to("meta"), (3,), residual=residual.to("meta")).device.type == "meta"


def test_errors():
    x = torch.randn(2, 6, 3)
    for name, keywords in (("activation", {"activation": "tanh"}), ("residual", {"residual": x[:1]})):
        with pytest.raises(axisnorm.ArgumentError, match=name):
            ours.layer_norm(x, (3,), **keywords)
    with pytest.raises(axisnorm.ArgumentError, match="activation"):
        ours.GroupNorm(2, 6, activation="sigmoid")


MODULES = [("BatchNorm1d", (6,), (4, 6)), ("BatchNorm2d", (6,), (4, 6, 5, 3)),
           ("InstanceNorm1d", (6,), (4, 6, 5)), ("InstanceNorm1d", (6,), (6, 5)), ("LayerNorm", (5,), (4, 6, 5)),
           ("RMSNorm", (5,), (4, 6, 5)), ("GroupNorm", (3, 6), (4, 6, 5, 3))]


@pytest.mark.parametrize(("name", "arguments", "shape"), MODULES, ids=str)
def test_modules(name, arguments, shape):
    theirs = getattr(nn, name)(*arguments)
    mine = getattr(ours, name)(*arguments, activation="leaky-relu", negative_slope=0.2)
    assert "leaky-relu" in repr(mine) and list(mine.state_dict()) == list(theirs.state_dict())
    x, residual = torch.randn(shape), torch.randn(shape)
    for module in (mine, pickle.loads(pickle.dumps(mine)), copy.deepcopy(mine)):
        module.eval()
        near(module(x, residual), functional.leaky_relu(theirs.eval()(x) + residual, 0.2))
        near(module(x), functional.leaky_relu(theirs(x), 0.2))
    near(mine.train()(x, residual), functional.leaky_relu(theirs.train()(x) + residual, 0.2))
    ours.restore(mine)  # made with an activation, it could not be one of PyTorch's
    assert type(mine) is getattr(ours, name)


# Models of 16-bit types.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_of_a_16_bit_type(dtype, compiled):
    torch._dynamo.reset()
    model = nn.Sequential(nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.LayerNorm(32), nn.RMSNorm(32))
    for name, parameter in model.named_parameters():  # scales that do not magnify what was rounded
        nn.init.uniform_(parameter, 0.5 if name.endswith("weight") else -1.0, 1.5)
    exact = copy.deepcopy(model).to(dtype).double()
    mine = ours.replace(copy.deepcopy(model)).to(dtype)
    types = {name: tensor.dtype for name, tensor in mine.state_dict().items()}
    assert types["0.weight"] == types["0.running_mean"] == dtype
    run = torch.compile(mine, backend="eager", fullgraph=True) if compiled else mine
    x = torch.randn(8, 6, 32).to(dtype)
    unit = {torch.bfloat16: 2.0 ** -8, torch.float16: 2.0 ** -11}[dtype]
    for _ in range(3):
        y, due = run(x), exact(x.double())
        assert y.dtype == dtype
        near(y.double(), due, 16 * unit)
    y.sum().backward()
    assert all(parameter.grad.dtype == dtype for parameter in mine.parameters())
    assert {name: tensor.dtype for name, tensor in mine.state_dict().items()} == types
    for name in ("running_mean", "running_var"):
        near(getattr(mine[0], name).double(), getattr(exact[0], name), 2 * unit)
    near(mine.eval()(x).double(), exact.eval()(x.double()), 16 * unit)


# replace(fuse=True)


class Dense(nn.Module):
    """Activations called with the output of a normalization, as DenseNet has them; one of them twice."""

    def __init__(self):
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2, self.norm3, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU()
        self.norm4, self.silu = nn.GroupNorm(2, 4), nn.SiLU()

    def forward(self, x):
        y = self.conv(self.relu1(self.norm1(x)))
        y = self.relu(self.norm2(y))
        y = self.relu(self.norm3(y) + x)
        z = self.norm4(y)
        return self.silu(z) + z


class ConvNorm(nn.Sequential):
    """A subclass with a constructor of its own, as torchvision has them."""

    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.SiLU())


class Backwards(nn.Sequential):
    def forward(self, input):
        for module in reversed(self):
            input = module(input)
        return input


def network():
    shared = nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), shared, nn.GroupNorm(2, 4), shared, nn.Conv2d(4, 4, 1),
        nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.3), ConvNorm(4), Dense(), nn.GroupNorm(2, 4),
        nn.GELU(approximate="tanh"), Backwards(nn.ReLU(), nn.BatchNorm2d(4)), nn.BatchNorm2d(4), nn.Tanh())


SEQUENTIAL = [("1", "2"), ("3", "2"), ("6", "7"), ("10", "11"), ("8.1", "8.2")]


def step(model, x):
    y = model(x)
    y.pow(2).mean().backward()
    return y.detach()


@pytest.mark.parametrize("fuse", [True, "trace"])
@pytest.mark.parametrize("compiled", [False, True])
def test_fuse(fuse, compiled):
    torch._dynamo.reset()
    model = network()
    mine = copy.deepcopy(model)
    before, kinds, state = list(mine.modules()), [type(m) for m in mine.modules()], list(mine.state_dict())
    assert ours.replace(mine, fuse=fuse) is mine
    due = SEQUENTIAL + ([("9.norm1", "9.relu1")] if fuse == "trace" else [])
    assert sorted(ours.report(mine).fused) == sorted(due)
    assert len(ours.report(mine).replaced) == 11
    assert list(mine.state_dict()) == state
    run = torch.compile(mine, backend="eager", fullgraph=True) if compiled else mine
    for _ in range(2):
        x = torch.randn(4, 3, 6, 6)
        near(step(run, x), step(model, x), 1e-4)
    for actual, expected in zip(mine.parameters(), model.parameters(), strict=True):
        near(actual.grad, expected.grad, 1e-4)
    for actual, expected in zip(mine.buffers(), model.buffers(), strict=True):
        near(actual, expected, 1e-4)
    near(mine.eval()(x), model.eval()(x), 1e-4)
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert ours.report(copied) == ours.report(mine)
        assert torch.equal(copied(x), mine(x))
    ours.restore(mine)
    assert [type(module) for module in mine.modules()] == kinds
    assert all(now is then for now, then in zip(mine.modules(), before, strict=True))
    assert compiled or all(  # a compiler leaves attributes of its own
        now.__dict__.keys() == then.__dict__.keys()
        for now, then in zip(mine.modules(), model.modules(), strict=True))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.relu = nn.LayerNorm(5), nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(x))


class Noting(Inner):
    """What a forward keeps beside its result."""

    def __init__(self):
        super().__init__()
        self.calls, self.last = 0, None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = x
        self.seen.add_(1)
        self.late = nn.Identity()
        return super().forward(x)


def test_a_trace_leaves_no_trace():
    model = ours.replace(Noting(), fuse="trace")
    assert ours.report(model).fused == [("norm", "relu")]
    assert (model.calls, model.last, model.seen.item(), hasattr(model, "late")) == (0, None, 0, False)
    assert model.training and all(module.training for module in model.modules())


class Uncopied(Inner):
    def __copy__(self):
        raise RuntimeError("one of its kind")


def test_what_cannot_be_copied_is_not_traced():
    model = ours.replace(Uncopied(), fuse="trace")
    assert ours.report(model) == (["norm"], [])
    assert all(module.training for module in model.modules())


def test_a_forward_of_its_own_is_not_what_is_traced():
    model = Inner()
    model.forward = lambda x: model.norm(x) * 2  # as packages do that place models on devices
    x = torch.randn(3, 5)
    due = model(x)
    assert ours.report(ours.replace(model, fuse="trace")).fused == []
    near(model(x), due)


def test_fused_activations_are_computed_in_the_pass(monkeypatch):
    model = ours.replace(network(), fuse="trace")
    calls = []
    monkeypatch.setattr(nn.SiLU, "forward", lambda self, x: calls.append(x) or functional.silu(x))
    monkeypatch.setattr(nn.LeakyReLU, "forward", lambda self, x: calls.append(x) or x)
    model(torch.randn(2, 3, 6, 6))
    assert len(calls) == 1  # Dense's, whose argument is used once more


def test_hooks_and_slices_are_not_fused():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    mine = ours.replace(copy.deepcopy(model), fuse=True)
    x = torch.randn(2, 4, 3, 3)
    near(mine[:1](x), model[:1](x))
    near(mine[:2](x), model[:2](x))
    seen = []
    hook = mine[0].register_forward_hook(lambda module, args, y: seen.append(y))
    near(mine(x), model(x))
    near(seen[0], model[0](x))
    assert ours.report(mine).fused == []
    hook.remove()
    assert ours.report(mine).fused == [("0", "1")]
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(module))
    try:
        mine(x)
    finally:
        hook.remove()
    assert mine[1] in seen


def test_what_cannot_be_fused_stays():
    class Mine(nn.ReLU):
        def forward(self, x):
            return -x

    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda module, args, y: y + 1)
    model = nn.Sequential(nn.LayerNorm(3), Mine(), nn.LayerNorm(3), hooked,
                          ours.LayerNorm(3, activation="silu"), nn.ReLU())
    mine = ours.replace(copy.deepcopy(model), fuse=True)
    assert ours.report(mine).fused == []
    x = torch.randn(2, 3)
    near(mine(x), model(x))
    with pytest.raises(ValueError, match="fuse"):
        ours.replace(model, fuse="everything")


# Calls past the dispatcher: what must not pass there.


def test_tensors_and_modes_that_are_not_plain():
    x, scale = torch.randn(2, 6, 3), torch.randn(6)
    due = functional.group_norm(x, 3, scale)
    negated = torch.complex(torch.zeros(2, 6, 3), -x).conj().imag
    assert negated.is_neg()
    near(ours.group_norm(negated, 3, scale), due)
    zeros = torch._efficientzerotensor((2, 6, 3))
    near(ours.group_norm(zeros, 3, scale, scale), functional.group_norm(torch.zeros(2, 6, 3), 3, scale, scale))

    class Mine(torch.Tensor):
        pass

    assert type(ours.group_norm(x.as_subclass(Mine), 3, scale)) is Mine
    seen = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Mode():
        near(ours.group_norm(x, 3, scale), due)
    assert any("axisnorm.normalize" in name for name in seen)
    with torch.inference_mode():
        near(ours.group_norm(torch.clone(x), 3, scale), due)
        running = torch.zeros(6), torch.ones(6)
        ours.batch_norm(x, *running, training=True)
        assert float(running[0].abs().sum()) > 0
    kept = []
    torch.func.grad(lambda x: kept.append(x) or x.sum())(x)
    near(ours.group_norm(kept[0], 3, scale), due)
    with torch.profiler.profile() as profile:
        ours.group_norm(x, 3, scale)
    assert any("axisnorm" in event.key for event in profile.key_averages())


def test_autograd_sees_changes_in_place():
    x, running = torch.randn(4, 6, requires_grad=True), (torch.zeros(6), torch.ones(6))
    y = ours.batch_norm(x * 1, *running)
    ours.batch_norm(x, *running, training=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_of_any_form():
    x = torch.randn(4, 6, 3, requires_grad=True)
    due = torch.autograd.grad(functional.group_norm(x, 3).sum(), x)[0]
    near(torch.autograd.grad(ours.group_norm(x, 3).sum(), x)[0], due)  # one number, expanded
    weights = torch.randn(3, 6, 4).permute(2, 1, 0)
    pair = [torch.autograd.grad(f.group_norm(x, 3), x, weights)[0] for f in (ours, functional)]
    near(*pair)
    assert ours.group_norm(x, 3).grad_fn is not None
    with torch.autograd.graph.save_on_cpu():
        y = ours.group_norm(x, 3)
    near(torch.autograd.grad(y, x, weights)[0], pair[1])
    block = lambda x: ours.group_norm(x * 2, 3, activation="silu")  # noqa: E731
    y = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
    near(torch.autograd.grad(y, x, weights)[0], torch.autograd.grad(block(x), x, weights)[0])


def test_outputs_lie_as_inputs():
    """Also along axes of one element, whose strides tell what follows about the layout."""
    scale = torch.randn(8, requires_grad=True)
    for shape, strides in [((2, 8, 1, 1), (8, 1, 1, 1)), ((2, 8, 1, 1), (8, 1, 8, 8)), ((1, 8, 4, 4), (7, 1, 32, 8)),
                           ((4, 8, 1, 3), (24, 3, 99, 1)), ((2, 8, 5), (40, 1, 8)), ((3, 8), (8, 1))]:
        x = torch.empty_strided(shape, strides).normal_().requires_grad_()
        y = ours.group_norm(x, 2, scale)
        assert y.stride() == strides
        assert torch.autograd.grad(y.sum(), x)[0].stride() == strides
        with torch.no_grad():
            assert ours.group_norm(x, 2, scale).stride() == strides


def test_calls_within_calls():
    """A finalizer or a hook that comes between a call and its autograd.Function, and threads beside it."""
    x, scale = torch.randn(4, 6, 5), torch.randn(6)

    def gradients(library):
        variables = [tensor.clone().requires_grad_() for tensor in (x, scale)]
        y = library.group_norm(variables[0], 3, variables[1])
        return torch.autograd.grad((y * y * y).sum(), variables)

    class Finalized:
        def __init__(self):
            self.itself = self

        def __del__(self):
            with torch.enable_grad():
                results.append(gradients(ours)[0])
            if len(results) < 200:
                Finalized()

    due, thresholds, results = gradients(functional), gc.get_threshold(), []
    gc.freeze()
    try:
        gc.set_threshold(1)
        for _ in range(10):
            Finalized()
            near(gradients(ours), due)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    gc.collect()
    pack = lambda saved: (saved, ours.layer_norm(x, (5,)))  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda pair: pair[0]):
        near(gradients(ours), due)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results += [pair[0] for pair in pool.map(lambda _: gradients(ours), range(100))]
    assert len(results) >= 110
    for result in results:
        near(result, due[0])


def test_batches_of_gradients():
    """Outside of torch.func's transforms: an older vmap, whose tensors have no memory of their own."""
    x, scale = torch.randn(4, 6, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    weights = torch.randn(2, 4, 6, 3)
    for activation in (None, "silu"):
        y = ours.group_norm(x, 3, scale, activation=activation)
        actual = torch.autograd.grad(y, (x, scale), weights, retain_graph=True, is_grads_batched=True)
        each = [torch.autograd.grad(y, (x, scale), weight, retain_graph=True) for weight in weights]
        for batch, due in zip(actual, zip(*each)):
            near(batch, torch.stack(due))


def test_nested_tensors():
    x = torch.nested.nested_tensor([torch.randn(3, 5), torch.randn(2, 5)])
    y, due = (f.layer_norm(x, (5,), torch.ones(5), torch.zeros(5)) for f in (ours, functional))
    near(y.to_padded_tensor(0.0), due.to_padded_tensor(0.0))


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("compiled", [False, True])
def test_parts_with_channels_last_stay_so(rank, compiled):
    """As PyTorch's own operators have it: what follows in a network computes in the same layout."""
    torch._dynamo.reset()
    x = torch.randn(2, *[5] * (rank - 2), 12).movedim(-1, 1)[:, :6].requires_grad_()

    def operator(x, groups):
        return torch.ops.axisnorm.normalize(x, None, None, None, "group", groups, 1, 1e-5, "none", 0.0)[0]

    run = torch.compile(operator, backend="aot_eager", fullgraph=True) if compiled else ours.group_norm
    y, due = run(x, 3), functional.group_norm(x, 3)
    assert y.movedim(1, -1).is_contiguous()
    near(y, due)
    weights = torch.randn(x.shape)
    near(torch.autograd.grad(y, x, weights)[0], torch.autograd.grad(due, x, weights)[0])


@pytest.mark.parametrize("activation", [None, "silu"])
def test_hooks_that_save_otherwise(activation):
    """In another layout, or with gaps: what hooks return need not lie as it did."""
    x = torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    scale, weights = torch.randn(6, requires_grad=True), torch.randn(4, 6, 5, 5)
    call = lambda: ours.group_norm(x, 3, scale, residual=x, activation=activation)  # noqa: E731
    due = torch.autograd.grad(call(), (x, scale), weights)
    for pack in (torch.Tensor.contiguous, lambda saved: torch.stack([saved, saved], -1)[..., 0]):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            y = call()
        for gradient, other in zip(torch.autograd.grad(y, (x, scale), weights), due):
            near(gradient, other)


def test_reading_without_dlpack(monkeypatch):
    """As with versions of PyTorch that have no exchange functions, and no short way to an allocation."""
    runtime = ours._runtime
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cpu")
    try:
        runtime._use_tensors_of_torch(None)
        for norm in NORMS:
            test_fused(norm, "silu")
        test_tensors_and_modes_that_are_not_plain()
        test_outputs_lie_as_inputs()
    finally:
        monkeypatch.undo()
        runtime._use_tensors_of_torch(runtime.EXCHANGE)
