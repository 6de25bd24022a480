"""Values brought to mean zero and variance one."""

from __future__ import annotations

from torch import Tensor


def z_score(value: Tensor, dim: int, epsilon: float = 1e-6) -> Tensor:
    """`(x - mean) / sqrt(variance + epsilon)` over one dimension, the variance being that of a population.

    Shape: `[...]` -> the same; a constant becomes zero.
    """
    centred = value - value.mean(dim, keepdim=True)
    return centred * (centred.square().mean(dim, keepdim=True) + epsilon).rsqrt()
