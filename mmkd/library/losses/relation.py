"""Relations among the samples of a batch: products, and losses over them a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmkd.errors import GraphError
from mmkd.library.losses.port import widen

MAX_CELLS = 2**22
"""Cells of a relation matrix that are held for the backward pass on a CPU: 16 MiB in float32. A GPU holds 16 times
as many."""


def flat(component: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both values as one widened vector per sample; their widths may differ.

    Shape: student `[B, ...]`, teacher `[B, ...]` -> `[B, D]`, `[B, E]`.

    Raises:
        GraphError: they are not values of the same number of samples.
    """
    if not student.dim() or not teacher.dim() or len(student) != len(teacher):
        raise GraphError(
            f"student {list(student.shape)} and teacher {list(teacher.shape)} are not the same samples", where=component
        )
    return _vectors(student), _vectors(teacher)


def _vectors(value: Tensor) -> Tensor:
    return widen(value.flatten(1) if value.dim() > 1 else value[:, None])


def products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of every row of `a` with every row of `b`, not in half precision even under autocast.

    Shape: a `[..., N, D]`, b `[..., M, D]` -> `[..., N, M]`.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT


def by_rows(loss: Callable[[slice], Tensor], value: Tensor, cells: int, limit: int | None = None) -> Tensor:
    """`loss(rows)` for all rows of `value`, joined, holding a bounded part of the relation for the backward pass.

    Where the whole does not fit, it is done in slices that the backward pass computes again, one at a time.

    Args:
        loss: from a slice of the rows to one result per row.
        cells: cells of the relation that belong to one row.
        limit: cells to be held, `MAX_CELLS` unless given.
    """
    held = (MAX_CELLS if limit is None else limit) * (1 if value.device.type == "cpu" else 16)
    size = max(1, held // max(1, cells))
    if len(value) <= size:
        return loss(slice(0, len(value)))
    parts = [slice(first, first + size) for first in range(0, len(value), size)]
    return torch.cat([checkpoint(loss, part, use_reentrant=False, preserve_rng_state=False) for part in parts])
