"""Cosine distance between features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.port import same_shape


class CosineDistance(Loss):
    """One minus the cosine between student and teacher, per sample or per token.

    `1 - <s, t> / (|s| |t|)`: zero where they point the same way, two where opposite, blind to length. Norms below
    1e-8 count as 1e-8, so a zero vector is at distance one. In a feature map every position is a vector of
    channels, and the distances are averaged over positions.

    Shape: student, teacher `[B, D]` -> `[B]`; `[B, L, D]` -> `[B, L]`; `[B, C, H, W]` -> `[B]`.

    Raises:
        GraphError: the shapes differ.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.cosine", student, teacher)
        if student.dim() == 4:
            return 1 - F.cosine_similarity(student, teacher, dim=1).flatten(1).mean(1)
        return 1 - F.cosine_similarity(student, teacher, dim=-1)
