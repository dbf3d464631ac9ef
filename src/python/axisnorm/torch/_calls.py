# SPDX-License-Identifier: MIT
"""Calls of modules: whether one is its class's forward and no more, and whether what it returned may be
overwritten by the normalization that is called with it."""

from __future__ import annotations

import threading
from typing import Any
from weakref import ref

from torch import Tensor, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.nn.modules.module import _has_any_global_hook


def is_watched() -> bool:
    """Whether somebody looks on at the calls of all modules."""
    return _has_any_global_hook()


def is_called_plainly(module: nn.Module) -> bool:
    """Whether calling it is its class's forward, and nobody looks on."""
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or "forward" in module.__dict__
                or module.__dict__.get("_compiled_call_impl") is not None)


def _is_inference() -> bool:
    return not is_compiling() and not is_grad_enabled()


# Of modules that return a new tensor, and keep no hold of it, classes that note which one that was, so that a
# normalization after them does not take another one for it.

_latest = threading.local()


class _Noting:
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = super().forward(*args, **kwargs)  # type: ignore[misc]
        if _is_inference():
            _latest.source, _latest.output = ref(self), ref(output)
        return output


_NOTING: dict[type[nn.Module], type[nn.Module]] = {}
for _kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
              nn.Linear):
    _name = f"_Noting{_kind.__name__}"
    _NOTING[_kind] = globals()[_name] = type(_name, (_Noting, _kind), {"__module__": __name__})
_NOTED = {noting: kind for kind, noting in _NOTING.items()}


def noting(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that notes; None for modules whose output is not theirs to give away."""
    return _NOTING.get(kind)


def noted(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class in whose place this one is; None for others."""
    return _NOTED.get(kind)


def may_overwrite(norm: nn.Module, source: nn.Module) -> bool:
    """Whether norm may overwrite what source has just returned, and nothing else needs. Asked in each call, since
    hooks, which may keep tensors, come and go."""
    return (_is_inference() and (type(source) in _NOTING or type(source) in _NOTED) and is_called_plainly(source)
            and is_called_plainly(norm) and not is_watched())


def may_overwrite_latest(norm: nn.Module, source: nn.Module, input: Tensor) -> bool:
    """The same where input may also be something else than what source has just returned."""
    return (may_overwrite(norm, source) and hasattr(_latest, "output") and _latest.output() is input
            and _latest.source() is source)
