"""Knowledge review: a student's stages, fused from the last to the first, against the teacher's."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.feature_map import example_maps, pairs
from mmkd.library.losses.port import same_shape, widen

LEVELS = (4, 2, 1)
"""Sides of the averaged maps."""


class HierarchicalContext(Loss):
    """Mean squared error between two maps and between their averages over ever larger parts, HCL (Chen et al., 2021).

    `(mse(s, t) + sum_k 2^-k mse(pool(s), pool(t))) / (1 + sum_k 2^-k)`, averaging to 4 x 4, 2 x 2 and 1 x 1, those
    of them that are smaller than the map; k counts from one. On 1 x 1 it is `core.mse`.

    Shape: student, teacher `[B, C, H, W]` -> `[B]`; an embedding `[B, C]` is a map of one position.

    Raises:
        GraphError: the shapes differ.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = same_shape("core.hcl", as_map(student), as_map(teacher))
        total, loss, factor = 1.0, _mse(s, t), 1.0
        for level in LEVELS:
            if level < min(s.shape[2:]):
                factor /= 2
                total += factor
                loss = loss + factor * _mse(*(F.adaptive_avg_pool2d(x, level) for x in (s, t)))
        return loss / total

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 6)


class KnowledgeReview(Loss):
    """Fuse the student's stages from the last to the first and match each to the teacher's (Chen et al., 2021).

    Each stage's map is brought to `width` channels by a 1x1 convolution and mixed, position by position, with what
    came down from the later stages: `a x + b y`, a and b by a sigmoid of a 1x1 convolution of both (attention-based
    fusion). A 3x3 convolution then makes the teacher's channels of it, and the mixture itself goes on to the earlier
    stage. So a teacher's early stage also teaches a student's late one. The loss is the sum over stages of `core.hcl`.

    The fusion belongs to the loss and is dropped at export. Where the authors' has BatchNorm, it has a norm over all
    of one sample (GroupNorm with one group), so that no sample sees another.

    Shape: student list of `[B, C_i, H_i, W_i]`, teacher list of `[B, E_i, G_i, V_i]`, from early to late, the last
    may be embeddings `[B, C]`, `[B, E]` -> `[B]`.

    Raises:
        GraphError: the lists are empty or of different lengths.
        RecipeError: not set up.
    """

    def __init__(self, width: Annotated[int, Field(ge=1)] = 512) -> None:
        super().__init__()
        self.width = width
        self.context = HierarchicalContext()
        self.fusions: nn.ModuleList | None = None

    def setup(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        width, last = min(self.width, student[-1][1]), len(student) - 1
        shapes = enumerate(zip(student, teacher, strict=True))
        self.fusions = nn.ModuleList(Fusion(s[1], width, t[1], later=i < last) for i, (s, t) in shapes)

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        if self.fusions is None:
            raise RecipeError("has no layers yet", where="core.review", next="call setup(**shapes)")
        stages = pairs("core.review", student, teacher)
        losses, below = [], None
        for fusion, (s, t) in zip(reversed(self.fusions), reversed(stages), strict=True):
            target = as_map(widen(t))
            made, below = fusion(as_map(widen(s)), below, target.shape[2:])
            losses.append(self.context(made, target))
        return torch.stack(losses).sum(0)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        shapes = {"student": [(4, 3, 8, 8), (4, 6, 4, 4)], "teacher": [(4, 4, 8, 8), (4, 8, 4, 4)]}
        return {port: [torch.randn(s, generator=generator) for s in each] for port, each in shapes.items()}


class Fusion(nn.Module):
    """One stage, mixed with the later ones where there are any.

    Shape: input `[B, C, H, W]`, later `[B, width, h, w]` -> `[B, E, *size]` and the mixture `[B, width, *size]`.
    """

    def __init__(self, source: int, width: int, target: int, *, later: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(source, width, 1, bias=False), nn.GroupNorm(1, width))
        self.leave = nn.Sequential(nn.Conv2d(width, target, 3, padding=1, bias=False), nn.GroupNorm(1, target))
        self.share = nn.Conv2d(2 * width, 2, 1) if later else None

    def forward(self, input: Tensor, later: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        mixed: Tensor = self.enter(input)
        if self.share is not None and later is not None:
            later = F.interpolate(later, mixed.shape[2:], mode="nearest")
            own, other = self.share(torch.cat([mixed, later], 1)).sigmoid().split(1, 1)
            mixed = own * mixed + other * later
        if mixed.shape[2:] != size:
            mixed = F.interpolate(mixed, size, mode="nearest")
        return self.leave(mixed), mixed


def as_map(value: Tensor) -> Tensor:
    """An embedding as a map of one position; a map as it is."""
    return value[:, :, None, None] if value.dim() == 2 else value


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)
