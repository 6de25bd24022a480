"""LumiNet by its authors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "ismail31416/LumiNet"
FUNCTION = "luminet_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("mdistiller/distillers/Luminet.py", "luminet_loss", "perception")["luminet_loss"]
    for seed, (alpha, temperature) in enumerate(((31.0, 4.0), (1.0, 0.5))):
        inputs = {"student": normal(5, 6, seed=seed, scale=2), "teacher": normal(5, 6, seed=seed + 10, scale=5)}
        yield case(
            lambda s, t, a=alpha, tau=temperature: loss(s, t, None, a, tau),
            inputs,
            alpha=alpha,
            temperature=temperature,
        )
