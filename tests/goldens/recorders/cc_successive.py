"""What RepDistiller, by code from the authors of CC, calls CC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.CC.Correlation"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("distiller_zoo/CC.py", "Correlation")["Correlation"]()
    yield case(loss, {"student": normal(5, 4), "teacher": normal(5, 4, seed=1)}, pairs="successive")
