"""Correlation between predictions, across classes and across samples."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import positive, same_shape


class PearsonDistance(Loss):
    """One minus the correlation of predictions within a sample and within a class, DIST (Huang et al., 2022).

    `T^2 * (beta * inter_i + gamma * mean_c intra_c)` on softened probabilities: `inter_i` is one minus Pearson's
    correlation of student and teacher over the classes of sample i, `intra_c` that over the samples of the batch at
    class c. Blind to any positive scaling and shift of a sample's probabilities (inter) or of a class's (intra), so
    a student too small to match a strong teacher may match its ranking. What does not vary correlates with nothing:
    it costs one and sends no gradient.

    Shape: student, teacher `[B, C]` -> `[B]`, from 0 to `2 (beta + gamma) T^2`. A batch of one is a constant zero.

    Raises:
        GraphError: the shapes differ or are no logits of a batch.
        RecipeError: the temperature is not greater than zero.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self,
        beta: Annotated[float, Field(ge=0)] = 1.0,
        gamma: Annotated[float, Field(ge=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.beta, self.gamma = beta, gamma
        self.temperature = positive("core.dist", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.dist", student, teacher)
        if student.dim() != 2:
            raise GraphError(f"needs logits [B, C], not {list(student.shape)}", where="core.dist")
        temperature = positive("core.dist", "temperature", self.temperature)
        q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
        inter = 1 - correlation(q, p, 1)
        if len(student) < 2:
            return 0 * inter
        intra = (1 - correlation(q, p, 0)).mean()
        return temperature**2 * (self.beta * inter + self.gamma * intra)


def correlation(a: Tensor, b: Tensor, dim: int, epsilon: float = 1e-8) -> Tensor:
    """Pearson's correlation over one dimension; zero, without a gradient, where either is constant up to rounding."""
    x, y = (value - value.mean(dim, keepdim=True) for value in (a, b))
    length_a, length_b, length_x, length_y = (torch.linalg.vector_norm(value, dim=dim) for value in (a, b, x, y))
    varies = (length_x > 1e-6 * length_a) & (length_y > 1e-6 * length_b)
    return torch.where(varies, (x * y).sum(dim) / (length_x * length_y + epsilon), 0.0)
