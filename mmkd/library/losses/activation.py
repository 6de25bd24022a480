"""Which neurons are on: activation boundaries, and the margin ReLU of the overhaul."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.feature_map import example_maps
from mmkd.library.losses.port import positive, same_shape, widen


class ActivationBoundary(Loss):
    """Make each neuron fire where the teacher's does, whatever by how much, AB (Heo et al., 2019).

    `mean_d [t_d > 0] relu(m - s_d)^2 + [t_d <= 0] relu(m + s_d)^2`: a squared hinge with margin m on the student's
    values before its ReLU, with the sign of the teacher's as label. Zero where all are on the right side by m.

    The paper adds up over neurons instead of averaging. It has one term per layer, and weighs each layer half as much
    as the next.

    Shape: student, teacher `[B, ...]` -> `[B]`.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the margin is not greater than zero.
    """

    def __init__(self, margin: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.margin = positive("core.ab", "margin", margin)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = same_shape("core.ab", student, teacher)
        signed = torch.where(t > 0, s, -s)
        cost = (self.margin - signed).relu().square()
        return cost.flatten(1).mean(1) if cost.dim() > 1 else cost


class MarginL2(Loss):
    """Match features before the ReLU, but no matter how far below zero the teacher is, OFD (Heo et al., 2019).

    Target: `max(t, m_c)`, the margin `m_c < 0` being the mean of the teacher's negative values in channel c. Loss:
    `mean_d (s_d - target_d)^2`, without the places where the target is not positive and the student already below it
    (partial L2). The authors' projector is a 1x1 convolution with BatchNorm on the student's side (`core.linear`).

    Where the teacher's map leaves a BatchNorm, its parameters give the margin of a normal distribution:
    `scale: teacher/layer1.2.bn2.weight`, `shift: teacher/layer1.2.bn2.bias`. Without them it is the mean of all the
    negative values seen so far, up to the last applied step; before the first, the margin is zero.

    The authors add up over features instead of averaging, weigh each layer half as much as the next, and set the
    margin to minus three deviations where fewer than 0.1 % are negative.

    Shape: student, teacher `[B, C, H, W]` or `[B, C]`, scale and shift `[C]` -> `[B]`.

    Raises:
        GraphError: the shapes do not fit, or only one of scale and shift is bound.
        RecipeError: not set up.
    """

    mean_negative: Tensor
    """Mean negative value of the teacher so far, per channel."""
    seen: Tensor
    """How many negative values that is the mean of, per channel."""

    def setup(
        self,
        student: torch.Size,
        teacher: torch.Size,
        scale: torch.Size | None = None,
        shift: torch.Size | None = None,
    ) -> None:
        if (scale is None) != (shift is None):
            raise GraphError("needs scale and shift of one BatchNorm, or neither", where="core.ofd")
        self.register_buffer("mean_negative", torch.zeros(teacher[1]))
        self.register_buffer("seen", torch.zeros(teacher[1], dtype=torch.int64))

    def forward(
        self, student: Tensor, teacher: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        s, t = same_shape("core.ofd", student, teacher)
        if scale is not None and shift is not None:
            margin = negative_mean(widen(scale), widen(shift))
        elif hasattr(self, "seen"):
            margin = self.mean_negative.to(t.dtype)
        else:
            raise RecipeError("has no margins yet", where="core.ofd", next="call setup(**shapes)")
        target = torch.maximum(t, margin.view(-1, *[1] * (t.dim() - 2)))
        counted = (s > target) | (target > 0)
        return torch.where(counted, s - target, 0.0).square().flatten(1).mean(1)

    def update(self, teacher: Tensor) -> None:
        values = widen(teacher).transpose(0, 1).flatten(1)
        count = (values < 0).sum(1)
        self.seen += count
        excess = values.clamp(max=0).sum(1) - count * self.mean_negative
        self.mean_negative += excess / self.seen.clamp(min=1)

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 6)


def negative_mean(deviation: Tensor, mean: Tensor) -> Tensor:
    """`E[x | x < 0]` of a normal distribution, `mean - deviation * phi(r) / Phi(-r)` with `r = mean / deviation`."""
    deviation = deviation.abs()
    ratio = mean / deviation.clamp(min=torch.finfo(mean.dtype).tiny)
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx((ratio / math.sqrt(2)).clamp(max=1e6))
    return torch.where(deviation > 0, mean - deviation * hazard, mean).clamp(max=0)
