"""Targets that keep one part of what a teacher knows."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.kl import divergence, divergence_from
from mmkd.library.losses.port import class_labels, positive, same_shape, widen
from mmkd.library.losses.similarity import similarity


class ConfidenceKL(Loss):
    """Divergence from a target that keeps the teacher's confidence in the label only, KD-pt (Tang et al., 2020).

    The target gives the label its softened probability `p_y` under the teacher, and every other class
    `(1 - p_y) / (C - 1)`; the loss is `T^2 KL(target || softmax(student / T))`. The teacher says how hard each sample
    is and nothing of how classes are alike. With two classes it is `core.kl`. Where every sample shared one `p_y` it
    would be label smoothing (`core.cross_entropy`, `label_smoothing`), the third partial teacher of that paper.
    Written from accounts of the paper; it has no published code.

    Shape: student, teacher `[B, C]`, label `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the shapes do not fit, or there is one class only.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.temperature = positive("core.confidence_kl", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        student, teacher = same_shape("core.confidence_kl", student, teacher)
        label = class_labels("core.confidence_kl", student, label)
        temperature = positive("core.confidence_kl", "temperature", self.temperature)
        confidence = (teacher / temperature).softmax(-1).gather(-1, label[..., None])
        target = peaked("core.confidence_kl", confidence, label, student.shape[-1])
        return temperature**2 * divergence_from(target, student / temperature)


class ClassSimilarityKL(Loss):
    """Divergence from a target that knows only how classes are alike, KD-sim (Tang et al., 2020).

    The target of every sample of class y is `softmax_v(c_yv / temperature)`, where `c_yv` is the cosine between the
    teacher's classifier weights of classes y and v; the loss is `KL(target || softmax(student))`. All samples of a
    class share one target. With `power`, `c / temperature` is raised to it and keeps its sign. The temperature
    shapes the target alone, hence no `T^2`. Written from accounts of the paper; it has no published code, and the
    defaults are ours.

    Bind `classifier` to the weight of the teacher's last layer (`teacher/fc.weight`).

    Shape: student `[B, C]`, classifier `[C, D]`, label `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the shapes do not fit.
        RecipeError: the temperature or the power is not greater than zero.
    """

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 0.3,
        power: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = positive("core.class_similarity_kl", "temperature", temperature)
        self.power = positive("core.class_similarity_kl", "power", power)

    def forward(self, student: Tensor, classifier: Tensor, label: Tensor) -> Tensor:
        label = class_labels("core.class_similarity_kl", student, label)
        if classifier.dim() != 2 or len(classifier) != student.shape[-1]:
            raise GraphError(
                f"student {list(student.shape)} needs a classifier [{student.shape[-1]}, D], "
                f"not {list(classifier.shape)}",
                where="core.class_similarity_kl",
            )
        temperature = positive("core.class_similarity_kl", "temperature", self.temperature)
        cosine = similarity("core.class_similarity_kl", classifier[label], classifier) / temperature
        return divergence(cosine.sign() * cosine.abs() ** self.power, widen(student))

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {
            "student": torch.randn(4, 8, generator=generator),
            "classifier": torch.randn(8, 6, generator=generator),
            "label": torch.randint(0, 8, (4,), generator=generator),
        }


def peaked(component: str, confidence: Tensor, label: Tensor, classes: int) -> Tensor:
    """A distribution with this much on the label and the rest spread evenly over the other classes.

    Shape: confidence `[..., 1]`, label `[...]` -> `[..., classes]`.

    Raises:
        GraphError: there is one class only.
    """
    if classes < 2:
        raise GraphError("needs logits of two classes at least", where=component)
    rest = ((1 - confidence) / (classes - 1)).expand(*label.shape, classes)
    return rest.scatter(-1, label[..., None], confidence.expand(*label.shape, 1))
