"""Point Transformer: attention with a weight for every channel, among neighbours in space."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd.errors import MmkdError
from mmkd_pointcloud.cloud import CloudEncoder, Width
from mmkd_pointcloud.geometry import farthest, gather, interpolate, neighbours
from mmkd_pointcloud.pointwise import Pointwise, Readout, pointwise


class PointTransformer(CloudEncoder):
    """Vector self-attention among the nearest points, at ever fewer of them (Point Transformer: Zhao et al., 2021).

    `y_i = sum_j softmax_j(g(q_i - k_j + d_ij)) * (v_j + d_ij)` over the k nearest points j, channel by channel, with
    `d_ij` a learnt function of `p_i - p_j`. Transitions down keep farthest points, each the maximum over its
    neighbours; transitions up bring features back to every point by interpolation, plus the finer level's own.

    Values: `embedding`, the mean over the coarsest points; `tokens`, one per point; `logits` where there are classes;
    `hidden.0` enters the first block, `hidden.i` leaves block i, fewer points each.

    Args:
        points: points taken of a cloud, a fixed choice, or repeated where there are fewer; None takes all.
        k: neighbours that a point attends to, itself included; all points where a level has fewer.
        widths: channels of each level.
        ratio: a level has one point where the level before it has this many.
        dim: width of the embedding.
        token_dim: width of a token.
        num_classes: classes of a linear head; None for none.
        per_point: logits of every point (parts) rather than of the cloud.
        normalize: move every cloud into the unit ball first.

    Shape: points `[B, N, 3]` -> embedding `[B, dim]`, tokens `[B, N, token_dim]`, hidden.i `[B, N / ratio^(i-1), C]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "input_grad"})

    def __init__(
        self,
        points: Annotated[int | None, Field(gt=3)] = 1024,
        k: Width = 16,
        widths: Annotated[Sequence[Width], Field(min_length=1)] = (32, 64, 128, 256),
        ratio: Annotated[int, Field(gt=1)] = 4,
        dim: Width = 256,
        token_dim: Width = 128,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        per_point: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__(points, normalize)
        if points is not None and points // ratio ** (len(widths) - 1) < 1:
            raise MmkdError(
                f"{points} points do not last for {len(widths)} levels of ratio {ratio}", next="fewer widths"
            )
        self.num_classes, self.embedding_dim = num_classes, dim
        self.k, self.ratio = k, ratio
        self.stem = pointwise((3, widths[0], widths[0]))
        self.blocks = nn.ModuleList(TransformerBlock(width) for width in widths)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(Pointwise(3 + fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(Pointwise(coarse, fine) for fine, coarse in pairs)
        self.beside = nn.ModuleList(Pointwise(fine, fine) for fine, _ in pairs)
        self.readout = Readout(widths[0], widths[-1], dim, token_dim, num_classes, per_point)

    def values(self) -> list[str]:
        logits = ["logits"] if self.num_classes else []
        return ["embedding", "tokens", *logits, *(f"hidden.{i}" for i in range(len(self.blocks) + 1))]

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        wanted = self.reads()
        x = self.stem(points)
        places, hidden = [points], [x]
        for i, block in enumerate(self.blocks):
            if i:
                centres = gather(places[-1], farthest(places[-1], max(1, places[-1].shape[1] // self.ratio)))
                near = self._near(places[-1], centres)
                inside = gather(places[-1], near) - centres[:, :, None]
                x = self.down[i - 1](torch.cat([inside, gather(x, near)], -1)).amax(2)
                places.append(centres)
            x = block(x, places[-1], self._near(places[-1], places[-1]))
            hidden.append(x)
        pooled, local = x.mean(1), x
        if "tokens" in wanted or (self.readout.per_point and "logits" in wanted):
            for i in reversed(range(len(self.up))):
                coarse = interpolate(self.up[i](local), places[i + 1], places[i])
                local = coarse + self.beside[i](hidden[i + 1])
        values = {f"hidden.{i}": value for i, value in enumerate(hidden)}
        values.update(self.readout(local, pooled, wanted))
        return values

    def _near(self, points: Tensor, around: Tensor) -> Tensor:
        return neighbours(points, min(self.k, points.shape[1]), around)


class TransformerBlock(nn.Module):
    """Vector attention between two linear maps, added to what came in.

    Shape: x `[B, N, C]`, points `[B, N, 3]`, near `[B, N, k]` -> `[B, N, C]`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = Pointwise(width, width), Pointwise(width, width, activation=False)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.position = nn.Sequential(Pointwise(3, 3), nn.Linear(3, width))
        self.relation = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, points: Tensor, near: Tensor) -> Tensor:
        y = self.before(x)
        position = self.position(points[:, :, None] - gather(points, near))
        relation = self.query(y)[:, :, None] - gather(self.key(y), near) + position
        weight = self.relation(relation).softmax(2)
        attended = (weight * (gather(self.value(y), near) + position)).sum(2)
        return torch.relu(x + self.after(attended))
