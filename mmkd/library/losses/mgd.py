"""Masked generative distillation."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.feature_map import example_maps
from mmkd.library.losses.port import same_shape


class MaskedGeneration(Loss):
    """Make the teacher's whole map out of the student's with parts blanked out, MGD (Yang et al., 2022).

    `mean_d (G(mask * student)_d - teacher_d)^2`. The mask is drawn anew for every sample in every pass, from torch's
    global generator: each `position` (all its channels), or each `channel`, is zero with probability `ratio`. The
    generator G, two 3x3 convolutions with a ReLU between, belongs to the loss and is dropped at export. At `ratio` 0
    nothing is random.

    The authors add up over features instead of averaging: with maps of N features their weight is this one's divided
    by N. They blank positions in dense tasks (0.45 to 0.75) and channels in classification (0.15).

    Shape: student, teacher `[B, C, H, W]` -> `[B]`.

    Raises:
        GraphError: the shapes differ, or are no maps.
        RecipeError: not set up.
    """

    def __init__(
        self,
        ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        blank: Literal["position", "channel"] = "position",
    ) -> None:
        super().__init__()
        self.ratio, self.blank = ratio, blank
        self.generator: nn.Module | None = None

    def setup(self, student: torch.Size, teacher: torch.Size) -> None:
        if len(teacher) != 4:
            raise GraphError(f"needs a map [B, C, H, W], not {list(teacher)}", where="core.mgd")
        width = teacher[1]
        self.generator = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.generator is None:
            raise RecipeError("has no generator yet", where="core.mgd", next="call setup(**shapes)")
        s, t = same_shape("core.mgd", student, teacher)
        if self.ratio > 0:
            batch, channels, *size = s.shape
            shape = (batch, 1, *size) if self.blank == "position" else (batch, channels, 1, 1)
            s = s * (torch.rand(shape, device=s.device) >= self.ratio)
        made: Tensor = self.generator(s)
        return (made - t).square().flatten(1).mean(1)

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 6)
