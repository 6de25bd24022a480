"""A linear map of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmkd import Projector
from mmkd.library.projectors.width import not_set_up, widths


class LinearProjector(Projector):
    """Linear map of every feature vector to another width (the regressor of FitNets: Romero et al., 2015).

    `W x + b` on the last dimension, or on the channels of a feature map as a 1x1 convolution; `bias: false`
    leaves b out.

    Shape: input `[B, D]`, `[B, L, D]` or `[B, C, H, W]` -> the same with the width of `like`.

    Raises:
        GraphError: `like` has another layout, length or resolution, or `setup` was not called.
    """

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.bias = bias
        self.layer: nn.Module | None = None

    def setup(self, input: torch.Size, like: torch.Size) -> None:
        source, target = widths("core.linear", input, like)
        if len(input) == 4:
            self.layer = nn.Conv2d(source, target, 1, bias=self.bias)
        else:
            self.layer = nn.Linear(source, target, bias=self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if self.layer is None:
            raise not_set_up("core.linear")
        projected: Tensor = self.layer(input)
        return projected
