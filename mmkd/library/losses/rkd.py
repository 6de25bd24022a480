"""Relational knowledge distillation: distances and angles within a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmkd import Loss
from mmkd.library.losses.relation import by_rows, flat, products

ANGLE_CELLS = 2**18
"""Angles made at once on a CPU, 1 MiB in float32, which its cache holds; a GPU makes 64 times as many."""


class RelationalDistance(Loss):
    """Match the distances between samples, in units of their mean (RKD-D: Park et al., 2019).

    `mean_j huber(d_ij(student) - d_ij(teacher))`, `d_ij = |x_i - x_j| / mu`, where `mu` is the mean over all pairs of
    different samples and `huber` turns linear at one. Rotation, shift and scale of either space change nothing, and
    widths may differ. The mean over j counts the sample itself, as in the authors' code; the paper sums over pairs.

    Shape: student, teacher `[B, ...]` -> `[B]`. A batch of one is a constant zero, and so is a batch of two, whose one
    distance is its mean.

    Raises:
        GraphError: the batches differ.
    """

    coupled = True
    min_batch = 3

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (_centred(x) for x in flat("core.rkd_distance", student, teacher))
        mean_s, mean_t = _mean_distance(s), _mean_distance(t)

        def loss(rows: slice) -> Tensor:
            d_s, d_t = _distances(s, rows) / mean_s, _distances(t, rows) / mean_t
            return F.smooth_l1_loss(d_s, d_t, reduction="none").mean(1)

        return by_rows(loss, s, len(s))


class RelationalAngle(Loss):
    """Match the angles that every two samples span at every third (RKD-A: Park et al., 2019).

    `mean_jk huber(cos_ijk(student) - cos_ijk(teacher))`, `cos_ijk` between `x_j - x_i` and `x_k - x_i`, zero where
    either vanishes. Rotation, shift and scale of either space change nothing, and widths may differ. All comes from
    the matrix of inner products, `<x_j - x_i, x_k - x_i> = G_jk - G_ij - G_ik + G_ii`, a few anchors i at a time: no
    differences `[B, B, D]` are made and no angles `[B, B, B]` are kept.

    Shape: student, teacher `[B, ...]` -> `[B]`. A batch of one is a constant zero, and so is a batch of two.

    Raises:
        GraphError: the batches differ.
    """

    coupled = True
    min_batch = 3

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (_centred(x) for x in flat("core.rkd_angle", student, teacher))
        loss: Tensor = _Angles.apply(products(s, s), products(t, t), torch.is_grad_enabled())
        return loss


class _Angles(torch.autograd.Function):
    """The loss of every anchor. Shape: `[N, N]` twice -> `[N]`.

    The forward pass makes the gradients too, those of the sum of all anchors; a backward pass in which not all weigh
    the same makes the angles again.
    """

    @staticmethod
    def forward(ctx: Any, gram_s: Tensor, gram_t: Tensor, learns: bool) -> Tensor:
        ctx.save_for_backward(gram_s, gram_t)
        wanted = [learns and needed for needed in ctx.needs_input_grad[:2]]
        loss, ctx.made = _walk(gram_s, gram_t, wanted, None)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        made, ctx.made = ctx.made, None
        if made is None or not (upstream.stride(0) == 0 or bool((upstream == upstream[:1]).all())):
            gram_s, gram_t = ctx.saved_tensors
            made = _walk(gram_s, gram_t, ctx.needs_input_grad[:2], upstream)[1]
        else:
            made = [None if gradient is None else gradient.mul_(upstream[:1].sum()) for gradient in made]
        return made[0], made[1], None


def _walk(
    gram_s: Tensor, gram_t: Tensor, wanted: Sequence[bool], upstream: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of every anchor, and the wanted gradients of their sum weighted by `upstream`."""
    loss, count = gram_s.new_empty(len(gram_s)), max(1, len(gram_s) ** 2)
    scale = gram_s.new_full((len(gram_s),), 1 / count) if upstream is None else upstream / count
    made = [torch.zeros_like(gram) if asked else None for gram, asked in zip((gram_s, gram_t), wanted, strict=True)]
    with torch.autocast(gram_s.device.type, enabled=False):
        for anchors in _anchors(gram_s):
            s, t = _cosines(gram_s, anchors), _cosines(gram_t, anchors)
            gap = s[0] - t[0]
            slope = gap.clamp(-1, 1)  # of huber(gap) = slope * (gap - slope / 2)
            loss[anchors] = torch.linalg.vecdot(slope.flatten(1), gap.sub_(slope, alpha=0.5).flatten(1)) / count
            slope = slope.mul_(scale[anchors, None, None]) if any(wanted) else slope
            for gradient, sign, (cosine, inverse) in zip(made, (1, -1), (s, t), strict=True):
                if gradient is not None:
                    _add_gradient(gradient, slope if sign > 0 else -slope, cosine, inverse, anchors)
    return loss, made


def _anchors(gram: Tensor) -> Iterator[slice]:
    held = ANGLE_CELLS * (1 if gram.device.type == "cpu" else 64)
    size = max(1, held // max(1, gram.numel()))
    return (slice(first, min(first + size, len(gram))) for first in range(0, len(gram), size))


def _add_gradient(grad: Tensor, slope: Tensor, cosine: Tensor, inverse: Tensor, anchors: slice) -> None:
    """Add to the gradient of the inner products what these anchors' cosines pass on of `slope`, their own."""
    own = torch.linalg.vecdot(slope, cosine) * inverse.square()
    inner = (slope * inverse[:, :, None]).mul_(inverse[:, None, :])
    inner.diagonal(dim1=1, dim2=2).sub_(own)
    rows = inner.sum(2)
    grad += inner.sum(0)
    grad[anchors] -= 2 * rows
    grad.diagonal()[anchors] += rows.sum(1)


def _centred(x: Tensor) -> Tensor:
    """Distances and angles do not see the shift; inner products lose fewer digits without it."""
    return x - x.mean(0)


def _floor(a: Tensor, b: Tensor) -> Tensor:
    """A squared distance below it is rounding, from points at these squared distances from the mean."""
    return 8 * torch.finfo(a.dtype).eps * (a + b)


def _distances(x: Tensor, rows: slice) -> Tensor:
    """Distances of some rows to all, with gradient zero where they vanish. Shape: `[N, D]` -> `[R, N]`."""
    own = x.square().sum(1)
    squared = own[rows, None] + own - 2 * products(x[rows], x)
    apart = squared > _floor(own[rows, None], own)
    return torch.where(apart, squared, 1.0).sqrt() * apart


def _mean_distance(x: Tensor) -> Tensor:
    total = by_rows(lambda rows: _distances(x, rows).sum(1), x, len(x)).sum()
    mean = total / max(1, len(x) * (len(x) - 1))
    return torch.where(mean > 0, mean, 1.0)


def _cosines(gram: Tensor, anchors: slice) -> tuple[Tensor, Tensor]:
    """Cosines of the angles at some anchors, and one by the distances. Shape: `[N, N]` -> `[A, N, N]`, `[A, N]`."""
    own = gram.diagonal()
    center, cross = own[anchors, None], gram[anchors]
    squared = own + center - 2 * cross
    inverse = torch.where(squared > _floor(own, center), squared, math.inf).rsqrt()
    product = (gram - cross[:, :, None]).sub_((cross - center)[:, None, :])
    return product.mul_(inverse[:, :, None]).mul_(inverse[:, None, :]), inverse
