"""Distance between sorted probabilities, for vocabularies that differ."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.port import positive, widen


class SortedDistance(Loss):
    """L1 distance between sorted probabilities, blind to which class is which, ULD (Boizard et al., 2024).

    `sum_k |q_(k) - p_(k)|` with the student's and the teacher's probabilities each in falling order and the shorter
    filled up with zeros: the optimal transport between them where all classes are equally far apart. Positions
    must correspond; vocabularies need not. As in the paper there is no factor `T^2`. The authors' code
    (Nicolas-BZRD/llm-recipes, `models/distillation_model.py`) averages over a sequence before it averages over the
    batch, the host over all tokens that count.

    Shape: student `[B, V]`, teacher `[B, W]` -> `[B]`, or `[B, T, V]`, `[B, T, W]` -> `[B, T]`; from 0 to 2.

    Raises:
        GraphError: the shapes differ in more than the last dimension.
        RecipeError: the temperature is not greater than zero.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.temperature = positive("core.uld", "temperature", temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[:-1] != teacher.shape[:-1]:
            raise GraphError(
                f"student {list(student.shape)} and teacher {list(teacher.shape)} may differ in the last size only",
                where="core.uld",
            )
        temperature = positive("core.uld", "temperature", self.temperature)
        size = max(student.shape[-1], teacher.shape[-1])
        q, p = (F.pad(ordered(widen(x) / temperature), (0, size - x.shape[-1])) for x in (student, teacher))
        return (q - p).abs().sum(-1)


def ordered(logits: Tensor) -> Tensor:
    """Probabilities in falling order."""
    return logits.softmax(-1).sort(-1, descending=True).values
