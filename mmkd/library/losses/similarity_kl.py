"""Divergence between the similarity distributions of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.kl import divergence
from mmkd.library.losses.port import positive
from mmkd.library.losses.similarity import embeddings, similarity
from mmkd.library.losses.tiles import Product, Softmax, Tile, by_tiles, fits


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

    Cosines of a large batch are made a tile at a time (`losses/tiles.py`): memory grows with B, not with its square.

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
        products = [
            self._product(values, 1 / t) for values, t in ((student, temperature), (teacher, teacher_temperature))
        ]
        pairs = len(student) == 2
        if fits(*student, *teacher):
            return self._whole(pairs, products)
        for a, b, _ in products:
            embeddings("core.similarity_kl", a, b)
        return by_tiles(partial(_Spread, pairs), self.symmetric and pairs, products, partial(self._whole, pairs))

    def _whole(self, pairs: bool, products: Sequence[Product]) -> Tensor:
        matrices = [scale * similarity("core.similarity_kl", a, b) for a, b, scale in products]
        b, a = matrices if pairs else map(off_diagonal, matrices)
        loss = divergence(a, b)
        return (loss + divergence(a.T, b.T)) / 2 if self.symmetric and pairs else loss

    def _product(self, values: list[Tensor], scale: float) -> Product:
        a, b = values[0], values[-1]
        if len(a) != len(b):
            raise GraphError(f"a pair has {len(a)} and {len(b)} samples", where="core.similarity_kl")
        return a, b, scale

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


class _Spread:
    """The divergence of every row of the student's matrix from the teacher's.

    Args:
        itself: whether the diagonal counts.
        size: how many rows.
        like: a tensor of the precision and on the device to use.
    """

    def __init__(self, itself: bool, size: int, like: Tensor) -> None:
        self.student, self.teacher = Softmax(size, like), Softmax(size, like)
        self.gap = like.new_zeros(size)
        self.itself = itself

    def add(self, rows: slice, columns: slice, tile: Tile) -> None:
        gap = tile[1] - tile[0]
        own, given = self._counted(rows, columns, tile)
        self.student.add(rows, own)
        weights, fade = self.teacher.add(rows, given)
        self.gap[rows] = self.gap[rows] * fade + torch.linalg.vecdot(weights, gap)

    def value(self) -> Tensor:
        return self._mean_gap() - self.teacher.logarithm() + self.student.logarithm()

    def slopes(
        self, rows: slice, columns: slice, tile: Tile, upstream: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        own, given = self._counted(rows, columns, tile)
        weight = upstream[rows, None]
        p, q = self.teacher.probabilities(rows, given), self.student.probabilities(rows, own)
        student = q.sub_(p).mul_(weight) if wanted[0] else None
        if not wanted[1]:
            return [student, None]
        gap = (tile[1] - tile[0]).sub_(self._mean_gap()[rows, None])
        return [student, p.mul_(gap).mul_(weight)]

    def _mean_gap(self) -> Tensor:
        return self.gap / self.teacher.total

    def _counted(self, rows: slice, columns: slice, tile: Tile) -> Tile:
        if self.itself or rows != columns:
            return tile
        own = torch.eye(len(tile[0]), dtype=torch.bool, device=tile[0].device)
        return [part.masked_fill(own, -math.inf) for part in tile]
