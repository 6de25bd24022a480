"""DGCNN: convolutions over the edges of a graph that is drawn anew in every layer's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd_pointcloud.cloud import CloudEncoder, Width
from mmkd_pointcloud.geometry import gather, neighbours
from mmkd_pointcloud.pointwise import Pointwise, Readout


class DGCNN(CloudEncoder):
    """Edge convolutions over nearest neighbours in feature space, a new graph per layer (DGCNN: Wang et al., 2019).

    `x_i' = max_j h(x_i, x_j - x_i)` over the k neighbours j of i among the features that enter the layer. All layers'
    outputs are joined, and the cloud is their maximum and their mean.

    Values: `embedding`; `tokens`, one per point; `logits` where there are classes; `hidden.0`, the coordinates, and
    `hidden.i` after layer i.

    Args:
        points: points taken of a cloud, a fixed choice, or repeated where there are fewer; None takes all.
        k: neighbours of a point, itself included.
        widths: channels of each edge convolution.
        pooled: channels that are pooled over the cloud.
        dim: width of the embedding.
        token_dim: width of a token.
        num_classes: classes of a linear head; None for none.
        per_point: logits of every point (parts) rather than of the cloud.
        normalize: move every cloud into the unit ball first.

    Shape: points `[B, N, 3]` -> embedding `[B, dim]`, tokens `[B, N, token_dim]`, hidden `[B, N, C]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "input_grad"})
    conformance: ClassVar[dict[str, Any]] = {"options": {"points": 48, "k": 6, "widths": [4, 6], "pooled": 8}}

    def __init__(
        self,
        points: Annotated[int | None, Field(gt=3)] = 1024,
        k: Width = 20,
        widths: Annotated[Sequence[Width], Field(min_length=1)] = (64, 64, 128, 256),
        pooled: Width = 1024,
        dim: Width = 256,
        token_dim: Width = 128,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        per_point: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__(points, normalize)
        self.num_classes, self.embedding_dim = num_classes, dim
        self.layers = nn.ModuleList(EdgeConv(a, b, k) for a, b in zip((3, *widths), widths, strict=False))
        self.join = Pointwise(sum(widths), pooled)
        self.readout = Readout(sum(widths), 2 * pooled, dim, token_dim, num_classes, per_point)

    def values(self) -> list[str]:
        logits = ["logits"] if self.num_classes else []
        return ["embedding", "tokens", *logits, *(f"hidden.{i}" for i in range(len(self.layers) + 1))]

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        hidden = [points]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
        local = torch.cat(hidden[1:], -1)
        joined = self.join(local)
        pooled = torch.cat([joined.amax(1), joined.mean(1)], -1)
        values = {f"hidden.{i}": value for i, value in enumerate(hidden)}
        values.update(self.readout(local, pooled, self.reads()))
        return values


class EdgeConv(nn.Module):
    """The largest of a layer over all edges of a point.

    Shape: `[B, N, inputs]` -> `[B, N, outputs]`.
    """

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.layer = Pointwise(2 * inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        others = gather(x, neighbours(x, self.k))
        centre = x[:, :, None].expand_as(others)
        edges: Tensor = self.layer(torch.cat([centre, others - centre], -1))
        return edges.amax(2)
