"""Logits from a stage in the middle of a network."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd import Projector
from mmkd.errors import GraphError
from mmkd.library.projectors.width import not_set_up


class BranchProjector(Projector):
    """Exit branch: a stage's features to logits, where any two architectures compare (OFA: Hao et al., 2023).

    `depth` times `gelu(W x + b)` at every position or token, the mean over them (`pool: first` takes the first token
    alone), then a linear classifier. One branch per stage, each with a loss of its own (`core.ofa`, `core.kl`), all
    dropped at export. At `depth` 0 it is the auxiliary head of a deeply supervised network. The authors' branches of
    convolutional stages are depthwise-separable convolutions with strides instead of the layers at every position.

    Shape: input `[B, D]`, `[B, L, D]` or `[B, D, H, W]` -> that of `like`, `[B, V]`.

    Raises:
        GraphError: the layouts do not fit, or `setup` was not called.
    """

    def __init__(self, depth: Annotated[int, Field(ge=0)] = 1, pool: Literal["mean", "first"] = "mean") -> None:
        super().__init__()
        self.depth, self.pool = depth, pool
        self.classifier: nn.Module | None = None

    def setup(self, input: torch.Size, like: torch.Size) -> None:
        if len(input) not in (2, 3, 4) or len(like) != 2:
            raise GraphError(
                f"cannot branch from {list(input)} to {list(like)}",
                where="core.branch",
                exists=["[B, D], [B, L, D] or [B, D, H, W] to [B, V]"],
                next="like: teacher.logits",
            )
        width = input[1 if len(input) == 4 else -1]
        self.layers = nn.Sequential(*(x for _ in range(self.depth) for x in (nn.Linear(width, width), nn.GELU())))
        self.classifier = nn.Linear(width, like[1])

    def forward(self, input: Tensor) -> Tensor:
        if self.classifier is None:
            raise not_set_up("core.branch")
        features: Tensor = self.layers(input.flatten(2).mT if input.dim() == 4 else input)
        if features.dim() == 3:
            features = features.mean(1) if self.pool == "mean" else features[:, 0]
        logits: Tensor = self.classifier(features)
        return logits
