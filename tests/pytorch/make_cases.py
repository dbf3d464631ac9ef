#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes cases.h: what PyTorch's normalization modules compute, for test_pytorch.c.

    python3 make_cases.py > cases.h        (needs PyTorch 2.x; any machine gives the same inputs)

The modules run in float64 on inputs that float32 holds exactly (multiples of 1/64), so the numbers
are good to about 15 digits, and a float32 library is compared with the truth, not with another
float32 rounding. InstanceNorm has no cumulative average: it takes momentum=None for 0. What PyTorch
has no module for is made of the module that it is by definition: LayerNorm over the channels moved
last, BatchNorm on one ghost batch after the other.
"""
import torch
from torch import nn

BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
FIELDS = ("x", "grad_y", "scale", "shift", "running_mean", "running_variance", "y", "grad_x",
          "grad_scale", "grad_shift", "running_means", "running_variances")
INPUTS = FIELDS[:6]


def draw(generator, *shape, offset=0.0, spread=1.0):
    """Normal numbers on a grid of 1/64."""
    values = torch.randn(*shape, generator=generator, dtype=torch.float64) * spread + offset
    return torch.round(values * 64) / 64


class Positional(nn.LayerNorm):
    """Normalizes over the channels alone."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def ghost_of(batch_norm):
    """That BatchNorm class with the batch cut into ghost batches of `size` samples."""
    class Ghost(batch_norm):
        def forward(self, x):
            if not self.training:
                return super().forward(x)
            return torch.cat([super(Ghost, self).forward(part) for part in x.split(self.size)])
    return Ghost


def module_of(case):
    """The torch.nn module of a case, in float64."""
    channels = case["shape"][1]
    affine, eps = case["affine"], case["epsilon"]
    running = {"momentum": case["momentum"], "track_running_stats": case["tracks"]}
    if case["norm"] == "BATCH":
        module = BATCH[len(case["shape"])](channels, eps=eps, affine=affine, **running)
    elif case["norm"] == "GHOST_BATCH":
        module = ghost_of(BATCH[len(case["shape"])])(channels, eps=eps, affine=affine, **running)
        module.size = case["ghost_batch"]
    elif case["norm"] == "POSITIONAL":
        module = Positional(channels, eps=eps, elementwise_affine=affine)
    elif case["norm"] == "RMS":
        module = nn.RMSNorm(case["shape"][case["axis"]:], eps=eps, elementwise_affine=affine)
    elif case["norm"] == "INSTANCE":
        module = INSTANCE[len(case["shape"])](channels, eps=eps, affine=affine, **running)
    elif case["norm"] == "GROUP":
        module = nn.GroupNorm(case["groups"], channels, eps=eps, affine=affine)
    else:
        module = nn.LayerNorm(case["shape"][case["axis"]:], eps=eps, elementwise_affine=affine)
    return module.double()


def set_parameters(module, generator, data):
    if module.weight is None:
        return
    data["scale"] = draw(generator, *module.weight.shape, offset=1.0, spread=0.5)
    with torch.no_grad():
        module.weight.copy_(data["scale"])
    if bias_of(module) is None:
        return
    data["shift"] = draw(generator, *module.bias.shape)
    with torch.no_grad():
        module.bias.copy_(data["shift"])


def bias_of(module):
    return getattr(module, "bias", None)


def set_running(module, generator, case, data):
    """Frozen statistics that float32 holds; while training, PyTorch's own 0 and 1."""
    if case["frozen"]:
        module.running_mean.copy_(draw(generator, *module.running_mean.shape, offset=0.5))
        module.running_var.copy_(0.25 + draw(generator, *module.running_var.shape).abs())
        module.eval()
    data["running_mean"] = module.running_mean.clone()
    data["running_variance"] = module.running_var.clone()


def run(case, seed):
    """All inputs and results of a case by name."""
    generator = torch.Generator().manual_seed(seed)
    module, data = module_of(case), {}
    set_parameters(module, generator, data)
    if case["tracks"]:
        set_running(module, generator, case, data)
    means, variances, inputs = [], [], []
    for step in range(case["steps"]):
        x = draw(generator, *case["shape"], offset=case["offset"] + step, spread=1.5)
        inputs.append(x)
        x = x.clone().requires_grad_()
        y = module(x)
        if case["tracks"]:
            means.append(module.running_mean.clone())
            variances.append(module.running_var.clone())
    data["grad_y"] = draw(generator, *case["shape"])
    y.backward(data["grad_y"])
    data.update(x=torch.stack(inputs), y=y.detach(), grad_x=x.grad)
    if module.weight is not None:
        data.update(grad_scale=module.weight.grad)
    if bias_of(module) is not None:
        data.update(grad_shift=module.bias.grad)
    if case["tracks"] and not case["frozen"]:
        data.update(running_means=torch.stack(means), running_variances=torch.stack(variances))
    return data


def case_of(norm, shape, **options):
    case = dict(norm=norm, shape=shape, groups=0, ghost_batch=0, axis=1, epsilon=1e-5, momentum=0.1, affine=True,
                tracks=False, frozen=False, steps=1, offset=0.0)
    case.update(options)
    return case


def all_cases():
    shapes = [(7, 5), (3, 3, 5), (2, 4, 2, 3), (2, 3, 2, 2, 2)]
    for shape in shapes:
        yield case_of("BATCH", shape, tracks=True, steps=3)
        yield case_of("BATCH", shape, tracks=True, frozen=True)
        yield case_of("GROUP", (shape[0], 6) + shape[2:], groups=3, offset=2.0)
        yield case_of("LAYER", shape)
        yield case_of("LAYER", shape, axis=len(shape) - 1, affine=False, offset=-3.0)
        if len(shape) > 2:
            yield case_of("INSTANCE", shape)
            yield case_of("INSTANCE", shape, tracks=True, steps=3)
            yield case_of("INSTANCE", shape, tracks=True, frozen=True)
            yield case_of("LAYER", shape, axis=2, epsilon=1e-3)
    yield case_of("BATCH", (4, 3, 3, 3), tracks=True, steps=4, momentum=0.3, offset=10.0)
    yield case_of("BATCH", (4, 3, 3, 3), tracks=True, steps=4, momentum=None, affine=False)
    yield case_of("BATCH", (2, 4), tracks=True, steps=4, momentum=None, epsilon=1e-3)
    yield case_of("BATCH", (3, 2, 9), affine=False, offset=1000.0)
    yield case_of("INSTANCE", (2, 3, 7), tracks=True, steps=4, momentum=0.3, affine=False)
    yield case_of("INSTANCE", (2, 3, 3, 3), affine=False, offset=1000.0)
    yield case_of("GROUP", (3, 8), groups=2, offset=100.0)
    yield case_of("GROUP", (2, 4, 5), groups=4, affine=False)
    yield case_of("GROUP", (2, 4, 3, 3), groups=1, epsilon=0.1)
    yield case_of("LAYER", (3, 33), offset=1000.0)
    yield case_of("LAYER", (2, 3, 4), axis=0, offset=5.0)
    for shape in shapes:
        yield case_of("RMS", shape, offset=1.0)
        yield case_of("RMS", shape, axis=len(shape) - 1, affine=False, offset=-3.0)
        yield case_of("POSITIONAL", shape, offset=2.0)
        whole = (4,) + shape[1:]
        yield case_of("GHOST_BATCH", whole, ghost_batch=2, tracks=True, steps=3)
        yield case_of("GHOST_BATCH", whole, ghost_batch=2, tracks=True, frozen=True)
    yield case_of("RMS", (3, 33), offset=1000.0)
    yield case_of("RMS", (2, 3, 4), axis=0, epsilon=0.1)
    yield case_of("RMS", (2, 3, 4, 2), axis=2)
    yield case_of("POSITIONAL", (2, 5, 3, 3), affine=False, offset=1000.0)
    yield case_of("GHOST_BATCH", (6, 3, 5), ghost_batch=2, tracks=True, steps=4, momentum=None)
    yield case_of("GHOST_BATCH", (6, 3, 2, 2), ghost_batch=3, affine=False, offset=1000.0)


def print_array(name, values, is_input):
    numbers = [float(value) for value in values.flatten()]
    assert not is_input or all(float(torch.tensor(v, dtype=torch.float32)) == v for v in numbers)
    texts = [trim(value.hex()) + ("f" if is_input else "") for value in numbers]
    print(f"static const {'float' if is_input else 'double'} {name}[] = {{")
    line = "   "
    for text in texts:
        if len(line) + len(text) > 96:
            print(line)
            line = "   "
        line += " " + text + ","
    print(line + "\n};")


def trim(text):
    """0x1.8000000000000p+1 is 0x1.8p+1."""
    mantissa, exponent = text.split("p")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + "p" + exponent


def print_case(number, case, data):
    rank = len(case["shape"])
    pointers = ", ".join(f"c{number}_{f}" if f in data else "NULL" for f in FIELDS)
    momentum = -1.0 if case["momentum"] is None else case["momentum"]
    per_element = case["norm"] in ("LAYER", "RMS") and case["affine"]
    shape = ", ".join(str(extent) for extent in case["shape"])
    return (f"    {{AXN_{case['norm']}_NORM, {rank}, {{{shape}}}, {case['groups']}, "
            f"{case['ghost_batch']}, {case['axis']}, AXN_PARAMETERS_PER_{'ELEMENT' if per_element else 'CHANNEL'},\n"
            f"     {case['epsilon']}, {momentum}, {case['steps']}, {int(case['frozen'])},\n"
            f"     {pointers}}},")


def main():
    print("/* SPDX-License-Identifier: MIT */")
    print(f"/* Made by make_cases.py with PyTorch {torch.__version__}, in float64 on inputs that "
          "float32\n * holds exactly. Do not edit. */\n/* clang-format off */")
    rows = []
    for number, case in enumerate(all_cases()):
        data = run(case, 1000 + number)
        for field in FIELDS:
            if field in data:
                print_array(f"c{number}_{field}", data[field], field in INPUTS)
        rows.append(print_case(number, case, data))
    print("\nstatic const pytorch_case pytorch_cases[] = {")
    print("\n".join(rows))
    print("};")


if __name__ == "__main__":
    main()
