"""How well the parts of shapes are told."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

import mmkd
from mmkd.errors import DataError, GraphError

ID = "pointcloud.part_iou"


class PartIoU(mmkd.Metric):
    """Mean intersection over union of parts (ShapeNet part segmentation: Yi et al., 2016).

    A shape's score is the mean over the parts of its family of `|predicted & true| / |predicted | true|`, 1 where
    neither has any. The parts of a family are those that its shapes in the evaluation set have; where `restrict`, a
    point is given the likeliest of these.

    Shape: student `[B, N, C]` logits, part `[B, N]`, family `[B]` integers -> `instance_miou`, the mean over shapes,
    `family_miou`, the mean over families, and `accuracy` over points; between 0 and 1.

    Args:
        restrict: tell the parts of the shape's own family apart, not all parts there are.

    Raises:
        DataError: no sample was seen.
        GraphError: the shapes do not fit.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "inputs": {
            "student": torch.randn(12, 10, 4, generator=torch.Generator().manual_seed(0)),
            "part": torch.arange(120).view(12, 10) * 7 % 11 % 3,
            "family": torch.arange(12) % 2,
        }
    }

    def __init__(self, restrict: bool = True) -> None:
        super().__init__()
        self.restrict = restrict
        self.logits, self.parts, self.families = (mmkd.Rows(ID) for _ in range(3))

    def forward(self, student: Tensor, part: Tensor, family: Tensor) -> None:
        if student.dim() != 3 or part.shape != student.shape[:2] or family.shape != student.shape[:1]:
            raise GraphError(
                f"needs student [B, N, C], part [B, N] and family [B], not {list(student.shape)}, "
                f"{list(part.shape)} and {list(family.shape)}",
                where=ID,
            )
        self.logits.add(student.float())
        self.parts.add(part)
        self.families.add(family)

    def compute(self) -> dict[str, float]:
        logits, part, family = self.logits.joined(), self.parts.joined(), self.families.joined()
        scores = torch.zeros(len(part), dtype=torch.float64)
        means, right = [], 0
        for name in torch.unique(family):
            mine = family == name
            own = torch.unique(part[mine])
            seen = logits[mine]
            told = own[seen[..., own].argmax(-1)] if self.restrict else seen.argmax(-1)
            both = torch.stack([((told == p) & (part[mine] == p)).sum(1) for p in own], 1).double()
            either = torch.stack([((told == p) | (part[mine] == p)).sum(1) for p in own], 1).double()
            score = torch.where(either > 0, both / either.clamp(min=1), 1.0).mean(1)
            scores[mine.cpu()] = score.cpu()
            means.append(score.mean())
            right += int((told == part[mine]).sum())
        if not means:
            raise DataError("no shape was seen", where=ID)
        return {
            "instance_miou": scores.mean().item(),
            "family_miou": torch.stack(means).mean().item(),
            "accuracy": right / part.numel(),
        }
