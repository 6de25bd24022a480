"""Variational information distillation."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.feature_map import feature_maps
from mmkd.library.losses.port import positive, same_shape


class VariationalInformation(Loss):
    """Predict the teacher's features with a variance that is learnt per channel, VID (Ahn et al., 2019).

    `1/2 mean_d ((teacher_d - student_d)^2 / v_c + log v_c)`, the negative log-likelihood of a normal distribution
    but for a constant: less of it is more of a lower bound of the mutual information. `v = softplus(a) + floor`, one
    `a` per channel, trained with the student and dropped at export; channels that the student cannot predict come to
    weigh less. At `v = 1` it is half of `core.mse`. It may be negative.

    The student's port is the predicted mean, so it comes from a projector; the authors' is
    `{use: core.mlp, hidden: 1.0, depth: 2, activation: relu}` (RepDistiller, `distiller_zoo/VID.py`, by the first
    author). Of two maps the larger is averaged down to the smaller.

    Shape: student, teacher `[B, C]` or maps `[B, C, H, W]` -> `[B]`; `[B, L, C]` -> `[B, L]`.

    Raises:
        GraphError: the shapes do not fit.
        RecipeError: the variance is not greater than the floor, or not set up.
    """

    def __init__(
        self,
        variance: Annotated[float, Field(gt=0)] = 5.0,
        floor: Annotated[float, Field(gt=0)] = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = positive("core.vid", "floor", floor)
        self.initial = positive("core.vid", "variance less the floor", variance - floor)
        self.raw: nn.Parameter | None = None

    def setup(self, student: torch.Size, teacher: torch.Size) -> None:
        channels = teacher[1 if len(teacher) == 4 else -1]
        inverse = self.initial + math.log(-math.expm1(-self.initial))  # of softplus
        self.raw = nn.Parameter(torch.full((channels,), inverse))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.raw is None:
            raise RecipeError("has no variances yet", where="core.vid", next="call setup(**shapes)")
        if student.dim() == 4:
            mean, target = feature_maps("core.vid", student, teacher)
        else:
            mean, target = same_shape("core.vid", student, teacher)
        variance = F.softplus(self.raw) + self.floor
        if mean.dim() == 4:
            variance = variance[:, None, None]
        cost = ((target - mean).square() / variance + variance.log()) / 2
        return cost.flatten(1).mean(1) if cost.dim() == 4 else cost.mean(-1)
