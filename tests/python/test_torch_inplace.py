# SPDX-License-Identifier: MIT
"""axisnorm.torch's results in the place of inputs: where asked for, and where `replace` knows that nobody else
needs the input."""

import concurrent.futures
import copy
import itertools
import pickle

import pytest

torch = pytest.importorskip("torch")

import axisnorm
import axisnorm.torch as ours
from torch import nn
from torch.nn import functional


@pytest.fixture(autouse=True)
def seed(random):
    torch.manual_seed(int(random.integers(1 << 31)))


def near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


CASES = {
    "batch": lambda f, x, *w, **o: f.batch_norm(x, None, None, *w, True, **o),
    "batch_given": lambda f, x, *w, **o: f.batch_norm(x, w[1].detach(), w[0].detach().exp(), *w, **o),
    "instance": lambda f, x, *w, **o: f.instance_norm(x, None, None, *w, **o),
    "group": lambda f, x, *w, **o: f.group_norm(x, 3, *w, **o),
    "layer": lambda f, x, *w, **o: f.layer_norm(x, (6,), *w, **o),
    "rms": lambda f, x, *w, **o: f.rms_norm(x, (6,), w[0], 1e-3, **o),
}


@pytest.mark.parametrize("name", CASES)
def test_functions(name):
    parameters = torch.randn(6), torch.randn(6)
    for dtype, last in itertools.product((torch.float32, torch.float64, torch.bfloat16), (False, True)):
        if name in ("layer", "rms") and last or name == "batch_given" and dtype == torch.bfloat16:
            continue  # x or the running statistics have to be copied
        x = torch.randn(2, 6, 5, 6, dtype=dtype)
        x = x.to(memory_format=torch.channels_last) if last else x
        weights = [parameter.to(dtype) for parameter in parameters]
        due = CASES[name](ours, x, *weights, activation="silu")
        version, address = x._version, x.data_ptr()
        y = CASES[name](ours, x, *weights, activation="silu", inplace=True)
        assert y is x and x._version == version + 1 and y.data_ptr() == address
        assert torch.equal(y, due)


@pytest.mark.parametrize("name", CASES)
def test_what_backward_needs_is_kept(name):
    x, weights = torch.randn(2, 6, 5, 6), [torch.randn(6), torch.randn(6)]
    before = x.clone()
    weights[0].requires_grad_()
    y = CASES[name](ours, x, *weights, inplace=True)
    assert y is not x and torch.equal(x, before)
    (actual,) = torch.autograd.grad(y.square().sum(), weights[:1])
    (due,) = torch.autograd.grad(CASES[name](functional, x, *weights).square().sum(), weights[:1])
    torch.testing.assert_close(actual, due, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert CASES[name](ours, x, *weights, inplace=True) is x


def test_autograd_sees_it():
    x = torch.randn(3, 6, requires_grad=True)
    hidden = x * 2
    squares = hidden.square()
    with torch.no_grad():
        ours.layer_norm(hidden, (6,), inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.sum().backward()


def test_residuals():
    x, residual = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    due = ours.group_norm(x, 3, residual=residual, activation="relu")
    assert torch.equal(ours.group_norm(x, 3, residual=residual, activation="relu", inplace=True), due)
    x, due = residual, ours.group_norm(residual, 3, residual=residual)
    assert torch.equal(ours.group_norm(x, 3, residual=x, inplace=True), due)
    both = torch.randn(12, 5)
    before = both.clone()
    with pytest.raises(axisnorm.ArgumentError, match="y: overlaps residual"):
        ours.layer_norm(both[:6], (5,), residual=both[3:9], inplace=True)
    assert torch.equal(both, before)


def test_what_the_library_does_not_take_stays():
    x = torch.randn(4, 6, 5, 6).transpose(1, 3)[:, ::2]
    before = x.clone()
    near(ours.layer_norm(x, (6,), inplace=True), functional.layer_norm(before, (6,)))
    assert torch.equal(x, before)
    module = ours.InstanceNorm1d(4)
    x = torch.randn(4, 7)  # without a batch
    due = module(x)
    near(module(x, inplace=True), due)


class Block(nn.Module):
    """A convolution and a normalization by names, of which one call goes past the convolution."""

    def __init__(self, keep=False):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.keep, self.kept = keep, None

    def forward(self, x):
        x = self.conv(x)
        if self.keep:
            self.kept = x
        return self.act(self.norm(x))


class Optional(Block):
    def forward(self, x, weight=None):
        if weight is not None:
            x = self.conv(x) * 1
            x = self.conv(x[:, :3])
        return self.act(self.norm(x))


def sequential():
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.GroupNorm(2, 4),
                         nn.Flatten(2), nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU())


MODELS = {"sequential": sequential, "block": Block}


@pytest.fixture
def outputs(monkeypatch):
    """What convolutions and linear layers return, as long as the fixture is there."""
    seen = []

    def record(name):
        function = getattr(functional, name)

        def recorded(*args):
            seen.append(function(*args))
            return seen[-1]

        return recorded

    monkeypatch.setattr(functional, "conv2d", record("conv2d"))
    monkeypatch.setattr(functional, "linear", record("linear"))
    return seen


def overwritten(outputs):
    """How many, by versions, which count what is written in place."""
    return sum(output._version > 0 for output in outputs)


@pytest.mark.parametrize("name", MODELS)
def test_models(name, outputs):
    model = MODELS[name]().eval()
    mine = ours.replace(copy.deepcopy(model), fuse="trace" if name == "block" else True)
    x = torch.randn(2, 3, 2, 2)
    due = model(x)
    outputs.clear()
    near(mine(x), due)
    assert overwritten(outputs) == 0  # with gradients
    counts = []
    for each in (mine, copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        outputs.clear()
        with torch.no_grad():
            near(each(x), due)
        counts.append(overwritten(outputs))
    assert counts == ([1] * 3 if name == "block" else [3] * 3)
    outputs.clear()
    with torch.inference_mode():
        near(mine(x), due)
    restored = ours.restore(mine)
    assert [type(module) for module in restored.modules()] == [type(module) for module in model.modules()]
    for module, other in zip(restored.modules(), model.modules(), strict=True):
        assert vars(module).keys() == vars(other).keys()


@pytest.mark.parametrize("name", MODELS)
def test_hooks_keep_what_they_see(name, outputs):
    mine = ours.replace(MODELS[name]().eval(), fuse="trace")
    x, seen = torch.randn(2, 3, 2, 2), []
    for module in (nn.Conv2d, nn.BatchNorm2d):
        watched = next(each for each in mine.modules() if isinstance(each, module))
        hook = watched.register_forward_hook(lambda module, args, y: seen.append((args[0], args[0].clone())))
        with torch.no_grad():
            mine(x)
        hook.remove()
        assert torch.equal(*seen[-1]) and seen[-1][0]._version == 0
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, y: None)
    try:
        outputs.clear()
        with torch.no_grad():
            mine(x)
        assert overwritten(outputs) == 0
    finally:
        hook.remove()


def test_what_a_caller_holds_stays(outputs):
    """A normalization called by hand, an input that went past the convolution, an output that is kept."""
    mine = ours.replace(Block().eval(), fuse="trace")
    x, hidden = torch.randn(2, 3, 2, 2), torch.randn(2, 6, 2, 2)
    before = hidden.clone()
    with torch.no_grad():
        mine(x)
        mine.norm(hidden)
        assert torch.equal(hidden, before)
        optional = ours.replace(Optional().eval(), fuse="trace")
        optional(hidden)
        assert torch.equal(hidden, before)
        keeping = ours.replace(Block(keep=True).eval(), fuse="trace")
        outputs.clear()
        keeping(x)
        assert overwritten(outputs) == 0 and keeping.kept is outputs[0]


def test_threads():
    mine = ours.replace(Block().eval(), fuse="trace")
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(8)]
    with torch.no_grad():
        due = [mine(x) for x in inputs]

    def many(place):
        with torch.no_grad():
            return all(torch.equal(mine(inputs[place]), due[place]) for _ in range(50))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(8)))


def test_compiled():
    mine = ours.replace(Block().eval(), fuse="trace")
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        near(torch.compile(mine, backend="eager", fullgraph=True)(x), mine(x))
