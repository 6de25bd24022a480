"""Divergence between the similarity distributions of a batch."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive
from mmkd.library.losses.similarity import similarity


class SimilarityKL(Loss):
    """Divergence between how student and teacher spread each sample's similarity over the batch (CLIP-KD, CRD).

    `KL(softmax_j(a_ij / T_teacher) || softmax_j(b_ij / T))`, where `a` and `b` are the teacher's and the student's
    cosines between sample i and sample j of the batch. The networks' widths may differ.

    - Pairs, `[image, text]` each: from image to texts and from text to images, averaged (Yang et al., 2024, "CRD";
      Wu et al., 2023, "affinity mimicking", is its cross-entropy; so is open_clip's distillation loss). Without
      `symmetric` only from the first to the second.
    - One value each: from every sample to all others; itself, always at cosine one, is left out
      (Fang et al., 2021).

    The temperatures are the scales of the networks' own similarities, `1 / logit_scale` in CLIP, and soften
    nothing; so there is no factor `T^2`. `teacher_temperature` is `temperature` unless given.

    Shape: student one or two values `[B, D]`, teacher one or two `[B, E]` -> `[B]`; nats. A batch of one is zero.

    Raises:
        GraphError: one side has a pair and the other does not, or values do not fit.
        RecipeError: a temperature is not greater than zero.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        teacher_temperature: Annotated[float, Field(gt=0)] | None = None,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = positive("core.similarity_kl", "temperature", temperature)
        self.teacher_temperature = teacher_temperature
        if teacher_temperature is not None:
            positive("core.similarity_kl", "teacher_temperature", teacher_temperature)
        self.symmetric = symmetric

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        student, teacher = _as_list(student), _as_list(teacher)
        if len(student) != len(teacher) or len(student) not in (1, 2):
            raise GraphError(
                f"student and teacher need one value each or a pair each, not {len(student)} and {len(teacher)}",
                where="core.similarity_kl",
            )
        if len(student[0]) != len(teacher[0]):
            raise GraphError(
                f"student has {len(student[0])} samples, teacher {len(teacher[0])}", where="core.similarity_kl"
            )
        temperature = positive("core.similarity_kl", "temperature", self.temperature)
        if (teacher_temperature := self.teacher_temperature) is None:
            teacher_temperature = temperature
        positive("core.similarity_kl", "teacher_temperature", teacher_temperature)
        b = self._similarity(student) / temperature
        a = self._similarity(teacher) / teacher_temperature
        loss = divergence(a, b)
        return (loss + divergence(a.T, b.T)) / 2 if self.symmetric and len(student) == 2 else loss

    def _similarity(self, values: list[Tensor]) -> Tensor:
        a, b = values[0], values[-1]
        if len(a) != len(b):
            raise GraphError(f"a pair has {len(a)} and {len(b)} samples", where="core.similarity_kl")
        matrix = similarity("core.similarity_kl", a, b)
        return matrix if len(values) == 2 else off_diagonal(matrix)

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(4, width, generator=generator) for width in (8, 8, 6, 6)]
        return {"student": values[:2], "teacher": values[2:]}


def _as_list(values: list[Tensor] | Tensor) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else values


def off_diagonal(matrix: Tensor) -> Tensor:
    """A square matrix without its diagonal. Shape: `[N, N]` -> `[N, N - 1]`."""
    size = len(matrix)
    if size < 2:
        return matrix[:, :0]
    return matrix.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
