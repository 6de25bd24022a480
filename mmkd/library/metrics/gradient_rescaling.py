"""How much a teacher turns each sample's gradient up or down."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import RecipeError
from mmkd.library.losses.port import class_labels, positive, same_shape
from mmkd.library.metrics.correlation import spearman


class GradientRescaling(Metric):
    """Weight that distillation gives each sample: its gradient over that of cross-entropy (Tang et al., 2020).

    Of the objective `(1 - s) CE + s T^2 KL(softmax(teacher / T) || softmax(student / T))` the derivative in the label's
    logit, divided by that of `CE` alone:

        r = (1 - s) + s T (q_y(T) - p_y(T)) / (q_y(1) - 1)

    `p` being the teacher's probability of the label and `q` the student's, at that temperature. The paper holds it for
    what a teacher does with single samples: sure ones count fully (`p_y = 1` gives 1), doubtful ones less, and those
    that the student is surer of than the teacher less than nothing. `correlation` is Spearman's rank correlation of
    `r` with `p_y(1)`, 0 where either is the same for all; `r` has a long lower tail where the student is sure, hence
    `median`. A diagnosis and no score: put a metric of quality before it. Written from accounts of the paper.

    `share` is `s`, the share of distillation in the objective; 1 leaves cross-entropy out.

    Shape: student, teacher `[B, C]` or `[B, T, C]`, label and mask (what to count) `[B]` or `[B, T]` -> `mean`,
    `median`, `std` (over samples) and `correlation`.

    Raises:
        DataError: no sample was seen, logits are NaN, or the student is sure without any rest, so that cross-entropy
            has no gradient.
        GraphError: the shapes do not fit.
        RecipeError: the temperature is not greater than zero, or the share not from 0 to 1.
    """

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        share: Annotated[float, Field(ge=0, le=1)] = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = positive("core.gradient_rescaling", "temperature", temperature)
        if not 0 <= share <= 1:
            raise RecipeError(f"share must be from 0 to 1, not {share}", where="core.gradient_rescaling")
        self.share = share
        self.ratios, self.confidences = Rows("core.gradient_rescaling"), Rows("core.gradient_rescaling")

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor, mask: Tensor | None = None) -> None:
        student, teacher = same_shape("core.gradient_rescaling", student, teacher)
        label = class_labels("core.gradient_rescaling", student, label)
        if mask is not None:
            student, teacher, label = student[mask.bool()], teacher[mask.bool()], label[mask.bool()]
        student, teacher, label = student.flatten(0, -2).double(), teacher.flatten(0, -2).double(), label.flatten()
        heat = self.temperature
        surplus = doubt(student / heat, label) - doubt(teacher / heat, label)
        ratio = surplus / doubt(student, label)  # 1 - q_y as a sum: a difference would have no digits left
        self.ratios.add((1 - self.share) + self.share * heat * ratio)
        self.confidences.add(1 - doubt(teacher, label))

    def compute(self) -> dict[str, float]:
        ratio, confidence = self.ratios.numbers(), self.confidences.numbers()
        ordered = ratio.sort().values
        return {
            "mean": ratio.mean().item(),
            "median": (ordered[(len(ratio) - 1) // 2] + ordered[len(ratio) // 2]).item() / 2,
            "std": ratio.std(correction=0).item(),
            "correlation": spearman(ratio[None], confidence[None]).item(),
        }


def doubt(logits: Tensor, label: Tensor) -> Tensor:
    """`1 - softmax(logits)_y`, exact where it is small. Shape: `[N, C]`, `[N]` -> `[N]`."""
    others = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, label[:, None].long(), True)
    return logits.log_softmax(1).masked_fill(others, -torch.inf).exp().sum(1)
