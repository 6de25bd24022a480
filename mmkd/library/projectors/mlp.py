"""A multi-layer perceptron over features."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd import Projector
from mmkd.errors import RecipeError
from mmkd.library.projectors.width import not_set_up, widths

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class MLPProjector(Projector):
    """Multi-layer perceptron from every feature vector to another width.

    `depth` hidden layers of `hidden` times the width of `like`, each `activation(norm(W x + b))`, then one linear
    map. The only norm is that over a single vector (`layer`), so that no sample sees another.

    Shape: input `[B, D]`, `[B, L, D]` or `[B, C, H, W]` -> the same with the width of `like`.

    Raises:
        GraphError: `like` has another layout, length or resolution, or `setup` was not called.
        RecipeError: the hidden layers would have no width.
    """

    def __init__(
        self,
        hidden: Annotated[float, Field(gt=0)] = 2.0,
        depth: Annotated[int, Field(ge=1)] = 1,
        activation: Literal["gelu", "relu", "silu"] = "gelu",
        norm: Literal["none", "layer"] = "none",
    ) -> None:
        super().__init__()
        self.hidden, self.depth, self.activation, self.norm = hidden, depth, activation, norm
        self.layers: nn.Sequential | None = None

    def setup(self, input: torch.Size, like: torch.Size) -> None:
        width, target = widths("core.mlp", input, like)
        if (hidden := round(self.hidden * target)) < 1:
            raise RecipeError(f"{self.hidden} times the width {target} leaves no hidden layer", where="core.mlp")
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            layers.append(nn.Linear(width, hidden))
            if self.norm == "layer":
                layers.append(nn.LayerNorm(hidden))
            layers.append(ACTIVATIONS[self.activation]())
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, target))

    def forward(self, input: Tensor) -> Tensor:
        if self.layers is None:
            raise not_set_up("core.mlp")
        if input.dim() == 4:
            channels_first: Tensor = self.layers(input.movedim(1, -1)).movedim(-1, 1)
            return channels_first
        projected: Tensor = self.layers(input)
        return projected
