"""NST with the polynomial kernel, in RepDistiller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.NST.NSTLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("distiller_zoo/NST.py", "NSTLoss")["NSTLoss"]()
    yield case(loss.nst_loss, {"student": normal(3, 4, 2, 2), "teacher": normal(3, 5, 2, 2, seed=1)})
    yield case(loss.nst_loss, {"student": normal(2, 3, 4, 4), "teacher": normal(2, 2, 2, 2, seed=1)})
