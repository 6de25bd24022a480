"""Divergence between logits standardised over the batch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.z_score import z_score


class PerceptionKL(Loss):
    """Divergence after each class's logits are standardised over the batch, LumiNet (Hossain et al., 2023).

    `alpha^2 * KL(softmax(t / T) || softmax(s / T))`, where `s` and `t` are the logits minus the batch mean of their
    class, divided by `sqrt(variance + 1e-5)` (biased, as in the authors' code). Blind to any positive scaling and
    shift of a class's logits: what an over-confident teacher says of a sample is read relative to what it says of
    the others. `alpha^2` stands where `T^2` stands in `core.kl`, and is that unless given; the authors use 31 at
    `T = 4` on CIFAR-100.

    Shape: student, teacher `[B, C]` -> `[B]`; nats. A batch of one is zero.

    Raises:
        GraphError: the shapes differ or are no logits of a batch.
        RecipeError: the temperature is not greater than zero.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 4.0,
        alpha: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.alpha = positive("core.luminet", "temperature", temperature), alpha

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.luminet", student, teacher)
        if student.dim() != 2:
            raise GraphError(f"needs logits [B, C], not {list(student.shape)}", where="core.luminet")
        temperature = positive("core.luminet", "temperature", self.temperature)
        s, t = z_score(student, 0, 1e-5), z_score(teacher, 0, 1e-5)
        alpha = temperature if self.alpha is None else self.alpha
        return alpha**2 * divergence(t / temperature, s / temperature)
