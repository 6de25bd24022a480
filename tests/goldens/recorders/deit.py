"""DeiT's hard distillation by its authors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from record import Checkout, case, normal
from torch import Tensor

REPOSITORY = "facebookresearch/deit"
FUNCTION = "losses.DistillationLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("losses.py", "DistillationLoss")["DistillationLoss"]

    def function(student: Tensor, teacher: Tensor) -> Tensor:
        loss = cls(lambda outputs, labels: outputs.sum() * 0, lambda inputs: teacher.detach(), "hard", 1.0, 1.0)
        value: Tensor = loss(None, (torch.zeros_like(student), student), None)
        return value

    yield case(function, {"student": normal(5, 6), "teacher": normal(5, 6, seed=1)})
