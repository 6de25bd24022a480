"""Cross-entropy with class labels."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class CrossEntropy(Loss):
    """Negative log-likelihood of the label under the student.

    `-(1 - e) log q_label - e / V * sum_v log q_v` with `q = softmax(student)` and e the `label_smoothing`
    (Szegedy et al., 2016). A position labelled `ignore_index` costs zero and sends no gradient, but the mean over
    samples still counts it; give the loss a mask where it must not.

    Shape: student `[B, V]`, label `[B]` -> `[B]`; student `[B, T, V]`, label `[B, T]` -> `[B, T]`; nats.

    Raises:
        GraphError: the label does not have the student's shape without its last dimension.
    """

    def __init__(self, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0, ignore_index: int = -100) -> None:
        super().__init__()
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def forward(self, student: Tensor, label: Tensor) -> Tensor:
        if label.shape != student.shape[:-1]:
            raise GraphError(
                f"student {list(student.shape)} needs a label {list(student.shape[:-1])}, not {list(label.shape)}",
                where="core.cross_entropy",
            )
        loss = F.cross_entropy(
            widen(student).flatten(0, -2),
            label.flatten().long(),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        return loss.view(label.shape)
