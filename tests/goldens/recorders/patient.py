"""PKD by its authors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal
from torch import Tensor

REPOSITORY = "intersun/PKD-for-BERT-Model-Compression"
FUNCTION = "src.KD_loss.patience_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("src/KD_loss.py", "patience_loss")["patience_loss"]

    def function(student: Tensor, teacher: Tensor) -> Tensor:
        value: Tensor = loss(teacher, student, normalized_patience=True)
        return value

    yield case(function, {"student": normal(3, 2, 5), "teacher": normal(3, 2, 5, seed=1)})
