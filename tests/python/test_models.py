# SPDX-License-Identifier: MIT
"""`replace` on models of transformers and diffusers, small and with random weights: the same results, state
and training as with PyTorch's own normalizations. AXISNORM_TEST_MODELS=full compiles every one of them."""

import copy
import os
import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

import axisnorm.torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

FULL = os.environ.get("AXISNORM_TEST_MODELS") == "full"
CLASSES, STEPS, TOLERANCE = 10, 10, 1e-4
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def resnet():
    """BatchNorm2d."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], num_labels=CLASSES))


def convnext():
    """LayerNorm, and a class of the package's own for channels first and channels last."""
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], layer_scale_init_value=0.5, num_labels=CLASSES))


def vit():
    """LayerNorm."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32,
        patch_size=8, num_labels=CLASSES))


def unet():
    """GroupNorm before SiLU, of maps and, in attention, of sequences."""
    return diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))


def unet_condition():
    """GroupNorm before SiLU, and LayerNorm in transformer blocks, as in Stable Diffusion."""
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=4, cross_attention_dim=12,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))


MODELS = {make.__name__: make for make in (resnet, convnext, vit, unet, unet_condition)}
# How many modules each has, all of which must be replaced.
NORMALIZATIONS = {"resnet": 12, "convnext": 5, "vit": 5, "unet": 21, "unet_condition": 33}


@pytest.fixture(autouse=True)
def seed(random):
    torch.manual_seed(int(random.integers(1 << 31)))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These tensors are too small for more, and on a busy machine PyTorch's would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normalizations(model):
    return [module for module in model.modules() if isinstance(module, (
        nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm))]


def made(name, layout):
    """A model whose normalizations do not begin as scale 1, shift 0, mean 0 and variance 1."""
    model = MODELS[name]()
    for module in normalizations(model):
        nn.init.normal_(module.weight, 1, 0.2)
        nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.to(memory_format=LAYOUTS[layout])


def data(name, layout):
    """What the model takes, and what it shall give."""
    if not name.startswith("unet"):
        images = torch.randn(8, 3, 32, 32).to(memory_format=LAYOUTS[layout])
        return {"pixel_values": images}, torch.randint(CLASSES, (8,))
    channels = 4 if name == "unet_condition" else 3
    sample, target = (torch.randn(4, channels, 8, 8).to(memory_format=LAYOUTS[layout]) for _ in range(2))
    inputs = {"sample": sample, "timestep": torch.randint(1000, (4,))}
    if name == "unet_condition":
        inputs["encoder_hidden_states"] = torch.randn(4, 5, 12)
    return inputs, target


def result(model, inputs):
    return model(**inputs, return_dict=False)[0]


def inference(model, inputs):
    model.eval()
    with torch.no_grad():
        return result(model, inputs)


def train(model, inputs, target):
    """The losses of steps of SGD."""
    loss_of = nn.functional.mse_loss if target.is_floating_point() else nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    model.train()
    losses = []
    for _ in range(STEPS):
        loss = loss_of(result(model, inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Operators(TorchDispatchMode):
    """Counts the normalizations among the operators that run."""

    def __init__(self):
        super().__init__()
        self.ours = self.native = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.ours += function.namespace == "axisnorm"
        self.native += function.namespace == "aten" and "_norm" in function.__name__
        return function(*args, **(kwargs or {}))


def near(actual, due):
    error, largest = (actual - due).abs().max(), due.abs().max()
    assert error <= TOLERANCE * largest, f"{error} of {largest}"


def check(name, layout, run=lambda model: model):
    """A replaced model, which may run compiled, beside the native one."""
    native = made(name, layout)
    replaced = axisnorm.torch.replace(copy.deepcopy(native))
    keys = list(native.state_dict())
    inputs, target = data(name, layout)
    assert list(replaced.state_dict()) == keys
    near(inference(run(replaced), inputs), inference(native, inputs))
    due = train(native, inputs, target)
    assert min(due) < 0.98 * due[0]
    assert train(run(replaced), inputs, target) == pytest.approx(due, rel=TOLERANCE)
    assert list(replaced.state_dict()) == keys
    native.load_state_dict(replaced.state_dict())
    near(inference(run(replaced), inputs), inference(native, inputs))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_eager(name, layout):
    check(name, layout)


@pytest.mark.parametrize("name", MODELS)
def test_all_is_replaced(name):
    model, (inputs, target) = axisnorm.torch.replace(made(name, "contiguous")), data(name, "contiguous")
    assert len(normalizations(model)) == NORMALIZATIONS[name]
    with Operators() as ran:
        result(model.train(), inputs).sum().backward()
    assert ran.ours == 2 * NORMALIZATIONS[name] and ran.native == 0
    native = axisnorm.torch.restore(model)
    with Operators() as ran:
        result(native, inputs).sum().backward()
    assert ran.ours == 0 and ran.native == 2 * NORMALIZATIONS[name]


def compiles(name, layout, backend):
    """In short runs each architecture goes through the tracers, and one through the C++ compiler."""
    short = {"resnet": "channels_last", "unet": "channels_last",
             "convnext": "contiguous", "vit": "contiguous"}
    return FULL or short.get(name) == layout and (backend == "aot_eager" or name == "convnext")


@pytest.mark.parametrize(("name", "layout", "backend"), [
    (name, layout, backend) for name in MODELS for layout in LAYOUTS for backend in ("aot_eager", "inductor")
    if compiles(name, layout, backend)])
def test_compiled(name, layout, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++")
    torch._dynamo.reset()
    check(name, layout, lambda model: torch.compile(model, backend=backend, fullgraph=True))
