"""CWD by its first author."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "irfanICMLL/TorchDistiller"
FUNCTION = "SemSeg-distill.utils.criterion.CriterionCWD"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    found = checkout.load("SemSeg-distill/utils/criterion.py", "CriterionCWD", "ChannelNorm")
    for temperature in (1.0, 4.0):
        loss = found["CriterionCWD"]("channel", "kl", temperature)
        inputs = {"student": normal(3, 4, 2, 3, scale=2), "teacher": normal(3, 4, 2, 3, seed=1, scale=2)}
        yield case(loss, inputs, temperature=temperature)
