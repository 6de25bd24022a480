"""Divergences between softened distributions other than the teacher-to-student one."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive, same_shape

FLOOR = -1e4
"""Logarithm of a probability that is zero in any precision; below it a mixture does not change."""


class ReverseKL(Loss):
    """Divergence of the teacher's softened distribution from the student's: mode-seeking (MiniLLM: Gu et al., 2024).

    `T^2 * sum_v q_v (log q_v - log p_v)` with `p = softmax(teacher / T)` and `q = softmax(student / T)`. A class that
    the teacher rules out (`-inf`) costs `+inf` unless the student does too.

    Shape: student, teacher `[B, V]` -> `[B]`, or `[B, T, V]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.temperature = positive("core.reverse_kl", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.reverse_kl", student, teacher)
        temperature = positive("core.reverse_kl", "temperature", self.temperature)
        return temperature**2 * divergence(student / temperature, teacher / temperature)


class JensenShannon(Loss):
    """Generalised Jensen-Shannon divergence, between forward and reverse KL (GKD: Agarwal et al., 2024).

    `T^2 * (beta KL(p || m) + (1 - beta) KL(q || m))` with `m = beta p + (1 - beta) q`, where `p` is the teacher's
    softened distribution and `q` the student's. `beta` is the teacher's share of the mixture. Divided by `beta` it
    tends to KL(p || q) as `beta` falls to 0, divided by `1 - beta` to KL(q || p) as `beta` grows to 1. Never more
    than `T^2` times the entropy of `(beta, 1 - beta)`.

    Shape: student, teacher `[B, V]` -> `[B]`, or `[B, T, V]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero, or beta not between zero and one.
    """

    def __init__(
        self,
        beta: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.beta = share("core.jsd", "beta", beta)
        self.temperature = positive("core.jsd", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.jsd", student, teacher)
        beta = share("core.jsd", "beta", self.beta)
        temperature = positive("core.jsd", "temperature", self.temperature)
        log_p, log_q = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
        log_m = log_mixture(log_p, log_q, beta)
        return temperature**2 * (beta * relative_entropy(log_p, log_m) + (1 - beta) * relative_entropy(log_q, log_m))


class SkewKL(Loss):
    """Divergence from a mixture that holds a part of the first distribution, hence bounded (DistiLLM: Ko et al., 2024).

    `T^2 * KL(p || skew p + (1 - skew) q)`; with `reverse`, `T^2 * KL(q || skew q + (1 - skew) p)`. `p` is the
    teacher's softened distribution and `q` the student's; the skew always weighs the distribution that the
    expectation is taken under. Never more than `T^2 log(1 / skew)`; without skew it is `core.kl` or
    `core.reverse_kl`. The authors' code leaves out the teacher's entropy of the forward one, a constant.

    Shape: student, teacher `[B, V]` -> `[B]`, or `[B, T, V]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero, or the skew not from zero to below one.
    """

    def __init__(
        self,
        skew: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        reverse: bool = False,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.skew = skew if skew == 0 else share("core.skew_kl", "skew", skew)
        self.reverse = reverse
        self.temperature = positive("core.skew_kl", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.skew_kl", student, teacher)
        temperature = positive("core.skew_kl", "temperature", self.temperature)
        first, second = (student, teacher) if self.reverse else (teacher, student)
        first, second = first / temperature, second / temperature
        if self.skew == 0:
            return temperature**2 * divergence(first, second)
        log_first = first.log_softmax(-1)
        skew = share("core.skew_kl", "skew", self.skew)
        return temperature**2 * relative_entropy(log_first, log_mixture(log_first, second.log_softmax(-1), skew))


def share(component: str, option: str, value: float) -> float:
    """The option's value, where it is between zero and one.

    Raises:
        RecipeError: it is not.
    """
    if not 0 < value < 1:
        raise RecipeError(f"{option} must be between 0 and 1, not {value}", where=component)
    return value


def log_mixture(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """`log(weight a + (1 - weight) b)`, with a gradient where a probability is zero too."""
    return torch.logaddexp(log_a.clamp(min=FLOOR) + math.log(weight), log_b.clamp(min=FLOOR) + math.log1p(-weight))


def relative_entropy(log_p: Tensor, log_m: Tensor) -> Tensor:
    """KL(p || m) over the last dimension, with `0 log 0 = 0` in value and gradient."""
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_m, 0.0)).sum(-1)
