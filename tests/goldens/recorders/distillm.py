"""Divergences by the authors of DistiLLM, who compute in float32 and average over valid tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from record import Checkout, case, normal

REPOSITORY = "jongwooko/distillm"
FUNCTION = "reverse_kl, js_distance, skewed_forward_kl, skewed_reverse_kl"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    names = FUNCTION.split(", ")
    found = checkout.load("distillm/losses.py", *names)
    inputs = {"student": normal(2, 3, 6, scale=2), "teacher": normal(2, 3, 6, seed=10, scale=2)}
    tokens = {"label": torch.tensor([[1, 2, -100], [3, -100, 0]])}
    with patch.object(torch, "float32", torch.float64):
        for name in names:
            for share in (None,) if name == "reverse_kl" else (0.1, 0.7):
                options = () if share is None else (share,)
                yield case(
                    lambda s, t, f=found[name], o=options: f(s, t, tokens, *o),
                    inputs,
                    function=name,
                    share=share,
                    valid=(tokens["label"] != -100).tolist(),
                )
