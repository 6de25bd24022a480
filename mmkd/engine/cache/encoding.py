"""Encodings: what a column keeps of each row, and how the values come back from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mmkd.errors import CacheError

if TYPE_CHECKING:
    from mmkd.engine.cache.column import Weighted

Shape = tuple[int, ...]
Parts = dict[str, Tensor]


class Encoding(Protocol):
    """Turns values `[N, *shape]` into parts `[N, ...]` of fixed width, and back."""

    def parts(self) -> dict[str, tuple[torch.dtype, Shape]]:
        """By name of a part: dtype and shape of one row of it."""

    def encode(self, values: Tensor | Weighted) -> Parts:
        """
        Raises:
            CacheError: the values cannot be kept in this way.
        """

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor: ...


class Plain:
    """The values themselves, in a dtype."""

    def __init__(self, shape: Shape, dtype: torch.dtype, stored: torch.dtype) -> None:
        self.shape, self.dtype, self.stored = shape, dtype, stored

    def parts(self) -> dict[str, tuple[torch.dtype, Shape]]:
        return {"values": (self.stored, self.shape)}

    def encode(self, values: Tensor | Weighted) -> Parts:
        assert isinstance(values, Tensor)
        kept = values.to(self.stored)
        if self.stored is torch.float16 and values.dtype is not torch.float16 and values.numel():
            low, high = (edge.item() for edge in values.aminmax())
            most = torch.finfo(torch.float16).max
            if math.isfinite(low) and math.isfinite(high) and max(-low, high) > most:
                what = f"{max(-low, high):.3g} is beyond what fp16 holds ({most:.0f})"
                raise CacheError(what, next="dtype: bf16, or fp32")
        return {"values": kept}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["values"].to(self.dtype)


class Scaled:
    """Integers of 8 bits, one scale for each row of the last dimension: `x = scale * q`, `scale = max |x| / 127`."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        if not shape or not dtype.is_floating_point:
            raise CacheError("int8 scales the last dimension of numbers with a fraction", next="dtype: fp32")
        self.shape, self.dtype = shape, dtype

    def parts(self) -> dict[str, tuple[torch.dtype, Shape]]:
        return {"values": (torch.int8, self.shape), "scale": (torch.float32, self.shape[:-1])}

    def encode(self, values: Tensor | Weighted) -> Parts:
        assert isinstance(values, Tensor)
        values = values.float()
        size = values.abs().amax(-1) if self.shape[-1] else values.new_zeros(values.shape[:-1])
        if not size.isfinite().all():
            raise CacheError("int8 cannot keep values that are not finite", next="dtype: fp32")
        scale = size / 127
        steps = (values / scale.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)).round_().clamp_(-127, 127)
        return {"values": steps.to(torch.int8), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return (parts["values"] * parts["scale"].unsqueeze(-1)).to(self.dtype)


class WeightedIds:
    """k classes with their log-probabilities and the log of the mass of all others together, in fp16.

    Logits come back as log-probabilities over all classes, the mass of the others spread evenly over them. That is
    biased: what the teacher says about classes beyond the k greatest is lost. Classes sampled by their importance
    (arXiv 2503.16870) are kept in the same way, given as `Weighted`.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, k: int) -> None:
        if not shape or not 0 < k <= shape[-1]:
            of = f"{shape[-1]} classes" if shape else "a value without classes"
            raise CacheError(f"cannot keep {k} of {of}", next="top_k: a number between 1 and that of the classes")
        self.lead, self.classes, self.dtype, self.k = shape[:-1], shape[-1], dtype, k
        self.ids = torch.uint16 if self.classes <= 1 << 16 else torch.uint32

    def parts(self) -> dict[str, tuple[torch.dtype, Shape]]:
        most = (*self.lead, self.k)
        return {"ids": (self.ids, most), "logs": (torch.float16, most), "rest": (torch.float16, self.lead)}

    def encode(self, values: Tensor | Weighted) -> Parts:
        if isinstance(values, Tensor):
            values = values.float()
            whole = values.logsumexp(-1)
            best, ids = values.topk(self.k, -1)
            logs = best - whole.unsqueeze(-1)
            rest = values.scatter(-1, ids, -math.inf).logsumexp(-1) - whole
        else:
            ids, logs, rest = values
        return {"ids": ids.cpu().to(self.ids), "logs": logs.to(torch.float16), "rest": rest.to(torch.float16)}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        others = max(1, self.classes - self.k)
        each = (parts["rest"].float() - math.log(others)).to(self.dtype).unsqueeze(-1)
        ids = parts["ids"].long() & (0xFFFF if self.ids is torch.uint16 else 0xFFFFFFFF)
        whole = each.expand(*each.shape[:-1], self.classes).contiguous()  # half the time of repeat
        return whole.scatter_(-1, ids, parts["logs"].to(self.dtype))
