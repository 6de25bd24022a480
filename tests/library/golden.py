"""Comparison of a loss with what its authors' code gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from goldens import cases
from torch import Tensor

from mmkd import Loss


def agrees(method: str, make: Callable[[dict[str, Any]], tuple[Loss, float, Tensor | float]]) -> None:
    """`make(options)` gives our loss, the factor from our mean to the authors' value, and what must be added to it."""
    seen = 0
    for options, inputs, output, gradients in cases(method):
        loss, factor, constant = make({**options, "inputs": inputs})
        values = {name: v.requires_grad_(name in gradients) for name, v in inputs.items()}
        value = factor * loss(**values).mean()
        torch.testing.assert_close(value + constant, output, rtol=1e-6, atol=1e-7)
        value.backward()
        student = values["student"].grad
        torch.testing.assert_close(student, gradients["student"], rtol=1e-5, atol=1e-7)
        seen += 1
    assert seen
