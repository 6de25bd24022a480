"""Cross-entropy with labels of which a sample may carry several."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class BinaryCrossEntropy(Loss):
    """Negative log-likelihood of every class's yes or no, summed over classes.

    `-sum_c (y_c log sigmoid(s_c) + (1 - y_c) log sigmoid(-s_c))`. Classes do not compete. A `y` between zero and one is
    a probability, and the least value then its entropy. The sum, not the mean, is what stands beside `core.binary_kl`.

    Shape: student, label `[B, C]` -> `[B]`, or `[B, T, C]` -> `[B, T]`; nats.

    Raises:
        GraphError: the label does not have the student's shape.
    """

    def forward(self, student: Tensor, label: Tensor) -> Tensor:
        if label.shape != student.shape:
            raise GraphError(
                f"student {list(student.shape)} needs a label for each class, not {list(label.shape)}",
                where="core.binary_cross_entropy",
                next="for one class number per sample use core.cross_entropy",
            )
        student = widen(student)
        return F.binary_cross_entropy_with_logits(student, label.to(student.dtype), reduction="none").sum(-1)

    def example(self) -> dict[str, Tensor]:
        made = super().example()
        return {"student": made["student"], "label": F.one_hot(made["label"], 8).float()}
