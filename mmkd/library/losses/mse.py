"""Mean squared error between features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.port import same_shape


class MeanSquaredError(Loss):
    """Mean squared difference of features, per sample or per token (FitNets: Romero et al., 2015).

    `mean_d (student_d - teacher_d)^2`. A sequence `[B, L, D]` keeps its length, so that padding can be masked;
    without a mask the mean over `[B, L]` is that over all features. Every other layout is averaged over all that
    follows the batch dimension.

    Shape: student, teacher `[B, D]`, `[B, C, H, W]` or any other `[B, ...]` -> `[B]`; `[B, L, D]` -> `[B, L]`.

    Raises:
        GraphError: the shapes differ.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.mse", student, teacher)
        squared = F.mse_loss(student, teacher, reduction="none")
        if squared.dim() < 2:
            return squared
        return squared.mean(-1) if squared.dim() == 3 else squared.mean(tuple(range(1, squared.dim())))
