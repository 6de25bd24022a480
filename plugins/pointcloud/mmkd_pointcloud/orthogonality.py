"""Keeps a predicted matrix near a rotation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mmkd
from mmkd.errors import GraphError
from mmkd_pointcloud.pointnet import orthogonality


class Orthogonality(mmkd.Loss):
    """Keep the matrix that a T-net predicts near an orthogonal one (PointNet: Qi et al., 2017).

    `||I - A A^T||^2`, the squared Frobenius norm; the paper's weight is 0.001.

    Shape: student `[B, K, K]` (`student.feature_transform`) -> `[B]`.

    Raises:
        GraphError: the value is no square matrix per sample.
    """

    def forward(self, student: Tensor) -> Tensor:
        if student.dim() != 3 or student.shape[1] != student.shape[2]:
            raise GraphError(
                f"student {list(student.shape)} is no square matrix per sample", where="pointcloud.orthogonality",
                next="student: student.feature_transform of pointcloud.pointnet with t_nets",
            )  # fmt: skip
        return orthogonality(student)

    def example(self) -> dict[str, Any]:
        return {"student": torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))}
