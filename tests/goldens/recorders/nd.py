"""The ND loss by its authors, with class means as a dict of lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from record import Checkout, case, normal

REPOSITORY = "WangYZ1608/Knowledge-Distillation-via-ND"
FUNCTION = "DirectNormLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("CIFAR/utils.py", "DirectNormLoss")["DirectNormLoss"]()
    means = normal(3, 4, seed=20)
    inputs = {"student": normal(6, 4), "teacher": normal(6, 4, seed=10), "label": torch.tensor([0, 1, 2, 2, 1, 0])}
    table = {str(i): row.tolist() for i, row in enumerate(means)}
    torch.set_default_dtype(torch.float64)
    with patch.object(torch.Tensor, "cuda", lambda self: self):
        yield case(lambda s, t, y: loss(s, t, table, y), inputs, means=means.tolist())
