"""PointNet: every point through the same layers, then the largest of each feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd_pointcloud.cloud import CloudEncoder, Width
from mmkd_pointcloud.pointwise import Pointwise, Readout, pointwise


class PointNet(CloudEncoder):
    """Points through shared layers and a maximum over them, after learnt rotations (PointNet: Qi et al., 2017).

    A T-net predicts a 3x3 matrix for the coordinates and one for the features of the first layers; both start at the
    identity. `orthogonality` is `||I - A A^T||^2` of the latter, which the paper adds to its loss with weight 0.001:
    `{use: pointcloud.orthogonality, student: student.feature_transform, weight: 0.001}`.

    Values: `embedding`; `tokens`, one per point, which know the whole cloud; `logits` where there are classes;
    `hidden.0`, the turned coordinates, and `hidden.i` after layer i; with T-nets `feature_transform`, `orthogonality`.

    Args:
        points: points taken of a cloud, a fixed choice, or repeated where there are fewer; None takes all.
        widths: channels after each shared layer; features are turned after the first. The paper's: 64, 128, 1024.
        dim: width of the embedding.
        token_dim: width of a token.
        num_classes: classes of a linear head; None for none.
        per_point: logits of every point (parts) rather than of the cloud.
        t_nets: learn the two matrices.
        normalize: move every cloud into the unit ball first.

    Shape: points `[B, N, 3]` -> embedding `[B, dim]`, tokens `[B, N, token_dim]`, hidden `[B, N, C]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "input_grad"})

    def __init__(
        self,
        points: Annotated[int | None, Field(gt=3)] = 1024,
        widths: Annotated[Sequence[Width], Field(min_length=2)] = (64, 128, 1024),
        dim: Width = 256,
        token_dim: Width = 128,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        per_point: bool = False,
        t_nets: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__(points, normalize)
        self.num_classes, self.embedding_dim = num_classes, dim
        self.turn = TNet(3, widths) if t_nets else None
        self.turn_features = TNet(widths[0], widths) if t_nets else None
        self.layers = nn.ModuleList(Pointwise(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.readout = Readout(sum(widths[:-1]), widths[-1], dim, token_dim, num_classes, per_point)

    def values(self) -> list[str]:
        logits = ["logits"] if self.num_classes else []
        matrices = ["feature_transform", "orthogonality"] if self.turn else []
        return ["embedding", "tokens", *logits, *matrices, *(f"hidden.{i}" for i in range(len(self.layers) + 1))]

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        x = points if self.turn is None else points @ self.turn(points)
        values: dict[str, Tensor] = {}
        hidden = [x]
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0 and self.turn_features is not None:
                matrix = self.turn_features(x)
                x = x @ matrix
                values = {"feature_transform": matrix, "orthogonality": orthogonality(matrix)}
            hidden.append(x)
        values |= {f"hidden.{i}": value for i, value in enumerate(hidden)}
        values.update(self.readout(torch.cat(hidden[1:-1], -1), x.amax(1), self.reads()))
        return values


class TNet(nn.Module):
    """A matrix for each cloud, the identity to begin with.

    Shape: `[B, N, size]` -> `[B, size, size]`.
    """

    def __init__(self, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers, self.size = pointwise((size, *widths)), size
        self.matrix = nn.Linear(widths[-1], size * size)
        nn.init.zeros_(self.matrix.weight)
        nn.init.zeros_(self.matrix.bias)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.matrix(self.layers(x).amax(1)).view(-1, self.size, self.size)
        return change + torch.eye(self.size, dtype=x.dtype, device=x.device)


def orthogonality(matrix: Tensor) -> Tensor:
    """How far each matrix is from keeping lengths and angles: `||I - A A^T||^2` (squared Frobenius norm).

    Shape: `[B, K, K]` -> `[B]`.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return (identity - matrix @ matrix.mT).square().sum((-2, -1))
