"""Correlation between two orders of the same classes."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd.library.metrics.chunk import MAX_CELLS


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rho of every two rows: Pearson's correlation of their ranks, those of ties averaged.

    A row whose entries are all equal has no order: its correlation is 0.

    Shape: a, b `[B, V]` -> `[B]`.
    """
    a, b = (ranks - ranks.mean(1, keepdim=True) for ranks in (_ranks(a), _ranks(b)))
    return _ratio((a * b).sum(1), a.square().sum(1), b.square().sum(1))


def kendall(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b of every two rows: `(C - D) / sqrt((P - T_a)(P - T_b))` over the P pairs of entries.

    C pairs stand in the same order in both, D in opposite ones, T are tied. A row whose entries are all equal has
    no order: its correlation is 0.

    Shape: a, b `[B, V]` -> `[B]`.
    """
    size = max(1, MAX_CELLS // (8 * max(1, a.numel())))
    both, only_a, only_b = (a.new_zeros(len(a), dtype=torch.float64) for _ in range(3))
    for first in range(0, a.shape[1], size):
        x, y = (_signs(rows, slice(first, first + size)) for rows in (a, b))
        both += (x * y).sum((1, 2))
        only_a += x.square().sum((1, 2))
        only_b += y.square().sum((1, 2))
    return _ratio(both, only_a, only_b)


def _signs(rows: Tensor, part: slice) -> Tensor:
    """Sign of each of a part of the entries less every entry: `[B, V]` -> `[B, part, V]`."""
    own, all = rows[:, part, None], rows[:, None]
    return (own > all).double() - (own < all).double()


def _ranks(rows: Tensor) -> Tensor:
    """Ranks from 1 in float64, those of ties averaged."""
    ordered = rows.sort(1).values
    below, up_to = (torch.searchsorted(ordered, rows.contiguous(), side=side) for side in ("left", "right"))
    return (below + up_to + 1).double() / 2


def _ratio(product: Tensor, a: Tensor, b: Tensor) -> Tensor:
    scale = (a * b).sqrt()
    return torch.where(scale > 0, product / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0.0)
