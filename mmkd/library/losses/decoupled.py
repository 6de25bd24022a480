"""The divergence in two parts: whether it is the labelled class, and which of the others."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import class_labels, positive, same_shape
from mmkd.library.losses.z_score import z_score


class DecoupledKL(Loss):
    """Target-class and non-target-class divergence with a weight each, DKD (Zhao et al., 2022).

    `T^2 * (alpha * TCKD + beta * NCKD)`. TCKD is the divergence between the two probabilities of the label and of
    anything else; NCKD is that between the distributions over all other classes, each scaled to sum to one. With
    softened probability `p_y` of the label under the teacher, `core.kl` is `T^2 (TCKD + (1 - p_y) NCKD)`: it hides
    what a sure teacher knows of the other classes, and `beta` lays it open.

    With `standardize`, each sample's logits are first brought to mean zero and variance one, as in `core.kl`.

    Shape: student, teacher `[B, C]`, label `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the shapes do not fit, or there is one class only.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(
        self,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        beta: Annotated[float, Field(ge=0)] = 8.0,
        temperature: Annotated[float, Field(gt=0)] = 4.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.standardize = alpha, beta, standardize
        self.temperature = positive("core.dkd", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        student, teacher = same_shape("core.dkd", student, teacher)
        label = class_labels("core.dkd", student, label)
        if student.shape[-1] < 2:
            raise GraphError("needs logits of two classes at least", where="core.dkd")
        if self.standardize:
            student, teacher = z_score(student, -1), z_score(teacher, -1)
        temperature = positive("core.dkd", "temperature", self.temperature)
        student_target, student_rest = split(student / temperature, label)
        teacher_target, teacher_rest = split(teacher / temperature, label)
        target, rest = divergence(teacher_target, student_target), divergence(teacher_rest, student_rest)
        return temperature**2 * (self.alpha * target + self.beta * rest)


def split(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the label and of anything else, and those of all other classes.

    Shape: logits `[..., C]`, label `[...]` -> `[..., 2]`, `[..., C - 1]`.
    """
    others = logits.gather(-1, other_classes(label, logits.shape[-1]))
    own = logits.gather(-1, label[..., None])
    return torch.cat([own, others.logsumexp(-1, keepdim=True)], -1), others


def other_classes(label: Tensor, classes: int) -> Tensor:
    """All classes but the label, in order. Shape: `[...]` -> `[..., classes - 1]`."""
    number = torch.arange(classes - 1, device=label.device)
    return number + (number >= label[..., None]).long()
