"""AT in RepDistiller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.AT.Attention"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("distiller_zoo/AT.py", "Attention")["Attention"]
    for power in (2, 4):
        inputs = {"student": normal(3, 4, 2, 2), "teacher": normal(3, 5, 4, 4, seed=1)}
        yield case(cls(power).at_loss, inputs, power=power)
