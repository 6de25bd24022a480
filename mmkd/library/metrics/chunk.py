"""Similarities of many rows, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MAX_CELLS = 2**24
"""Cells of a similarity matrix held at once: 64 MiB in float32."""


def chunks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers of `a` and their products with all rows of `b`, never more than `MAX_CELLS` at once.

    Shape: a `[N, D]`, b `[M, D]` -> (`[R]`, `[R, M]`), a few rows R at a time.
    """
    size = max(1, MAX_CELLS // len(b))
    for first in range(0, len(a), size):
        part = a[first : first + size]
        yield torch.arange(first, first + len(part), device=a.device), part @ b.T
