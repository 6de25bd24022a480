"""PointDistiller: local geometry of the points that matter most."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd_pointcloud.geometry import gather, neighbours

ID = "pointcloud.local_graph"


class LocalGraph(mmkd.Loss):
    """Match local graphs around the teacher's most important points, PointDistiller (Zhang, Dong, Tai and Ma, 2023).

    The `points` with the largest importance `p_i` are kept. Each, with its k nearest neighbours j in the teacher's
    features, is a graph with the edges `[z_j, z_i]`; a dynamic graph convolution of its own for each network (linear,
    BatchNorm, ReLU) turns them into `g_ij`, and the loss is

        sum_i softmax_i(p / T) mean_jc (g_ijc^student - g_ijc^teacher)^2

    over the kept points i: the more important, the heavier. The importance of a point is the teacher's largest channel,
    as the authors have it for points; bind `importance` for theirs of voxels, the number of points in each. Their
    factor of 2 is a weight here. `reweight: false` with all points kept and k = 1 is the plain distance between
    features, each through a layer.

    BatchNorm reads the statistics of the batch at hand and keeps none. Both convolutions are trained with the student
    and dropped at export.

    Shape: student `[B, N, C]`, teacher `[B, N, C']`, importance `[B, N]` -> `[B]`. Row i of both is the same point.

    Args:
        points: how many are kept; all of them where a cloud has fewer.
        k: neighbours, the point itself included; all where a cloud has fewer.
        channels: width of the convolutions.
        temperature: T; the smaller, the fewer points count (the authors': 0.01).
        reweight: false weighs the kept points alike.

    Raises:
        GraphError: the shapes do not fit.
        RecipeError: it is not set up.
    """

    coupled = True

    def __init__(
        self,
        points: Annotated[int, Field(gt=0)] = 64,
        k: Annotated[int, Field(gt=0)] = 16,
        channels: Annotated[int, Field(gt=0)] = 32,
        temperature: Annotated[float, Field(gt=0)] = 0.01,
        reweight: bool = True,
    ) -> None:
        super().__init__()
        self.points, self.k, self.channels = points, k, channels
        self.temperature, self.reweight = temperature, reweight
        self.student: GraphConv | None = None
        self.teacher: GraphConv | None = None

    def setup(self, student: torch.Size, teacher: torch.Size, importance: torch.Size | None = None) -> None:
        self.student = GraphConv(student[-1], self.channels)
        self.teacher = GraphConv(teacher[-1], self.channels)

    def forward(self, student: Tensor, teacher: Tensor, importance: Tensor | None = None) -> Tensor:
        if self.student is None or self.teacher is None:
            raise RecipeError("has no convolutions yet", where=ID, next="call setup(**shapes)")
        if student.dim() != 3 or teacher.dim() != 3 or student.shape[:2] != teacher.shape[:2]:
            raise GraphError(
                f"student {list(student.shape)} and teacher {list(teacher.shape)} are not [B, N, C] of the same points",
                where=ID, next="the same `points` for both networks",
            )  # fmt: skip
        rank = teacher.amax(-1) if importance is None else importance.to(teacher.dtype)
        if rank.shape != teacher.shape[:2]:
            raise GraphError(f"importance is {list(rank.shape)} for {list(teacher.shape[:2])} points", where=ID)
        size = teacher.shape[1]
        top, chosen = rank.topk(min(self.points, size), dim=1)
        near = neighbours(teacher, min(self.k, size), gather(teacher, chosen))
        graphs = (
            conv(gather(z, near), gather(z, chosen)) for conv, z in ((self.student, student), (self.teacher, teacher))
        )
        apart = torch.sub(*graphs).square().mean((2, 3))
        weight = (top / self.temperature).softmax(1) if self.reweight else torch.full_like(top, 1 / top.shape[1])
        return (weight * apart).sum(1)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(4, 80, width, generator=generator) for name, width in (("student", 6), ("teacher", 8))
        }


class GraphConv(nn.Module):
    """A layer over the edges of local graphs: a linear map of `[neighbour, centre]`, BatchNorm over the batch, ReLU.

    Shape: others `[B, M, k, C]`, centre `[B, M, C]` -> `[B, M, k, outputs]`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * inputs, outputs, bias=False)
        self.scale, self.shift = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, others: Tensor, centre: Tensor) -> Tensor:
        edges = self.linear(torch.cat([others, centre[:, :, None].expand_as(others)], -1))
        if edges.numel() == 0:
            return torch.relu(edges)
        flat = F.batch_norm(edges.flatten(0, -2), None, None, self.scale, self.shift, training=True)
        turned: Tensor = flat.view_as(edges).relu()
        return turned
