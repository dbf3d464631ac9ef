# SPDX-License-Identifier: MIT
"""axisnorm.torch's modules beside PyTorch's, and whole models with these exchanged."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

import axisnorm.torch as ours
from torch import nn
from torch.nn.utils import parametrize, prune

CASES = [
    ("BatchNorm1d", (6,), {}, (5, 6)), ("BatchNorm1d", (6,), {"momentum": None}, (5, 6, 4)),
    ("BatchNorm2d", (6,), {}, (4, 6, 5, 3)),
    ("BatchNorm2d", (6,), {"track_running_stats": False}, (4, 6, 5, 3)),
    ("BatchNorm2d", (6,), {"affine": False, "eps": 1e-3}, (4, 6, 5, 3)),
    ("BatchNorm3d", (6,), {}, (2, 6, 3, 4, 2)),
    ("InstanceNorm1d", (6,), {}, (4, 6, 5)), ("InstanceNorm1d", (6,), {}, (6, 5)),
    ("InstanceNorm2d", (6,), {"affine": True, "track_running_stats": True}, (4, 6, 5, 3)),
    ("InstanceNorm3d", (6,), {"affine": True}, (2, 6, 3, 4, 2)),
    ("LayerNorm", (5,), {}, (4, 6, 5)), ("LayerNorm", ((6, 5),), {"elementwise_affine": False}, (4, 6, 5)),
    ("LayerNorm", (5,), {"bias": False}, (2, 5)),
    ("RMSNorm", (5,), {}, (4, 6, 5)), ("RMSNorm", ((6, 5),), {"eps": 1e-3}, (4, 6, 5)),
    ("RMSNorm", (5,), {"elementwise_affine": False}, (2, 5)), ("GroupNorm", (3, 6), {}, (4, 6, 5, 3)),
    ("GroupNorm", (2, 6), {"affine": False}, (4, 6)),
]


@pytest.fixture(autouse=True)
def seed(random):
    torch.manual_seed(int(random.integers(1 << 31)))


def near(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def train(module, batches):
    """A few steps; what came out, and the state at the end."""
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1) if parameters else None
    results = []
    for x in batches:
        x = x.clone().requires_grad_()
        y = module(x)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().div(10).backward()
        results += [y.detach(), x.grad]
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
    module.eval()
    results.append(module(batches[0]).detach())
    return results


@pytest.mark.parametrize(("name", "arguments", "keywords", "shape"), CASES, ids=str)
def test_module(name, arguments, keywords, shape):
    theirs, mine = getattr(nn, name)(*arguments, **keywords), getattr(ours, name)(*arguments, **keywords)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    assert isinstance(mine, type(theirs)) and repr(mine) == repr(theirs)
    assert mine.load_state_dict(theirs.state_dict()) and list(mine.state_dict()) == list(theirs.state_dict())
    batches = [torch.randn(shape) * 2 + 1 for _ in range(4)]
    for actual, due in zip(train(mine, batches), train(theirs, batches), strict=True):
        near(actual, due)
    for (name, actual), due in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert actual.dtype == due.dtype, name
        near(actual, due)


def test_parameters_that_are_none_of_the_modules():
    """Pruned and parametrized ones are attributes; torch.func's and replicas' take the modules' place."""
    x = torch.randn(2, 6, 5)
    for name, arguments in (("LayerNorm", (5,)), ("RMSNorm", (5,)), ("GroupNorm", (2, 6)), ("BatchNorm1d", (6,))):
        pair = [getattr(library, name)(*arguments) for library in (nn, ours)]
        theirs, mine = pair
        others = {key: torch.randn_like(value) for key, value in theirs.named_parameters()}
        near(*(torch.func.functional_call(module, others, x) for module in pair))
        for module in pair:
            module._buffers.pop("running_mean", None)
            module.running_mean = torch.full((6,), 0.5)
            if name == "GroupNorm":
                prune.l1_unstructured(module, "weight", 2)
            else:
                parametrize.register_parametrization(module, "weight", nn.Softplus())
        near(mine(x), theirs(x))
        near(mine.running_mean, theirs.running_mean)
        near(mine.eval()(x), theirs.eval()(x))


def test_wrong_dimensions():
    for module, shape in [(ours.BatchNorm2d(6), (4, 6, 3)), (ours.InstanceNorm1d(6), (4, 6, 3, 3))]:
        with pytest.raises(ValueError, match="expected"):
            module(torch.randn(shape))


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.short = nn.Sequential() if stride == 1 else nn.Sequential(
            nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        return torch.relu(self.main(x) + self.short(x))


def residual_network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8, 1),
        Block(8, 16, 2), nn.GroupNorm(4, 16), nn.InstanceNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(16), nn.Linear(16, 10), nn.RMSNorm(10))


def fit(model, data, labels):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(data), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_replace_a_whole_model(memory_format):
    model = residual_network().to(memory_format=memory_format)
    data, labels = torch.randn(16, 3, 12, 12).to(memory_format=memory_format), torch.randint(10, (16,))
    replaced = copy.deepcopy(model)
    state = list(replaced.state_dict())
    assert ours.replace(replaced) is replaced
    classes = {type(module).__module__ for module in replaced.modules() if "Norm" in type(module).__name__}
    assert classes == {"axisnorm.torch._modules"} and list(replaced.state_dict()) == state
    assert fit(replaced, data, labels) == pytest.approx(fit(model, data, labels), rel=1e-3)
    for actual, due in zip(replaced.state_dict().values(), model.state_dict().values(), strict=True):
        near(actual, due, 2e-3)
    near(replaced.eval()(data), model.eval()(data), 2e-3)
    restored = ours.restore(replaced)
    assert [type(module) for module in restored.modules()] == [type(module) for module in model.modules()]
    near(restored(data), model(data), 2e-3)


def test_replace_keeps_what_hangs_on_modules():
    model = nn.BatchNorm2d(4)
    seen, optimizer = [], torch.optim.SGD(model.parameters(), 0.1)
    model.register_forward_hook(lambda *_: seen.append(1))
    before = model.weight
    ours.replace(model)(torch.randn(2, 4, 3, 3)).pow(3).sum().backward()
    optimizer.step()
    assert seen == [1] and model.weight is before and float(before.grad.abs().sum()) > 0


class ChannelsFirst(nn.LayerNorm):
    """A layer normalization of a package's own, as in ConvNeXt."""

    def __init__(self, channels, gain):
        super().__init__(channels)
        self.gain = gain

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1) * self.gain


class Inherits(nn.GroupNorm):
    pass


class Checks(nn.BatchNorm2d):
    def _check_input_dim(self, x):
        assert x.shape[-1] == 3


class Activates(nn.GroupNorm):
    """With attributes of names that ours have as well."""

    def __init__(self):
        super().__init__(2, 4)
        self.activation, self.normalize = nn.SiLU(), True

    def forward(self, x):
        return self.activation(super().forward(x))


class Alone(nn.LayerNorm):
    def forward(self, x):
        return nn.functional.layer_norm(x, self.normalized_shape) + 7


def normalizations(model, x):
    """Which operators ran."""
    with torch.profiler.profile() as profile:
        y = model(x)
    return y, {event.key for event in profile.key_averages() if "norm" in event.key}


@pytest.mark.parametrize("make", [
    lambda: ChannelsFirst(4, 3.0), lambda: Inherits(2, 4), lambda: Checks(4), Activates, lambda: Alone(3)])
def test_replace_subclasses(make):
    model, x = make(), torch.randn(2, 4, 5, 3)
    due, natively = normalizations(model, x)
    kind, shown = type(model), repr(model)
    y, ran = normalizations(ours.replace(model), x)
    near(y, due)
    if kind is Alone:  # it calls nothing that could be replaced
        assert ran == natively
    else:
        assert natively and not ran & natively
    assert type(model) is not kind and isinstance(model, kind) and repr(model) == shown
    assert type(ours.replace(model)) is type(model) is type(ours.replace(make()))
    for double in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(double) is type(model)
        assert torch.equal(double.eval()(x), model.eval()(x))
        assert type(ours.restore(double)) is kind
    torch._dynamo.reset()
    near(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
    assert type(ours.restore(model)) is kind


def test_replace_leaves_others_alone():
    class Mine(ours.LayerNorm):
        pass

    scaled = nn.utils.parametrizations.weight_norm(nn.LayerNorm(3))
    class Private(nn.InstanceNorm2d):
        def _apply_instance_norm(self, x):
            return x

    class OneMore(nn.LayerNorm):
        @property
        def weight(self):
            return self.gain + 1

    class Registered(nn.LayerNorm):
        def __init_subclass__(cls, name):
            raise AssertionError

    model = nn.Sequential(Mine(3), Registered(3), nn.Linear(3, 3), nn.SyncBatchNorm(3), nn.LazyBatchNorm2d(), scaled,
                          ours.LayerNorm(3), Private(3), OneMore(3))
    kinds = [type(module) for module in model]
    assert [type(module) for module in ours.replace(model)] == kinds


def test_saving():
    model = ours.replace(residual_network()).eval()
    x = torch.randn(2, 3, 8, 8)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    native = residual_network().eval()
    native.load_state_dict(torch.load(file))
    near(native(x), model(x), 2e-3)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
