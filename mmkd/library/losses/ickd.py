"""Correlations between the channels of a feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.feature_map import example_maps
from mmkd.library.losses.port import widen
from mmkd.library.losses.relation import products


class InterChannelCorrelation(Loss):
    """Match which channels of a feature map fire together (ICKD-C: Liu et al., 2021).

    `1 / C * sum_cd (G_cd(student) - G_cd(teacher))^2` with `G_cd` the inner product of channels c and d over all
    positions, each row divided by its norm, as in the authors' code (ADLab-AutoDrive/ICKD,
    `Cifar100/distiller_zoo/ICKD.py`). Maps may differ in size; a projector brings the student to the teacher's number
    of channels (the authors': a 1x1 convolution with BatchNorm).

    Shape: student `[B, C, H, W]`, teacher `[B, C, G, V]` -> `[B]`; also sequences `[B, L, C]`, `[B, M, C]`.

    Raises:
        GraphError: not two maps or two sequences of the same samples and channels.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (widen(x).flatten(2) if x.dim() == 4 else widen(x).mT for x in (student, teacher))
        if student.dim() != teacher.dim() or s.dim() != 3 or s.shape[:2] != t.shape[:2]:
            raise GraphError(
                f"needs maps [B, C, H, W] or sequences [B, L, C] with the same channels, not {list(student.shape)} and "
                f"{list(teacher.shape)}",
                where="core.ickd",
                next="put a projector between them: {use: core.linear, input: <student value>, like: <teacher value>}",
            )
        g_s, g_t = (F.normalize(products(x, x), dim=2) for x in (s, t))
        return (g_s - g_t).square().sum(2).mean(1)

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 6)
