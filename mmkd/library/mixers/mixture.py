"""A mixture of distributions, written as logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.port import widen

LEAST = -1e30
"""Stands for the logarithm of zero, whose gradient would be NaN."""


def mixture(teachers: Sequence[Tensor], log_shares: Tensor, temperature: float) -> Tensor:
    """`T log sum_i w_i softmax(t_i / T)`: logits that, at temperature T, are the mixture of the softened teachers.

    A class that no teacher allows is `-inf`.

    Shape: teachers, n of `[..., V]`; log_shares `[n]` or `[..., n]`, log w -> `[..., V]`.
    """
    log_p = torch.stack([(teacher / temperature).log_softmax(-1) for teacher in teachers], -2).clamp(min=LEAST)
    mixed = (log_p + log_shares.unsqueeze(-1)).logsumexp(-2)
    return temperature * mixed.masked_fill(mixed < LEAST / 2, -torch.inf)


def alike(component: str, teachers: Sequence[Tensor]) -> list[Tensor]:
    """All teachers, widened.

    Raises:
        GraphError: there is none, or their shapes differ.
    """
    shapes = [list(teacher.shape) for teacher in teachers]
    if not shapes or shapes.count(shapes[0]) < len(shapes):
        raise GraphError(
            f"teachers must have one shape, not {', '.join(map(str, shapes)) or 'none at all'}", where=component,
            next="put a projector before those that differ",
        )  # fmt: skip
    return [widen(teacher) for teacher in teachers]
