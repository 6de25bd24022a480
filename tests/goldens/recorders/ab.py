"""AB in RepDistiller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.AB.ABLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("distiller_zoo/AB.py", "ABLoss")["ABLoss"]
    for margin in (1.0, 0.5):
        inputs = {"student": normal(3, 4, 2, 2), "teacher": normal(3, 4, 2, 2, seed=1)}
        yield case(cls(1, margin).criterion_alternative_l2, inputs, margin=margin)
