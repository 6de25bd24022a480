"""Teacher-free regularisation by the authors of Tf-KD, without the cross-entropy that they add."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from record import Checkout, case, normal

REPOSITORY = "yuanli2333/Teacher-free-Knowledge-Distillation"
FUNCTION = "loss_kd_regularization"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("my_loss_function.py", "loss_kd_regularization")["loss_kd_regularization"]
    inputs = {"student": normal(5, 6, scale=2), "label": torch.tensor([0, 5, 2, 2, 3])}
    with patch.object(torch.Tensor, "cuda", lambda self: self):
        for temperature in (20.0, 0.5):
            params = SimpleNamespace(reg_alpha=1.0, reg_temperature=temperature, multiplier=1.0)
            yield case(lambda s, y, p=params: loss(s, y, p), inputs, temperature=temperature)
