"""A teacher made by hand: right, and equally unsure of all that is wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.partial_teacher import peaked
from mmkd.library.losses.port import class_labels, positive, widen


class VirtualTeacherKL(Loss):
    """Divergence from a designed teacher that is always right, Tf-KD regularisation (Yuan et al., 2020).

    The teacher gives the label `confidence` and every other class `(1 - confidence) / (C - 1)`, softened by
    `temperature`; the loss is `KL(softened || softmax(student))`. No network teaches. The student is not softened,
    hence no `T^2`.

    As in the authors' code, softening takes the softmax of the probabilities divided by the temperature, which
    leaves next to no difference between classes. With `soften: logarithms` it is that of their logarithms, the
    temperature of a network with that output; at `temperature` 1 it changes nothing, and the loss is then label
    smoothing but for a constant. The authors' code also averages over classes; their weight `w` is `w / C` here.

    Shape: student `[B, C]`, label `[B]` -> `[B]`; nats.

    Raises:
        GraphError: the label does not fit, or there is one class only.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(
        self,
        confidence: Annotated[float, Field(gt=0, lt=1)] = 0.99,
        temperature: Annotated[float, Field(gt=0)] = 20.0,
        soften: Literal["probabilities", "logarithms"] = "probabilities",
    ) -> None:
        super().__init__()
        self.confidence, self.soften = confidence, soften
        self.temperature = positive("core.virtual_teacher", "temperature", temperature)

    def forward(self, student: Tensor, label: Tensor) -> Tensor:
        student = widen(student)
        label = class_labels("core.virtual_teacher", student, label)
        confidence = student.new_full((1,), self.confidence)
        teacher = peaked("core.virtual_teacher", confidence, label, student.shape[-1])
        if self.soften == "logarithms":
            teacher = teacher.log()
        return divergence(teacher / positive("core.virtual_teacher", "temperature", self.temperature), student)
