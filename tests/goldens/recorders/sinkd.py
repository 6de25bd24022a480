"""The batch-wise Sinkhorn distance by the authors of SinKD, at their fixed temperature, epsilon and iterations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "2018cx/SinKD"
FUNCTION = "Sinkhorn"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("loss.py", "Sinkhorn")["Sinkhorn"](T=2)
    for seed, scale in enumerate((1.0, 6.0)):
        inputs = {"student": normal(5, 4, seed=seed, scale=scale), "teacher": normal(5, 4, seed=seed + 10, scale=scale)}
        yield case(loss, inputs, temperature=2.0, epsilon=0.1, iterations=20)
