"""Transport between the students' and the teachers' predictions of a batch."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.sinkhorn import transport_plan


class SinkhornKD(Loss):
    """Sinkhorn distance between the batch's softened predictions, SinKD (Cui et al., 2024).

    `sum_j P_ij |q_i - p_j|_1` with `q = softmax(student / T)`, `p = softmax(teacher / T)`; `P` starts from
    `exp(-|q_i - p_j|_1 / epsilon)` and has its rows, then its columns, scaled to sum to one, `iterations` times. Where
    supports are disjoint a KL explodes and a JSD is flat, but this still says which way is nearer.

    The plan lets mass go to other samples' predictions, so it is small but not zero where student and teacher
    agree, and tends to zero there as `epsilon` falls. As in the authors' code (2018cx/SinKD, `loss.py`) the gradient
    runs through the plan and there is no factor `T^2`; they add up over the batch and weigh with 0.001 or 0.0008. For
    sequences their code takes the softmax over positions instead of classes; here a row is one decision.

    Shape: student, teacher `[B, C]` -> `[B]`, from 0 to 2.

    Raises:
        GraphError: the shapes differ or are no logits of a batch.
        RecipeError: the temperature or epsilon is not greater than zero.
    """

    coupled = True

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        epsilon: Annotated[float, Field(gt=0)] = 0.1,
        iterations: Annotated[int, Field(ge=1)] = 20,
    ) -> None:
        super().__init__()
        self.temperature = positive("core.sinkd", "temperature", temperature)
        self.epsilon, self.iterations = positive("core.sinkd", "epsilon", epsilon), iterations

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.sinkd", student, teacher)
        if student.dim() != 2:
            raise GraphError(f"needs logits [B, C], not {list(student.shape)}", where="core.sinkd")
        temperature = positive("core.sinkd", "temperature", self.temperature)
        q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
        cost = torch.cdist(q, p, p=1)
        plan = len(cost) * transport_plan("core.sinkd", cost, self.epsilon, self.iterations)
        return (plan * cost).sum(1)
