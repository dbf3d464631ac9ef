# SPDX-License-Identifier: MIT
"""Subclasses that other packages make of torch.nn's normalizations: what they inherit computes on axisnorm.

A subclass gets a subclass of itself whose other base is ours, so that ours stands before PyTorch's where its
methods look for what they inherit, or call super()'s. What it computes itself stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from torch import Tensor, nn

from ._modules import Normalization

Kind = type[nn.Module]
# Methods of PyTorch's that ours do without, and parameters and buffers, which ours do not look for as attributes:
# in a subclass that has its own they would go unheard.
_UNHEARD = ("_apply_instance_norm", "_handle_no_batch_input", "weight", "bias", "running_mean", "running_var",
            "num_batches_tracked")


def stand_in(kind: Kind, classes: Mapping[Kind, type[Normalization]]) -> Kind | None:
    """The class for modules of a subclass of PyTorch's, of which classes has ours; None for others.

    PyTorch's own subclasses (quantized and parametrized modules) count on their exact class; those that hear of
    their subclasses would take the class for one.
    """
    hears = any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1])
    if hears or kind.__module__.startswith("torch."):
        return None
    for theirs, ours in classes.items():
        if issubclass(kind, theirs) and kind is not theirs and not issubclass(kind, ours):
            heard = all(getattr(kind, name, None) is getattr(theirs, name, None) for name in _UNHEARD)
            return _made(kind, ours) if heard else None
    return None


def original(kind: Kind) -> Kind | None:
    """The subclass for which this class stands in; None if it does not."""
    return kind.__bases__[0] if vars(kind).get("__reduce_ex__") is _reduce else None


class _Absent:
    """Hides a class's attribute: nn.Module looks for a parameter or module of that name."""

    def __set_name__(self, owner: Kind, name: str) -> None:
        self.name = name

    def __get__(self, module: nn.Module | None, owner: Kind) -> object:
        if module is None:
            raise AttributeError(self.name)
        return nn.Module.__getattr__(module, self.name)


@cache
def _plain(ours: type[Normalization]) -> Kind:
    """Ours without an activation, and without the names that ours add, which a subclass may use otherwise."""

    def forward(module: Normalization, input: Tensor) -> Tensor:
        return ours.forward(module, input, None, "none")

    def extra_repr(module: Normalization) -> str:
        return super(Normalization, module).extra_repr()

    return type(ours.__name__, (ours,), {
        "__module__": ours.__module__, "forward": forward, "extra_repr": extra_repr,
        **{name: _Absent() for name in ("activation", "negative_slope")}})


@cache
def _made(kind: Kind, ours: type[Normalization]) -> Kind:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind)(kind.__name__, (kind, _plain(ours)), {**names, "__reduce_ex__": _reduce})


def _reduce(module: nn.Module, _: object) -> tuple[object, ...]:
    """For pickle and copy, which could not find the class by its name: that is the subclass's."""
    kind, plain = type(module).__bases__
    return _new, (kind, plain.__bases__[0]), module.__getstate__()


def _new(kind: Kind, ours: type[Normalization]) -> nn.Module:
    made = _made(kind, ours)
    return made.__new__(made)
