"""The layout of a cache: which file holds what, and which rows make up a block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkd.engine.cache.column import Column

FORMAT = 1
CHUNK = 1 << 16
"""Bytes under one checksum."""
BYTES, ROWS = 16 << 20, 4096
"""Of a block, at most."""
LEAST, MOST = 16, 4096
"""Blocks of a cache, about: enough of them for all who write, few enough to look at each on opening."""

_MAPPED = {torch.uint16: torch.int16, torch.uint32: torch.int32}
"""Dtypes that torch gathers as the signed ones of the same bits."""


@dataclass(frozen=True)
class Part:
    """A file of one fixed-width part of a column: an entry for each row, or for each token of ragged rows."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    heap: bool = False
    """Whether its entries are tokens; blocks lie in it in whatever order they came."""

    @cached_property
    def width(self) -> int:
        """Bytes of an entry."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def mapped(self) -> torch.dtype:
        return _MAPPED.get(self.dtype, self.dtype)


@dataclass(frozen=True)
class Layout:
    """How many rows, in blocks of how many, and the columns of them.

    Args:
        columns: by address.
        samples: how many; `keys` is the sha256 of their keys.
        replicas: rows of each sample.
        block: rows of a block, the unit of claiming, checking and going on.
        created: seconds since the epoch.
    """

    columns: Mapping[str, Column]
    samples: int
    keys: str
    replicas: int
    block: int
    created: float

    @property
    def rows(self) -> int:
        return self.samples * self.replicas

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)

    def block_rows(self, index: int) -> range:
        return range(index * self.block, min(self.rows, (index + 1) * self.block))

    @cached_property
    def parts(self) -> dict[str, dict[str, Part]]:
        """By address and name of a part; a ragged column has `spans` beside its encoding's: begin and length of each
        row, in tokens."""
        found: dict[str, dict[str, Part]] = {}
        for number, (address, column) in enumerate(self.columns.items()):
            stem = f"{number:02d}-{re.sub(r'[^A-Za-z0-9.@_-]+', '-', address)[:60]}"
            found[address] = {
                name: Part(f"{stem}.{name}.{str(dtype).removeprefix('torch.')}", dtype, shape, column.ragged)
                for name, (dtype, shape) in column.encoding.parts().items()
            }
            if column.ragged:
                found[address]["spans"] = Part(f"{stem}.spans.int64", torch.int64, (2,))
        return found

    @property
    def files(self) -> list[Part]:
        return [part for parts in self.parts.values() for part in parts.values()]

    def size(self, part: Part) -> int:
        """Bytes of the file of a part from the beginning on; one of tokens grows."""
        return 0 if part.heap else self.rows * part.width

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "columns": [[address, column.document()] for address, column in self.columns.items()],
            "samples": self.samples, "keys": self.keys, "replicas": self.replicas, "block": self.block,
            "created": self.created,
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Layout:
        columns = {address: Column.from_document(column) for address, column in document["columns"]}
        rest = {name: document[name] for name in ("samples", "keys", "replicas", "block", "created")}
        return cls(columns, **rest)


def block_size(columns: Mapping[str, Column], rows: int, batch: int) -> int:
    """Rows of a block, a multiple of a batch."""
    width = max(1, sum(column.width for column in columns.values()))
    wanted = max(min(ROWS, BYTES // width, rows // LEAST), rows // MOST)
    return max(1, -(-wanted // batch)) * batch


def mapped(path: str, part: Part, entries: int) -> Tensor:
    """The first entries of a file as a tensor `[entries, *shape]`, read when it is touched; never written."""
    count = entries * torch.Size(part.shape).numel()
    if not count:
        return torch.empty(entries, *part.shape, dtype=part.mapped)
    raw = np.memmap(path, dtype=np.uint8, mode="c", shape=(entries * part.width,))
    return torch.from_numpy(raw).view(part.mapped).view(entries, *part.shape)
