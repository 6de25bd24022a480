"""Multi-label logits distillation by the authors of L2D."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal
from torch.nn import KLDivLoss

REPOSITORY = "penghui-yang/L2D"
FUNCTION = "MLD"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    found = checkout.load("criterion/distiller_zoo/logits_based/mld.py", "MLD", KLDivLoss=KLDivLoss)
    inputs = {"student": normal(5, 6, scale=2), "teacher": normal(5, 6, seed=10, scale=2)}
    yield case(found["MLD"](), inputs)
