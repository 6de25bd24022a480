"""Channel-wise distillation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.feature_map import example_maps
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive, same_shape


class ChannelwiseKL(Loss):
    """Divergence, channel by channel, between where two maps are active, CWD (Shu et al., 2021).

    `T^2 / C sum_c KL(p_c || q_c)`, with p_c and q_c the softmax over positions of the teacher's and the student's
    channel c, divided by T. A channel is a class in a map of logits, a feature elsewhere; moving all of one by a
    constant changes nothing, and places where the teacher's channel is low hardly count.

    Shape: student, teacher `[B, C, H, W]` -> `[B]`; also sequences `[B, L, C]`; nats.

    Raises:
        GraphError: the shapes differ, or are neither maps nor sequences.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.temperature = positive("core.cwd", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.cwd", student, teacher)
        if student.dim() not in (3, 4):
            raise GraphError(f"needs a map [B, C, H, W] or a sequence [B, L, C], not {list(student.shape)}",
                             where="core.cwd")  # fmt: skip
        temperature = positive("core.cwd", "temperature", self.temperature)
        s, t = ((x.flatten(2) if x.dim() == 4 else x.mT) / temperature for x in (student, teacher))
        return temperature**2 * divergence(t, s).mean(1)

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 6)
