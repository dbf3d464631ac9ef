# SPDX-License-Identifier: MIT
"""Whole models: which modules compute on axisnorm, and which activations are in their pass."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import copy
from functools import cache
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, fx, nn

from . import _modules
from ._calls import is_called_plainly, is_watched, may_overwrite, noted, noting
from ._functions import Activation
from ._modules import Normalization
from ._subclasses import original, stand_in

Model = TypeVar("Model", bound=nn.Module)

_OURS: dict[type[nn.Module], type[Normalization]] = {
    getattr(nn, name): getattr(_modules, name)
    for name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d",
                 "InstanceNorm3d", "LayerNorm", "RMSNorm", "GroupNorm")
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def _activation_of(module: nn.Module) -> tuple[Activation, float] | None:
    """Its name and negative slope, of modules that are exactly one of PyTorch's."""
    kind: Any = type(module)
    if kind is nn.ReLU:
        return "relu", 0.0
    if kind is nn.LeakyReLU:
        slope: Any = module.negative_slope
        return ("leaky-relu", slope) if math.isfinite(slope) else None
    if kind is nn.SiLU:
        return "silu", 0.0
    if kind is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu-tanh", 0.0
    return None


def _fusible(norm: Any, following: nn.Module) -> tuple[Activation, float] | None:
    """The activation that a normalization can take over from the module that is called with its output."""
    if type(norm) not in _THEIRS or norm.activation is not None:
        return None
    activation = _activation_of(following)
    return activation if activation and is_called_plainly(norm) and is_called_plainly(following) else None


class _Fusing(nn.Sequential):
    """nn.Sequential that lets normalizations do the activations after them. The modules stay what they are;
    what can be fused is looked up in each call, so that hooks, slices and changes count."""

    def forward(self, input: Tensor) -> Tensor:
        modules: list[Any] = list(self)
        place, source = 0, None
        watched = is_watched()
        while place < len(modules):
            module, following = modules[place], modules[place + 1:place + 2]
            fused = None if watched or not following else _fusible(module, following[0])
            inplace = source is not None and type(module) in _THEIRS and may_overwrite(module, source)
            if fused is not None:
                input = module.forward(input, None, *fused, inplace)
                place += 1
            elif inplace:
                input = module.forward(input, inplace=True)
            else:
                input = module(input)
            source = module
            place += 1
        return input

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (_original(type(self)),), *super().__reduce_ex__(protocol)[2:]


@cache
def _fusing(kind: Any) -> type[nn.Module]:
    """A subclass of a Sequential, which computes fused."""
    return type(kind.__name__, (_Fusing, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _original(kind: type[nn.Module]) -> type[nn.Module]:
    return kind.__bases__[1]


def _rebuild(kind: type[nn.Module]) -> nn.Module:
    fusing = _fusing(kind)
    return fusing.__new__(fusing)


_OWN_WAYS = {"forward", "__call__", "__reduce__", "__reduce_ex__", "__init_subclass__"}


def _is_sequential(module: nn.Module) -> bool:
    """Whether it calls its modules one after the other as nn.Sequential does, and a subclass of its class can."""
    kind = type(module)
    bases = set(kind.__mro__) - {nn.Sequential, nn.Module, object}
    return (isinstance(module, nn.Sequential) and not isinstance(module, _Fusing) and type(kind) is type
            and not any(_OWN_WAYS & vars(base).keys() for base in bases))


# By tracing: the activations that a normalization has taken over, which stay where they are, as identities.


class _Passing:
    def forward(self, input: Tensor) -> Tensor:
        return input


_PASSING: dict[type[nn.Module], type[nn.Module]] = {}
for _kind in (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU):
    _name = f"_Passing{_kind.__name__}"
    _PASSING[_kind] = globals()[_name] = type(_name, (_Passing, _kind), {"__module__": __name__})
_PASSED = {passing: kind for kind, passing in _PASSING.items()}


class _Children(fx.Tracer):
    """Records the calls of a module's own modules, without going into these."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _double(parent: nn.Module) -> nn.Module:
    """The same modules and parameters in a module that takes what a forward notes or counts in itself."""
    double = copy(parent)
    for name in ("_modules", "_parameters"):
        setattr(double, name, getattr(parent, name).copy())
    double._buffers = {name: None if buffer is None else buffer.clone()
                       for name, buffer in parent._buffers.items()}
    return double


def _trace(parent: nn.Module, training: bool, fixed: dict[str, None]) -> fx.Graph | None:
    """What a call records, with these arguments; None if it cannot be traced, whatever it does."""
    modes = {module: module.training for module in parent.modules()}
    for module in modes:
        module.training = training
    try:
        double = _double(parent)
        graph = _Children().trace(double, fixed)
    except Exception:
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode
    for value in vars(double).values():  # what the forward keeps is used there too
        if isinstance(value, fx.Proxy):
            graph.call_function(id, (value.node,))
    return graph


def _pairs_in(graph: fx.Graph) -> set[tuple[str, str]]:
    """Names of modules, and of those that are called with their outputs and nothing else."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    return {
        (str(first.target), str(node.target)) for node in calls for first in node.args
        if isinstance(first, fx.Node) and first.op == "call_module" and len(first.args) == 1 and not first.kwargs
        and len(node.args) == 1 and not node.kwargs and list(first.users) == [node]
        and times[first.target] == times[node.target] == 1}


def _pairs_of(parent: nn.Module) -> set[tuple[str, str]]:
    """Those that traces in training and in evaluation have in common, with and without arguments that may be None.
    Without them there may be no call."""
    graphs = [_trace(parent, training, {}) for training in (True, False)]
    if None in graphs:
        return set()
    parameters = inspect.signature(parent.forward).parameters.values()
    absent = {parameter.name: None for parameter in parameters if parameter.default is None}
    if absent:
        graphs += [_trace(parent, training, absent) for training in (True, False)]
    return set.intersection(*(_pairs_in(graph) for graph in graphs if graph is not None))


def _traced_pairs(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Modules, one called with the output of the other, each registered once in the model."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for parent in model.modules():
        kinds = [type(child) for child in parent.children()]
        if isinstance(parent, nn.Sequential) or not any(kind in _THEIRS for kind in kinds):
            continue
        if "forward" in parent.__dict__:  # torch.fx would trace that of its class
            continue
        for names in sorted(_pairs_of(parent)):
            first, following = map(parent.get_submodule, names)
            if places[id(first)] == places[id(following)] == 1:
                yield first, following


def _fuse_traced(model: nn.Module) -> None:
    for first, following in list(_traced_pairs(model)):
        fused = _fusible(first, following)
        if fused is not None:
            first.activation, first.negative_slope = fused
            first.__dict__["_took_over"] = following  # not one of its modules
            following.__class__ = _PASSING[type(following)]
        elif type(following) in _THEIRS and (kind := noting(type(first))) is not None:
            first.__class__ = kind
            following.__dict__["_source"] = first  # not one of its modules either


def replace(model: Model, fuse: bool | str = False) -> Model:
    """Lets the normalization modules of a model, in place, compute on axisnorm; returns the model.

    Only classes change: parameters, buffers, hooks, and what an optimizer holds of them stay. In a subclass of
    PyTorch's, axisnorm computes what it inherits or leaves to super(); what it computes itself it goes on
    computing. Modules of other classes are left alone. `report` tells what was done.

    Args:
        fuse: True: in nn.Sequential, a ReLU, LeakyReLU, SiLU or GELU that comes directly after a normalization
            is computed in its pass; and where gradients are disabled, a normalization directly after a
            convolution or nn.Linear writes over what that returned. "trace": also where torch.fx sees a module
            call one with the output of the other, which it uses for nothing else; it records calls in training
            and in evaluation, with arguments that may be None and without, so the module must not choose by
            anything else what it calls. Modules with hooks are not fused.
    """
    if fuse not in (False, True, "trace"):
        raise ValueError(f"fuse: {fuse!r} is not False, True or 'trace'")
    module: Any
    for module in model.modules():
        kind = _OURS.get(type(module)) or stand_in(type(module), _OURS)
        if kind is not None:
            module.__class__ = kind
        elif fuse and _is_sequential(module):
            module.__class__ = _fusing(type(module))
    if fuse == "trace":
        _fuse_traced(model)
    return model


def restore(model: Model) -> Model:
    """Undoes `replace`. Modules that were made with an activation of their own stay."""
    module: Any
    for module in model.modules():
        module.__dict__.pop("_source", None)
        if type(module) in _THEIRS and "_took_over" in module.__dict__:
            for name in ("_took_over", "activation", "negative_slope"):
                del module.__dict__[name]
        if isinstance(module, _Fusing):
            module.__class__ = _original(type(module))
        elif (kind := _PASSED.get(type(module)) or noted(type(module))) is not None:
            module.__class__ = kind
        elif type(module) in _THEIRS and module.activation is None:
            module.__class__ = _THEIRS[type(module)]
        elif (kind := original(type(module))) is not None:
            module.__class__ = kind
    return model


class Report(NamedTuple):
    """What of a model computes on axisnorm, by the names of `named_modules`."""

    replaced: list[str]
    fused: list[tuple[str, str]]  # normalizations, and the activations in their pass


def report(model: nn.Module) -> Report:
    """Which modules compute on axisnorm, and which activations go with them."""
    names = {module: name for name, module in model.named_modules()}
    replaced = [name for module, name in names.items() if isinstance(module, Normalization)]
    return Report(replaced, [(names[norm], names[following]) for norm, following in _fused_in(names)])


def _fused_in(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    for module in modules:
        if "_took_over" in module.__dict__:
            yield module, module.__dict__["_took_over"]
        if isinstance(module, _Fusing):
            inner = list(module)
            yield from ((norm, following) for norm, following in zip(inner, inner[1:])
                        if _fusible(norm, following))
