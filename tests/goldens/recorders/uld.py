"""ULD by its authors, on sequences that are answers throughout."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from record import Checkout, case, normal
from torch import Tensor

REPOSITORY = "Nicolas-BZRD/llm-recipes"
FUNCTION = "models.distillation_model.DistillationLoss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    cls = checkout.load("models/distillation_model.py", "DistillationLoss")["DistillationLoss"]
    for temperature, widths in ((1.0, (5, 7)), (2.0, (6, 4))):
        loss = cls(student_temperature=temperature, teacher_temperature=temperature)

        def function(student: Tensor, teacher: Tensor, loss: Any = loss) -> Tensor:
            answers = torch.zeros(student.shape[:2], dtype=torch.long)
            outputs = [SimpleNamespace(logits=x * 1, loss=torch.zeros(())) for x in (student, teacher)]  # it writes
            value: Tensor = loss(*outputs, answers, answers)[2]
            return value

        inputs = {"student": normal(2, 3, widths[0], scale=2), "teacher": normal(2, 3, widths[1], seed=1, scale=2)}
        yield case(function, inputs, temperature=temperature)
