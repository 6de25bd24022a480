"""The overhaul's partial L2 and margins, by its authors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from record import Checkout, case, normal
from scipy.stats import norm
from torch import Tensor

REPOSITORY = "clovaai/overhaul-distillation"
FUNCTION = "distillation_loss, get_margin_from_BN"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    names = ("distillation_loss", "get_margin_from_BN")
    found = checkout.load("CIFAR-100/distiller.py", *names, math=math, norm=norm)

    def function(student: Tensor, teacher: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        margin = found["get_margin_from_BN"](SimpleNamespace(weight=scale, bias=shift))
        value: Tensor = found["distillation_loss"](student, teacher, margin[:, None, None].to(student))
        return value

    inputs = {"student": normal(3, 4, 2, 2), "teacher": normal(3, 4, 2, 2, seed=1)}
    yield case(function, {**inputs, "scale": normal(4, seed=2) + 2, "shift": normal(4, seed=3)})
