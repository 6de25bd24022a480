"""Two halves of what a teacher gives: how sure it is, and how it spreads the rest (Born-Again Networks)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.decoupled import other_classes
from mmkd.library.losses.kl import divergence_from
from mmkd.library.losses.port import class_labels, positive, same_shape


class ConfidenceWeightedCrossEntropy(Loss):
    """Cross-entropy with the label, weighed by the teacher's largest probability, CWTM (Furlanello et al., 2018).

    `B * w_i / sum_j w_j * -log q_label` with `w_i = max_v softmax(teacher_i)_v`, so that the weights of a batch
    average one: the paper's eq. 10. The teacher's answer itself is not used; a teacher equally sure of all samples
    leaves `core.cross_entropy`.

    Shape: student, teacher `[B, C]`, label `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the shapes do not fit.
    """

    coupled = True

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        student, teacher = same_shape("core.cwtm", student, teacher)
        label = class_labels("core.cwtm", student, label)
        weight = teacher.softmax(-1).amax(-1)
        weight = weight * weight.numel() / weight.sum()
        return weight * F.cross_entropy(student, label, reduction="none")


class PermutedKL(Loss):
    """Divergence from the teacher with all but its first class permuted, DKPP (Furlanello et al., 2018).

    `T^2 KL(target || softmax(student / T))`. The target keeps the teacher's largest probability where it is and
    permutes the others, so that it still tells how the rest is spread but no longer over which classes: the paper's
    eq. 11, which does not say how often one permutes. Here a permutation is drawn for each first class and each
    applied optimiser step (`update()`), from `seed`; within a step it is the same however often and in whatever order
    samples come. With two classes it is `core.kl`.

    Shape: student, teacher `[B, C]` -> `[B]`, or `[B, T, C]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero.
    """

    draw: Tensor
    """Number of the current draw, an integer."""

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    ) -> None:
        super().__init__()
        self.temperature = positive("core.dkpp", "temperature", temperature)
        self.register_buffer("draw", torch.tensor(seed * 2**32))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.dkpp", student, teacher)
        temperature = positive("core.dkpp", "temperature", self.temperature)
        target = self.permute((teacher / temperature).softmax(-1))
        return temperature**2 * divergence_from(target, student / temperature)

    def permute(self, p: Tensor) -> Tensor:
        """All but the largest of each row in the order of this draw. Shape: `[..., C]` -> `[..., C]`."""
        first = p.argmax(-1)
        others = other_classes(first, p.shape[-1])
        order = scramble(scramble(self.draw) + first[..., None] * p.shape[-1] + others).argsort(-1)
        return p.scatter(-1, others, p.gather(-1, others.gather(-1, order)))

    @torch.no_grad()
    def update(self) -> None:
        """Draw anew."""
        self.draw += 1


def scramble(number: Tensor) -> Tensor:
    """Integers that look random, one for each integer: the same on every device, and without a wait for it.

    The output of SplitMix64 (Steele et al., 2014) at this state.
    """
    number = number + -0x61C8864680B583EB
    number = (number ^ shifted(number, 30)) * -0x40A7B892E31B1A47
    number = (number ^ shifted(number, 27)) * -0x6B2FB644ECCEEE15
    return number.bitwise_xor(shifted(number, 31))


def shifted(number: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (number >> bits).bitwise_and(2 ** (64 - bits) - 1)
