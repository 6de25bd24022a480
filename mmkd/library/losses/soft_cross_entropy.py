"""Cross-entropy with a distribution over classes."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


class SoftCrossEntropy(Loss):
    """Cross-entropy of the student with a given distribution, such as labels mixed by mixup or CutMix.

    `-sum_v target_v log q_v` with `q = softmax(student)`. With a one-hot target it is `core.cross_entropy`; it is
    linear in the target, so a mixed target costs the mix of both labels' losses (Zhang et al., 2018). Its least value
    is the target's entropy, not zero: the target is a label, not a teacher.

    Shape: student, target `[B, C]` -> `[B]`, or `[B, T, C]` -> `[B, T]`; nats.

    Raises:
        GraphError: the shapes differ.
    """

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        if student.shape != target.shape:
            raise GraphError(
                f"student {list(student.shape)} and target {list(target.shape)} must have the same shape",
                where="core.soft_cross_entropy",
                next="for class numbers use core.cross_entropy",
            )
        student, target = widen(student), widen(target)
        return -(target * torch.where(target > 0, student.log_softmax(-1), 0.0)).sum(-1)
