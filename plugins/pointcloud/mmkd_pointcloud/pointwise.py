"""Layers that treat every point alike."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Pointwise(nn.Module):
    """A linear map of the last dimension, BatchNorm over everything else, and a ReLU: a 1x1 convolution.

    Shape: `[..., inputs]` -> `[..., outputs]`.
    """

    def __init__(self, inputs: int, outputs: int, activation: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.linear(x).flatten(0, -2))
        return self.activation(y).view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]


def pointwise(widths: Sequence[int]) -> nn.Sequential:
    """One `Pointwise` from each width to the next."""
    return nn.Sequential(*(Pointwise(a, b) for a, b in itertools.pairwise(widths)))


class Readout(nn.Module):
    """What a network of points says: of the whole cloud, and of each point in the light of the whole.

    Shape: local `[B, N, C]`, pooled `[B, G]` -> embedding `[B, dim]`, tokens `[B, N, token_dim]`, and logits
        `[B, classes]` or, where `per_point`, `[B, N, classes]`.
    """

    def __init__(
        self, local: int, pooled: int, dim: int, token_dim: int, num_classes: int | None, per_point: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Sequential(Pointwise(pooled, dim), nn.Linear(dim, dim))
        self.tokens = nn.Sequential(Pointwise(local + pooled, token_dim), nn.Linear(token_dim, token_dim))
        self.per_point = per_point
        self.head = nn.Linear(token_dim if per_point else dim, num_classes) if num_classes else None

    def forward(self, local: Tensor, pooled: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Those values that are wanted."""
        values: dict[str, Tensor] = {}
        logits = self.head is not None and "logits" in wanted
        if "tokens" in wanted or (logits and self.per_point):
            whole = pooled[:, None].expand(-1, local.shape[1], -1)
            values["tokens"] = self.tokens(torch.cat([local, whole], -1))
        if "embedding" in wanted or (logits and not self.per_point):
            values["embedding"] = self.embedding(pooled)
        if logits and self.head is not None:
            values["logits"] = self.head(values["tokens" if self.per_point else "embedding"])
        return values
