"""FT's distance of factors, in MMRazor."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "open-mmlab/mmrazor"
FUNCTION = "mmrazor.models.losses.factor_transfer_loss.FTLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    loss = checkout.load("mmrazor/models/losses/factor_transfer_loss.py", "FTLoss", MODELS=registry)["FTLoss"]()
    yield case(loss, {"student": normal(3, 4, 2, 2), "teacher": normal(3, 4, 2, 2, seed=1)})
