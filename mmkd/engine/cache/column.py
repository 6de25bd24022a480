"""Columns of a cache: one value of every row, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmkd.engine.cache.encoding import Encoding, Plain, Scaled, WeightedIds
from mmkd.errors import CacheError

Stored = Literal["same", "fp32", "fp16", "bf16", "int8", "top_k"]

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Weighted(NamedTuple):
    """Classes and their log-probabilities, of whatever provenance; what a `top_k` column keeps in place of logits."""

    ids: Tensor
    """`[N, ..., k]` integers, no class twice."""
    logs: Tensor
    """`[N, ..., k]` log-probabilities."""
    rest: Tensor
    """`[N, ...]` log of the mass of all other classes together; -inf where there is none."""


@dataclass(frozen=True)
class Column:
    """One value of every row.

    Args:
        shape: of one row, without the batch dimension. In a ragged column its first entry says nothing.
        dtype: of the network's own values, which reading gives back.
        stored: `same` keeps the dtype, as every other does with values that are no floats; `int8` has one float32 scale
            for each row of the last dimension; `top_k` keeps the `k` greatest log-probabilities of the last dimension
            and the mass of the others, and gives back log-probabilities of all classes.
        ragged: rows differ in their first dimension (dimension 1 of a batch); only their true lengths are kept.
        k: classes kept where `stored` is `top_k`.
        provenance: how the classes were chosen, for who reads the cache.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    stored: Stored = "same"
    ragged: bool = False
    k: int = 0
    provenance: str = "top_k"

    def __post_init__(self) -> None:
        if self.ragged and not self.shape:
            raise CacheError("a value without dimensions is not ragged")
        if self.ragged:
            object.__setattr__(self, "shape", (0, *self.shape[1:]))

    @classmethod
    def of(cls, batch: Tensor, stored: Stored = "same", *, ragged: bool = False, k: int = 0) -> Column:
        """The column of values like those of an example batch `[B, ...]`."""
        return cls(tuple(batch.shape[1:]), batch.dtype, stored, ragged, k)

    @property
    def inner(self) -> tuple[int, ...]:
        """Shape of what is encoded as one: a row, or a token of a ragged row."""
        return self.shape[1:] if self.ragged else self.shape

    @cached_property
    def encoding(self) -> Encoding:
        if self.stored == "top_k":
            return WeightedIds(self.inner, self.dtype, self.k)
        if self.stored == "int8":
            return Scaled(self.inner, self.dtype)
        kept = FLOATS[self.stored] if self.stored != "same" and self.dtype.is_floating_point else self.dtype
        return Plain(self.inner, self.dtype, kept)

    @cached_property
    def width(self) -> int:
        """Bytes of a row, or of a token of a ragged row."""
        return sum(_bytes(dtype, shape) for dtype, shape in self.encoding.parts().values())

    def describe(self) -> str:
        """What is stored, and its bytes."""
        kinds = " + ".join(str(dtype).removeprefix("torch.") for dtype, _ in self.encoding.parts().values())
        if self.stored == "top_k":
            tokens = self.encoding.parts()["rest"][1]
            each = self.width // max(1, torch.Size(tokens).numel())
            return f"{self.k} of {self.inner[-1]} classes ({kinds}), {each:,} B/token (DistillKit: 114-300)"
        whole = torch.Size(self.inner).numel()
        return f"{list(self.inner)} {kinds}, {self.width:,} B/{'token' if self.ragged else 'row'} ({whole:,} numbers)"

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Column:
        dtype = getattr(torch, document["dtype"])
        return cls(**{**document, "shape": tuple(document["shape"]), "dtype": dtype})


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * torch.Size(shape).numel()
