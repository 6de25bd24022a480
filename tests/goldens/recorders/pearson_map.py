"""The PKD of detectors, in MMRazor (its authors' home)."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "open-mmlab/mmrazor"
FUNCTION = "mmrazor.models.losses.pkd_loss.PKDLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    given = {"MODELS": registry, "Tuple": tuple, "Union": typing.Union}
    loss = checkout.load("mmrazor/models/losses/pkd_loss.py", "PKDLoss", **given)["PKDLoss"]()
    yield case(loss, {"student": normal(3, 4, 2, 2), "teacher": normal(3, 4, 2, 2, seed=1)})
