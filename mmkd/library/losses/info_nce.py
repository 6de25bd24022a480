"""Contrast between the student's and the teacher's embeddings of a batch."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.similarity import similarity

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
        logits = self.scale() * similarity("core.info_nce", student, teacher)
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
