"""The teacher's decision as label."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.port import same_shape


class HardLabel(Loss):
    """Cross-entropy with the class that the teacher finds likeliest, DeiT's hard distillation (Touvron et al., 2021).

    `-log softmax(student)_y` with `y = argmax(teacher)`, no temperature, optionally with `label_smoothing`. Of equal
    logits the first is taken. DeiT gives it the logits of a distillation token of its own, and half the weight, the
    other half going to `core.cross_entropy` on the class token; at use it averages the two heads.

    Shape: student, teacher `[B, C]` -> `[B]`, or `[B, T, C]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
    """

    def __init__(self, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.hard_label", student, teacher)
        label = teacher.argmax(-1)
        loss = F.cross_entropy(
            student.flatten(0, -2), label.flatten(), label_smoothing=self.label_smoothing, reduction="none"
        )
        return loss.view(label.shape)
