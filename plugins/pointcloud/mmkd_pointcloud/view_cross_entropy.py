"""Teaches a network of views with the labels of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mmkd
from mmkd.errors import GraphError

ID = "pointcloud.view_cross_entropy"


class ViewCrossEntropy(mmkd.Loss):
    """Cross-entropy of a pixel with the label of the point that is visible there, the mean over points and views.

    `-log q_vn(label_n)` over the views v in which point n is visible: labelled shapes become labelled pictures.

    Shape: student `[B, V, N, C]` logits at the points' pixels (`lifted` of `pointcloud.projection`), label `[B, N]`,
        visible `[B, V, N]` -> `[B]`; nats. A shape of which nothing is visible costs nothing.

    Raises:
        GraphError: the shapes do not fit.
    """

    def forward(self, student: Tensor, label: Tensor, visible: Tensor) -> Tensor:
        if student.dim() != 4 or visible.shape != student.shape[:3] or label.shape != visible[:, 0].shape:
            raise GraphError(
                f"needs student [B, V, N, C], label [B, N] and visible [B, V, N], not {list(student.shape)}, "
                f"{list(label.shape)} and {list(visible.shape)}",
                where=ID, next="student: <pointcloud.projection with lift>.lifted, visible: ....visible",
            )  # fmt: skip
        own = label.long()[:, None, :, None].expand(-1, student.shape[1], -1, -1)
        cost = -student.log_softmax(-1).gather(-1, own)[..., 0]
        seen = visible.to(cost.dtype)
        return (cost * seen).sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {
            "student": torch.randn(4, 2, 12, 3, generator=generator),
            "label": torch.randint(0, 3, (4, 12), generator=generator),
            "visible": torch.rand(4, 2, 12, generator=generator) < 0.7,
        }
