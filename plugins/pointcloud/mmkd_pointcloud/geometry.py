"""Which points lie near which: farthest point sampling, nearest neighbours, balls, interpolation.

Everything that chooses points gives indices and has no gradient; `gather` and `interpolate` have one. Coordinates may
be features of any width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd.errors import GraphError


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each cloud by their index.

    Shape: values `[B, N, C]`, index `[B, ...]` in 0..N-1 -> `[B, ..., C]`.
    """
    rows = index.flatten(1)
    found = values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
    return found.view(*index.shape, values.shape[-1])


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances without gradient; in a program that is being exported by an expansion, since ONNX has no
    operator for them.

    Shape: a `[B, M, D]`, b `[B, N, D]` -> `[B, M, N]`.
    """
    a, b = a.detach(), b.detach()
    if not torch.compiler.is_exporting():
        return torch.cdist(a, b)
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
    return squares.clamp(min=0).sqrt()


def neighbours(points: Tensor, k: int, around: Tensor | None = None) -> Tensor:
    """Indices of the k points nearest to each place, nearest first; a point is its own nearest neighbour.

    Args:
        points: where to search.
        k: how many.
        around: the places; None for the points themselves.

    Shape: points `[B, N, D]`, around `[B, M, D]` -> `[B, M, k]`.

    Raises:
        GraphError: there are fewer than k points.
    """
    if points.shape[1] < k:
        raise GraphError(f"{k} neighbours of a cloud of {points.shape[1]} points", next="a smaller k, or more points")
    apart = distances(points if around is None else around, points)
    return apart.topk(k, largest=False, sorted=True).indices


def farthest(points: Tensor, count: int) -> Tensor:
    """Indices of points spread over the cloud, each the farthest from those before it (Eldar et al., 1997).

    The first is the one farthest from the mean, so that the choice does not depend on the order of the points.

    Shape: points `[B, N, 3]` -> `[B, count]`.

    Raises:
        GraphError: there are fewer than `count` points.
    """
    points, size = points.detach(), points.shape[1]
    if size < count:
        raise GraphError(f"{count} of a cloud of {size} points", next="choose fewer, or give more points")
    chosen = (points - points.mean(1, keepdim=True)).square().sum(-1).argmax(1)
    found = [chosen]
    nearest = torch.full_like(points[..., 0], torch.inf)
    for _ in range(count - 1):
        here = gather(points, chosen[:, None])
        nearest = torch.minimum(nearest, (points - here).square().sum(-1))
        chosen = nearest.argmax(1)
        found.append(chosen)
    return torch.stack(found, 1)


def ball(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    """Indices of up to k points within `radius` of each centre, the first of them again where there are fewer.

    The first k in the order of the cloud are taken, as in PointNet++; the nearest point where the ball is empty.

    Shape: points `[B, N, D]`, centres `[B, M, D]` -> `[B, M, k]`.
    """
    apart = distances(centres, points)
    size = points.shape[1]
    place = torch.arange(size, device=points.device).expand_as(apart)
    inside = torch.where(apart <= radius, place, size).topk(min(k, size), largest=False, sorted=True).values
    first = torch.where(inside[..., :1] == size, apart.argmin(-1, keepdim=True), inside[..., :1])
    filled = torch.where(inside == size, first, inside)
    return torch.cat([filled, first.expand(-1, -1, k - filled.shape[-1])], -1)


def interpolate(values: Tensor, points: Tensor, to: Tensor, k: int = 3) -> Tensor:
    """Values at other places: mean over the k nearest points, weighted by the inverse squared distance (PointNet++).

    Shape: values `[B, N, C]`, points `[B, N, 3]`, to `[B, M, 3]` -> `[B, M, C]`.
    """
    near = neighbours(points, min(k, points.shape[1]), to)
    apart = (gather(points, near) - to[:, :, None]).square().sum(-1)
    weight = 1 / (apart + 1e-8)
    weight = weight / weight.sum(-1, keepdim=True)
    return (gather(values, near) * weight[..., None]).sum(2)
