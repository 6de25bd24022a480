"""One divergence per class, each between yes and no."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.port import positive, same_shape


class BinaryKL(Loss):
    """Sum over classes of the divergence between two Bernoulli distributions (L2D: Yang et al., 2023; DHKD, 2024).

    `T^2 * sum_c KL(Bernoulli(sigmoid(t_c / T)) || Bernoulli(sigmoid(s_c / T)))`. Classes do not compete, so it suits
    several labels per sample (L2D, `T = 1`), and it sees the size of the logits, which a softmax hides (DHKD, `T = 2`).

    On the head that a softmax loss trains it does harm; DHKD gives it a head of its own, dropped at export. With
    `normalized` it is DHKD's BinaryKL-Norm, `T^2 * sum_c KL(Bernoulli(1/2) || Bernoulli(sigmoid((s_c - t_c) / T)))`:
    zero where the other is, its gradient `T (sigmoid((s_c - t_c) / T) - 1/2)` depends on the difference alone and
    does not vanish where both are saturated.

    The authors clamp probabilities to `[1e-8, 1 - 1e-8]`; logarithms of sigmoids need no clamp.

    Shape: student, teacher `[B, C]` -> `[B]`, or `[B, T, C]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0, normalized: bool = False) -> None:
        super().__init__()
        self.temperature = positive("core.binary_kl", "temperature", temperature)
        self.normalized = normalized

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.binary_kl", student, teacher)
        temperature = positive("core.binary_kl", "temperature", self.temperature)
        if self.normalized:
            student, teacher = student - teacher, torch.zeros_like(teacher)
        s, t = student / temperature, teacher / temperature
        return temperature**2 * (side(t, s) + side(-t, -s)).sum(-1)


def side(teacher: Tensor, student: Tensor) -> Tensor:
    """`p (log p - log q)` of two probabilities given by their logits, with `0 log 0 = 0`."""
    p = teacher.sigmoid()
    return p * torch.where(p > 0, F.logsigmoid(teacher) - F.logsigmoid(student), 0.0)
