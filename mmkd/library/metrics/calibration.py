"""Whether a classifier is as often right as it is sure."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.port import widen


class Calibration(Metric):
    """Expected calibration error: how far confidence and accuracy lie apart, bin by bin (Guo et al., 2017).

    `ece = sum_m |B_m| / n * |accuracy(B_m) - confidence(B_m)|`, the confidence of a sample being its highest
    probability. `ece` cuts the samples into `bins` intervals `(0, 1/M], ..., ((M-1)/M, 1]` of equal width,
    `adaptive_ece` into bins of equally many samples (Nixon et al., 2019, for the highest probability only), since a
    sure network leaves most intervals nearly empty. A sample with c equally high classes, the right one among them,
    is 1/c right. Before them stand the means that they are made of; the best checkpoint is that of the accuracy.

    Shape: student `[B, V]` or `[B, T, V]`, label and mask (what to count) `[B]` or `[B, T]` -> `accuracy`,
    `confidence`, `ece`, `adaptive_ece`, between 0 and 1.

    Raises:
        DataError: no sample was seen, or logits are NaN.
        GraphError: the shapes do not fit.
        RecipeError: there is no bin.
    """

    def __init__(self, bins: Annotated[int, Field(ge=1)] = 15) -> None:
        super().__init__()
        if bins < 1:
            raise RecipeError(f"bins must be at least 1, not {bins}", where="core.calibration")
        self.bins = bins
        self.confidences, self.right = Rows("core.calibration"), Rows("core.calibration")

    def forward(self, student: Tensor, label: Tensor, mask: Tensor | None = None) -> None:
        if student.dim() not in (2, 3) or label.shape != student.shape[:-1]:
            raise GraphError(
                f"needs student [B, (T,) V] and a label each, not {list(student.shape)} and {list(label.shape)}",
                where="core.calibration",
            )
        if mask is not None:
            student, label = student[mask.bool()], label[mask.bool()]
        student, label = widen(student).flatten(0, -2).double(), label.flatten().long()
        top = student.amax(1, keepdim=True)
        own = student.gather(1, label[:, None]) == top
        self.confidences.add(student.softmax(1).amax(1))
        self.right.add(own.squeeze(1) / (student == top).sum(1).clamp(min=1))

    def compute(self) -> dict[str, float]:
        confidence, right = self.confidences.numbers(), self.right.joined().double()
        width = (confidence * self.bins).ceil().long().clamp(1, self.bins) - 1
        order = right.argsort(stable=True)
        order = order[confidence[order].argsort(stable=True)]  # ties by correctness: the order of samples is nothing
        mass = torch.empty_like(width)
        mass[order] = torch.arange(len(order), device=order.device) * min(self.bins, len(order)) // len(order)
        return {
            "accuracy": right.mean().item(),
            "confidence": confidence.mean().item(),
            "ece": _error(confidence, right, width, self.bins),
            "adaptive_ece": _error(confidence, right, mass, self.bins),
        }


def _error(confidence: Tensor, right: Tensor, bin: Tensor, bins: int) -> float:
    """`|B_m| / n` cancels the means within the bins: what remains is a sum of differences."""
    gaps = confidence.new_zeros(bins).index_add_(0, bin, right - confidence)
    return gaps.abs().sum().item() / len(confidence)
