"""Contrast between the student's and the teacher's embeddings of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.similarity import embeddings, similarity
from mmkd.library.losses.tiles import Product, Softmax, Tile, by_tiles, fits

MAX_SCALE = 100.0
"""A learnt temperature stays above 1 / 100 (CLIP)."""


class InfoNCE(Loss):
    """Find each sample's teacher embedding among those of the batch (van den Oord et al., 2018; Radford et al., 2021).

    `-log exp(c_ii / T) / sum_j exp(c_ij / T)` with `c_ij = cos(student_i, teacher_j)`; `symmetric` averages it with
    the same search for the student's embedding from the teacher's side. Both ports may come from one network, as
    the image and the text of CLIP do.

    With `group`, samples of equal id (one image under several captions) are no negatives of each other: each is
    a positive as good as the sample's own, and the loss is averaged over them (Khosla et al., 2020, `L_out`). Its
    least value is then the logarithm of their number. Distinct ids change nothing.

    With `learnable`, the logarithm of `1 / T` is a parameter that serves training only, starts at `temperature`
    and is brought back to `1 / T = 100` by `update()` where an optimiser step took it past that.

    Cosines of a large batch are made a tile at a time (`losses/tiles.py`): memory grows with B, not with its square.

    Shape: student, teacher `[B, D]`, group `[B]` (integer ids) -> `[B]`; nats. A batch of one is a constant zero.

    Raises:
        GraphError: the shapes differ.
        RecipeError: the temperature is not greater than zero, or a learnable one is less than 0.01.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self, temperature: Annotated[float, Field(gt=0)] = 0.07, learnable: bool = False, symmetric: bool = True
    ) -> None:
        super().__init__()
        self.temperature = positive("core.info_nce", "temperature", temperature)
        self.symmetric = symmetric
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learnable else None
        if learnable and temperature < 1 / MAX_SCALE:
            raise RecipeError(f"a learnable temperature is at least 0.01, not {temperature}", where="core.info_nce")

    def scale(self) -> Tensor | float:
        """What similarities are multiplied by."""
        if self.log_scale is None:
            return 1 / positive("core.info_nce", "temperature", self.temperature)
        return self.log_scale.exp()

    def forward(self, student: Tensor, teacher: Tensor, group: Tensor | None = None) -> Tensor:
        student, teacher = same_shape("core.info_nce", student, teacher)
        product = (student, teacher, self.scale())
        if fits(student, teacher):
            return self._whole(group, [product])
        embeddings("core.info_nce", student, teacher)
        return by_tiles(partial(_Search, group), self.symmetric, [product], partial(self._whole, group))

    def _whole(self, group: Tensor | None, products: Sequence[Product]) -> Tensor:
        ((student, teacher, scale),) = products
        logits = scale * similarity("core.info_nce", student, teacher)
        loss = self._search(logits, group)
        return (loss + self._search(logits.T, group)) / 2 if self.symmetric else loss

    def _search(self, logits: Tensor, group: Tensor | None) -> Tensor:
        if group is None:
            return logits.logsumexp(1) - logits.diagonal()
        positives = (group[:, None] == group[None, :]).to(logits.dtype)
        return logits.logsumexp(1) - (positives * logits).sum(1) / positives.sum(1)

    @torch.no_grad()
    def update(self) -> None:
        """Bring a learnt scale past 100 back to it. Clamping in `forward` instead would stop its gradient for good."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=math.log(MAX_SCALE))


class _Search:
    """The search of every row for its own among the columns."""

    def __init__(self, group: Tensor | None, size: int, like: Tensor) -> None:
        self.softmax = Softmax(size, like)
        self.group = group
        self.positive, self.count = like.new_zeros(size), like.new_zeros(size)

    def add(self, rows: slice, columns: slice, tile: Tile) -> None:
        (logits,) = tile
        self.softmax.add(rows, logits)
        if self.group is None and rows == columns:
            self.positive[rows], self.count[rows] = logits.diagonal(), 1
        elif self.group is not None:
            own = self._own(self.group, rows, columns)
            self.positive[rows] += torch.where(own, logits, 0).sum(1)
            self.count[rows] += own.sum(1)

    def value(self) -> Tensor:
        return self.softmax.logarithm() - self.positive / self.count

    def slopes(
        self, rows: slice, columns: slice, tile: Tile, upstream: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        slope = self.softmax.probabilities(rows, tile[0])
        if self.group is None and rows == columns:
            slope.diagonal().sub_(1)
        elif self.group is not None:
            slope -= self._own(self.group, rows, columns) / self.count[rows, None]
        return [slope.mul_(upstream[rows, None])]

    def _own(self, group: Tensor, rows: slice, columns: slice) -> Tensor:
        return group[rows, None] == group[columns]
