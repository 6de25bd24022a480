"""RKD by its first author."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal
from torch import nn

REPOSITORY = "lenscloth/RKD"
FUNCTION = "metric.loss.RkdDistance, metric.loss.RKdAngle"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    given = checkout.load("metric/utils.py", "pdist")
    losses = checkout.load("metric/loss.py", "RkdDistance", "RKdAngle", **given)
    for name, form in (("RkdDistance", "distance"), ("RKdAngle", "angle")):
        loss: nn.Module = losses[name]()
        for size in (3, 6):
            inputs = {"student": normal(size, 4), "teacher": normal(size, 5, seed=1, scale=2)}
            yield case(loss, inputs, form=form)
