"""SP in RepDistiller, verified by its author according to that file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "HobbitLong/RepDistiller"
FUNCTION = "distiller_zoo.SP.Similarity"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("distiller_zoo/SP.py", "Similarity")["Similarity"]()
    yield case(loss.similarity_loss, {"student": normal(5, 4), "teacher": normal(5, 6, seed=1)})
    yield case(loss.similarity_loss, {"student": normal(4, 3, 2, 2), "teacher": normal(4, 2, 3, 3, seed=1)})
