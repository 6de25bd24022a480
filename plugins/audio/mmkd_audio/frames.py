"""Frames: which are no padding, when they are, and their mean."""

from __future__ import annotations

import torch
from torch import Tensor

MICROSECONDS = 1_000_000


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """1 for the first `lengths` of `size` frames, 0 for padding. Shape: `[B]` -> `[B, size]` int64."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None]).long()


def frame_times(batch: int, size: int, first: float, step: float, device: torch.device) -> Tensor:
    """When frames are centred: `first + i * step` seconds, in whole microseconds, which no cache rounds.

    Shape: -> `[batch, size]` int64.
    """
    made = (first + step * torch.arange(size, dtype=torch.float64, device=device)) * MICROSECONDS
    return made.round().long().expand(batch, size)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames of each sound. Shape: `[B, T, D]`, `[B, T]` -> `[B, D]`."""
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
