"""BinaryKL and BinaryKL-Norm by the authors of DHKD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal
from torch.nn import KLDivLoss

REPOSITORY = "penghui-yang/DHKD"
FUNCTION = "BinaryKL, BinaryKLNorm"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    inputs = {"student": normal(5, 6, scale=2), "teacher": normal(5, 6, seed=10, scale=2)}
    for name, normalized in (("BinaryKL", False), ("BinaryKLNorm", True)):
        found = checkout.load(f"distiller_zoo/{name}.py", name, KLDivLoss=KLDivLoss)[name]
        for temperature in (1.0, 2.0):
            yield case(found(temperature), inputs, normalized=normalized, temperature=temperature)
