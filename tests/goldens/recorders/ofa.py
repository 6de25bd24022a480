"""The OFA loss by its authors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from record import Checkout, case, normal

REPOSITORY = "Hao840/OFAKD"
FUNCTION = "ofa_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("distillers/ofa.py", "ofa_loss")["ofa_loss"]
    label = torch.tensor([0, 5, 2, 2, 3])
    mask = torch.nn.functional.one_hot(label, 6)
    for seed, (epsilon, temperature) in enumerate(((1.0, 1.0), (1.5, 1.0), (1.2, 2.0))):
        inputs = {"student": normal(5, 6, seed=seed, scale=2), "teacher": normal(5, 6, seed=seed + 10, scale=2)}
        yield case(
            lambda s, t, y, e=epsilon, tau=temperature: loss(s, t, mask, e, tau),
            {**inputs, "label": label},
            epsilon=epsilon,
            temperature=temperature,
        )
