"""KD and DKD on standardised logits, by the authors of Logit Standardization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "sunshangquan/logit-standardization-KD"
FUNCTION = "kd_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("mdistiller/distillers/KD.py", "kd_loss", "normalize")["kd_loss"]
    for seed, temperature in enumerate((2.0, 0.7)):
        inputs = {"student": normal(5, 6, seed=seed, scale=3), "teacher": normal(5, 6, seed=seed + 10, scale=9)}
        yield case(lambda s, t, tau=temperature: loss(s, t, tau, True), inputs, temperature=temperature)
