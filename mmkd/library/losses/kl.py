"""Kullback-Leibler divergence between softened distributions."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.z_score import z_score


class KLDivergence(Loss):
    """Divergence of the student's softened distribution from the teacher's (Hinton et al., 2015).

    `T^2 * sum_v p_v (log p_v - log q_v)` with `p = softmax(teacher / T)` and `q = softmax(student / T)`. The
    teacher's entropy is included, so the loss is zero exactly where the distributions are equal. `T^2` keeps the
    size of the gradient as `T` changes; for large `T` the loss tends to the mean squared error of the centred
    logits, `1 / 2V * ||.||^2`.

    A logit of `-inf` is a class that cannot be: it costs nothing where the teacher rules it out, and `+inf` where
    only the student does.

    With `standardize`, each sample's logits are first brought to mean zero and variance one (Sun et al., 2024): the
    student need not match the size of the teacher's logits, only their relations. Logits must then be finite. The
    authors' code (sunshangquan/logit-standardization-KD) divides by the unbiased deviation, the paper by this one;
    theirs at `T` is this at `T sqrt(V / (V - 1))`, but for the factor `T^2`.

    Shape: student, teacher `[B, V]` -> `[B]`, or `[B, T, V]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = positive("core.kl", "temperature", temperature)
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.kl", student, teacher)
        temperature = positive("core.kl", "temperature", self.temperature)
        if self.standardize:
            student, teacher = z_score(student, -1), z_score(teacher, -1)
        if temperature == 1.0:
            return divergence(teacher, student)  # spares copies of the logits, and of their gradient
        return temperature**2 * divergence(teacher / temperature, student / temperature)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over the last dimension, with `0 log 0 = 0` in value and gradient."""
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(-1)


def divergence_from(target: Tensor, student: Tensor) -> Tensor:
    """`sum_v target_v (log target_v - log q_v)` with q = softmax(student): KL(target || q) for a distribution."""
    positive = target > 0
    log_target = torch.where(positive, target, 1.0).log()
    return (target * torch.where(positive, log_target - student.log_softmax(-1), 0.0)).sum(-1)
