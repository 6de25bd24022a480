"""PartDistill: parts of a shape from what a 2D network says about its views."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mmkd
from mmkd.errors import GraphError

ID = "pointcloud.part_distill"


class PartDistill(mmkd.Loss):
    """Cross-entropy of every point with what each view says of it, by how far to trust that (PartDistill: Umam 2024).

    A unit of 2D knowledge is the set of visible points `M_k` of a view to which the 2D network gives one part `y_k`.
    Per point, the mean over the units k that cover it of `C_k * -log q_n(y_k)`, q being the student's distribution;
    a point that no view sees costs nothing. Summed over units, that is a masked cross-entropy per view.

    Forward distillation: `C_k` is the 2D network's confidence, its largest probability at the point's pixel. Backward
    distillation, with `knowledge` bound to what a student knew when forward distillation ended: the unit is rescored by
    `C_k = |{n in M_k: argmax knowledge_n = y_k}| / |M_k|`, the share of its points on which that student agrees. One
    network of a stage before is `{stage: forward}`; the recipe `pointcloud.part_distill` has both stages.

    With `balance` a unit's cost is multiplied by how rare its part is in the batch: `1 + log4(m / m_y)`, from 1 to 4,
    `m_y` being how often part y is said of a point and `m` the mean of that over the parts that are said at all. It is
    in the authors' code and not in their paper.

    Args:
        balance: weigh rare parts more.

    Shape: student `[B, N, C]` logits, teacher `[B, V, N, C]` logits of every view at the points' pixels, visible
        `[B, V, N]`, knowledge `[B, N, C]` -> `[B, N]`; nats.

    Raises:
        GraphError: the shapes do not fit.
    """

    coupled = True

    def __init__(self, balance: bool = True) -> None:
        super().__init__()
        self.balance = balance

    def forward(self, student: Tensor, teacher: Tensor, visible: Tensor, knowledge: Tensor | None = None) -> Tensor:
        batch, views, points, parts = teacher.shape if teacher.dim() == 4 else (0, 0, 0, 0)
        fits = student.shape == (batch, points, parts) and visible.shape == (batch, views, points)
        if teacher.dim() != 4 or not fits or (knowledge is not None and knowledge.shape != student.shape):
            own = "" if knowledge is None else f", knowledge {list(knowledge.shape)}"
            raise GraphError(
                f"needs student [B, N, C], teacher [B, V, N, C] and visible [B, V, N], not {list(student.shape)}, "
                f"{list(teacher.shape)} and {list(visible.shape)}{own}",
                where=ID, next="teacher: <pointcloud.projection with lift>.lifted, visible: ....visible",
            )  # fmt: skip
        confidence, said = teacher.detach().float().softmax(-1).max(-1)
        covered = visible.to(student.dtype)
        if knowledge is not None:
            confidence = rescored(said, visible, knowledge.detach().argmax(-1), parts)
        log_q = student.log_softmax(-1)[:, None].expand(-1, views, -1, -1)
        cost = -log_q.gather(-1, said[..., None])[..., 0]
        if self.balance:
            cost = cost * rarity(said, visible, parts).to(cost.dtype)[said]
        weighed = (confidence.to(student.dtype) * covered * cost).sum(1)
        return weighed / covered.sum(1).clamp(min=1)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {
            "student": torch.randn(4, 12, 3, generator=generator),
            "teacher": torch.randn(4, 2, 12, 3, generator=generator),
            "visible": torch.rand(4, 2, 12, generator=generator) < 0.7,
        }


def rescored(said: Tensor, visible: Tensor, known: Tensor, parts: int) -> Tensor:
    """For every point of a view, the share of its unit on which the student agrees with the 2D network.

    Shape: said `[B, V, N]` parts, visible `[B, V, N]`, known `[B, N]` parts -> `[B, V, N]` in [0, 1].
    """
    unit = F.one_hot(said, parts) * visible[..., None]
    agreed = unit * F.one_hot(known, parts)[:, None]
    share = agreed.sum(2).double() / unit.sum(2).clamp(min=1)
    return share.gather(2, said).to(torch.float64)


def rarity(said: Tensor, visible: Tensor, parts: int) -> Tensor:
    """How much more a part counts for being said of few points: `1 + log4(mean count / its count)`, from 1 to 4.

    Shape: said `[B, V, N]` parts, visible `[B, V, N]` -> `[parts]`; 4 for a part that is not said.
    """
    count = torch.zeros(parts, dtype=torch.float64, device=said.device)
    count.scatter_add_(0, said.flatten(), visible.flatten().to(count.dtype))
    mean = count.sum() / (count > 0).sum().clamp(min=1)
    return (1 + (mean / count).log() / math.log(4)).clamp(1, 4).nan_to_num(4.0)
