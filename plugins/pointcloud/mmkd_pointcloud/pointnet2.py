"""PointNet++: small PointNets over balls, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd.errors import MmkdError
from mmkd_pointcloud.cloud import CloudEncoder, Width
from mmkd_pointcloud.geometry import ball, farthest, gather, interpolate
from mmkd_pointcloud.pointwise import Readout, pointwise


class PointNet2(CloudEncoder):
    """PointNets over balls around ever fewer points, single scale (PointNet++ SSG: Qi et al., 2017).

    Set abstraction: farthest points are kept, and each takes the largest feature of a small PointNet over its ball, in
    coordinates relative to it. Feature propagation brings the features back to every point: interpolated from the
    three nearest of the coarser level, joined with the finer one's own.

    Values: `embedding`; `tokens`, one per point; `logits` where there are classes; `hidden.0`, the coordinates, and
    `hidden.i`, the features that leave level i, fewer points each.

    Args:
        points: points taken of a cloud, a fixed choice, or repeated where there are fewer; None takes all.
        counts: points that each level keeps.
        radii: radius of the balls of each level; the cloud's is 1.
        k: points taken of a ball.
        widths: channels that leave each level.
        dim: width of the embedding.
        token_dim: width of a token.
        num_classes: classes of a linear head; None for none.
        per_point: logits of every point (parts) rather than of the cloud.
        normalize: move every cloud into the unit ball first.

    Shape: points `[B, N, 3]` -> embedding `[B, dim]`, tokens `[B, N, token_dim]`, hidden.i `[B, counts, C]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "input_grad"})

    def __init__(
        self,
        points: Annotated[int | None, Field(gt=3)] = 1024,
        counts: Annotated[Sequence[Width], Field(min_length=1)] = (512, 128),
        radii: Sequence[Annotated[float, Field(gt=0)]] = (0.2, 0.4),
        k: Width = 32,
        widths: Sequence[Width] = (128, 256),
        dim: Width = 256,
        token_dim: Width = 128,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        per_point: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__(points, normalize)
        if not len(counts) == len(radii) == len(widths):
            raise MmkdError(f"{len(counts)} counts, {len(radii)} radii, {len(widths)} widths", next="one per level")
        self.num_classes, self.embedding_dim = num_classes, dim
        inner = (0, *widths)
        self.levels = nn.ModuleList(
            SetAbstraction(inner[i], widths[i], counts[i], radii[i], k) for i in range(len(widths))
        )
        pooled = 2 * widths[-1]
        self.whole = pointwise((3 + widths[-1], widths[-1], pooled))
        self.back = nn.ModuleList(  # from level i + 1 to level i
            pointwise((widths[i] + (widths[i - 1] if i else 3), widths[max(i - 1, 0)])) for i in range(len(widths))
        )
        self.readout = Readout(widths[0], pooled, dim, token_dim, num_classes, per_point)

    def values(self) -> list[str]:
        logits = ["logits"] if self.num_classes else []
        return ["embedding", "tokens", *logits, *(f"hidden.{i}" for i in range(len(self.levels) + 1))]

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        wanted = self.reads()
        places, features = [points], [points]
        for level in self.levels:
            place, feature = level(places[-1], features[-1] if len(places) > 1 else None)
            places.append(place)
            features.append(feature)
        pooled = self.whole(torch.cat([places[-1], features[-1]], -1)).amax(1)
        local = features[-1]
        if "tokens" in wanted or (self.readout.per_point and "logits" in wanted):
            for i in reversed(range(len(self.levels))):
                coarse = interpolate(local, places[i + 1], places[i])
                local = self.back[i](torch.cat([coarse, features[i]], -1))
        values = {f"hidden.{i}": feature for i, feature in enumerate(features)}
        values.update(self.readout(local, pooled, wanted))
        return values


class SetAbstraction(nn.Module):
    """Fewer points, each with the largest features of its ball.

    Shape: points `[B, N, 3]`, features `[B, N, C]` or None -> `[B, count, 3]`, `[B, count, outputs]`.
    """

    def __init__(self, inputs: int, outputs: int, count: int, radius: float, k: int) -> None:
        super().__init__()
        self.count, self.radius, self.k = count, radius, k
        self.layers = pointwise((3 + inputs, outputs // 2 or 1, outputs // 2 or 1, outputs))

    def forward(self, points: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        centres = gather(points, farthest(points, self.count))
        inside = ball(points, centres, self.radius, self.k)
        grouped = gather(points, inside) - centres[:, :, None]
        if features is not None:
            grouped = torch.cat([grouped, gather(features, inside)], -1)
        return centres, self.layers(grouped).amax(2)
