"""CC as its paper has it, in Knowledge-Distillation-Zoo; its authors published no such code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "AberHu/Knowledge-Distillation-Zoo"
FUNCTION = "kd_losses.cc.CC"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("kd_losses/cc.py", "CC", math=math)["CC"]
    for gamma, order in ((0.4, 2), (0.7, 4)):
        inputs = {"student": normal(4, 3), "teacher": normal(4, 5, seed=1)}
        yield case(cls(gamma, order), inputs, gamma=gamma, order=order)
