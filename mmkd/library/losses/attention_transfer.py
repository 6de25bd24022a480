"""Where in the image a network is active."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.feature_map import example_maps, feature_maps
from mmkd.library.losses.port import positive


class AttentionTransfer(Loss):
    """Match where two feature maps are active, AT (Zagoruyko and Komodakis, 2017).

    `|q_s - q_t|^2` with `q = Q / |Q|` and `Q_p = sum_c |F_cp|^power` the activity at position p. It lies between 0
    and 2, since no activity is negative, and is blind to the scale and the order of channels, whose numbers may
    differ; the larger map is averaged down to the smaller. A larger power looks at the strongest channels.

    The authors' code also averages over the P positions: their weight is P times this one's.

    Shape: student `[B, C, H, W]`, teacher `[B, E, G, V]` -> `[B]`.

    Raises:
        GraphError: not two maps of the same samples.
        RecipeError: the power is not greater than zero.
    """

    def __init__(self, power: Annotated[float, Field(gt=0)] = 2.0) -> None:
        super().__init__()
        self.power = positive("core.at", "power", power)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = feature_maps("core.at", student, teacher, channels=False)
        return (self._attention(s) - self._attention(t)).square().sum(1)

    def _attention(self, x: Tensor) -> Tensor:
        top = x.detach().abs().amax((1, 2, 3), keepdim=True)
        scaled = x / top.masked_fill(top == 0, 1.0)  # powers of it stay in range; lengths do not matter
        return F.normalize(scaled.abs().pow(self.power).mean(1).flatten(1), dim=1)

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 8)
