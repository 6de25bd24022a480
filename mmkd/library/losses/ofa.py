"""A teacher's distribution with the labelled class made stronger."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.kl import divergence_from
from mmkd.library.losses.port import class_labels, positive, same_shape


class TargetEnhancedKL(Loss):
    """Divergence from the teacher's distribution with its label enhanced, OFA (Hao et al., 2023).

    The target weighs class v with `w_v = (p_v + 1[v = label])^epsilon - 1[v = label]`; with `W = sum_v w_v` the loss
    is `T^2 W KL(w / W || q)`. At `epsilon = 1` that is `core.kl`. Above it the label gains, and where the teacher
    is unsure the other classes lose: between architectures that differ, their order is hardly worth learning.

    The authors give the cross-entropy `-sum_v w_v log q_v` without `T^2`: the same but for that factor and a
    constant that depends on the teacher alone.

    Shape: student, teacher `[B, C]`, label `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the shapes do not fit.
        RecipeError: epsilon or the temperature is not greater than zero.
    """

    def __init__(
        self,
        epsilon: Annotated[float, Field(gt=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.epsilon = positive("core.ofa", "epsilon", epsilon)
        self.temperature = positive("core.ofa", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        student, teacher = same_shape("core.ofa", student, teacher)
        one = F.one_hot(class_labels("core.ofa", student, label), student.shape[-1])
        temperature = positive("core.ofa", "temperature", self.temperature)
        epsilon = positive("core.ofa", "epsilon", self.epsilon)
        weight = ((teacher / temperature).softmax(-1) + one) ** epsilon - one
        total = weight.sum(-1)
        return temperature**2 * (divergence_from(weight, student / temperature) - torch.xlogy(total, total))
