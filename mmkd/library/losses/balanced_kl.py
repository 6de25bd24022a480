"""Forward and reverse divergence, weighed sample by sample."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive, same_shape


class BalancedKL(Loss):
    """Forward plus reverse divergence, one of them favoured by who is the surer (after BD-KD: Amara et al., 2022).

    `T^2 * (f KL(p || q) + r KL(q || p))`. Where the teacher's softened distribution `p` has the larger entropy, the
    student is too sure: `f = delta`, `r = 1`, since the forward divergence spreads the student. Elsewhere `f = 1`,
    `r = delta`, since the reverse one concentrates it. The weights send no gradient. At `delta = 1` it is the sum
    of `core.kl` and `core.reverse_kl`.

    In BD-KD the two networks learn together: the student by this and the labels, the teacher by the labels and
    `KL(q || p)`, to it `core.kl`. Written from accounts of the paper, which say that the gap between the entropies
    decides, not how much; it has no published code.

    Shape: student, teacher `[B, V]` -> `[B]`, or `[B, T, V]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(
        self,
        delta: Annotated[float, Field(ge=0)] = 2.0,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.delta = delta
        self.temperature = positive("core.balanced_kl", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.balanced_kl", student, teacher)
        temperature = positive("core.balanced_kl", "temperature", self.temperature)
        student, teacher = student / temperature, teacher / temperature
        too_sure = entropy(teacher) > entropy(student)
        forward, reverse = divergence(teacher, student), divergence(student, teacher)
        balanced = torch.where(too_sure, self.delta * forward + reverse, forward + self.delta * reverse)
        return temperature**2 * balanced


@torch.no_grad()
def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) over the last dimension, in nats."""
    value: Tensor = torch.special.entr(logits.softmax(-1)).sum(-1)
    return value
