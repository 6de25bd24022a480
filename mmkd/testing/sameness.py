"""Whether two nested values are the same, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


def difference(a: Any, b: Any, *, tolerance: float = 0.0, place: str = "") -> str:
    """What differs first, and where; empty where nothing does. NaN equals NaN.

    Args:
        tolerance: relative and absolute, for floating numbers.
    """
    here = place or "it"
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _tensors(a, b, tolerance, here)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{here} is {b.dtype} {list(b.shape)}, not {a.dtype} {list(a.shape)}"
        if a.dtype.kind in "fc":
            equal = np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            equal = bool((a == b).all())
        return "" if equal else f"{here} differs"
    if isinstance(a, Image.Image) and isinstance(b, Image.Image):
        same = a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()
        return "" if same else f"{here} is another picture"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            extra = sorted(map(str, a.keys() ^ b.keys()))
            return f"{here} has {', '.join(extra[:5])} on one side only"
        pairs: Iterator[tuple[Any, Any, Any]] = ((key, a[key], b[key]) for key in a)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{here} has {len(b)} items, not {len(a)}"
        pairs = ((i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    elif isinstance(a, float) and isinstance(b, float):
        near = abs(a - b) <= tolerance * (1 + abs(a)) or a == b or (a != a and b != b)
        return "" if near else f"{here} is {b!r}, not {a!r}"
    elif type(a) is type(b) and hasattr(a, "__dict__") and "__eq__" not in _own(type(a)):
        return "" if a is b else difference(vars(a), vars(b), tolerance=tolerance, place=place)
    else:
        return "" if a is b or a == b else f"{here} is {b!r}, not {a!r}"
    for key, x, y in pairs:
        if found := difference(x, y, tolerance=tolerance, place=f"{place}.{key}" if place else str(key)):
            return found
    return ""


def _own(cls: type) -> set[str]:
    """What the class defines beyond `object`."""
    return {name for base in cls.__mro__[:-1] for name in vars(base)}


def _tensors(a: Tensor, b: Tensor, tolerance: float, here: str) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{here} is {b.dtype} {list(b.shape)}, not {a.dtype} {list(a.shape)}"
    a, b = a.detach(), b.detach()
    if not tolerance or not a.is_floating_point():
        equal = torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
        return "" if equal else f"{here} differs" + (f" by {_gap(a, b):.3g}" if a.is_floating_point() else "")
    scale = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
    if torch.allclose(a, b, rtol=tolerance, atol=tolerance * min(1.0, scale) + 1e-30, equal_nan=True):
        return ""
    return f"{here} differs by {_gap(a, b):.3g}"


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().nan_to_num().max()) if a.numel() else 0.0


def tensors(value: Any) -> list[Tensor]:
    """All tensors inside a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in tensors(item)]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [t for item in value for t in tensors(item)]
    return []


def mapped(function: Any, value: Any) -> Any:
    """The nested value with every tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(function, item) for item in value]
    return value


def inner_state(module: nn.Module) -> dict[str, Any]:
    """Everything a module remembers: tensors saved or not, and plain attributes, by place.

    What normalisation layers average in training is left out: that is theirs to do, and the host minds it.
    """
    state: dict[str, Any] = {}
    for path, inner in module.named_modules():
        prefix = f"{path}." if path else ""
        running = isinstance(inner, nn.modules.batchnorm._NormBase)
        for name, value in {**vars(inner), **inner._parameters, **({} if running else inner._buffers)}.items():
            if name not in _MACHINERY and not name.endswith("_hooks"):
                state[prefix + name] = value
    return state


_MACHINERY = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_hooks_with_kwargs", "wanted"}
