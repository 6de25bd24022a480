"""Where a class stands among the logits of its sample."""

from __future__ import annotations

from torch import Tensor


def rank(logits: Tensor, index: Tensor) -> Tensor:
    """Rank of class `index`, from 1. Ties and NaN count against it, so that equal logits rank last, not first.

    Shape: logits `[..., V]`, index `[...]` -> `[...]`.
    """
    own = logits.gather(-1, index.long().unsqueeze(-1))
    return (~(logits < own)).sum(-1)
