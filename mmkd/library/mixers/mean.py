"""Several teachers as one."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Mixer
from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive
from mmkd.library.mixers.mixture import alike, mixture

Share = Annotated[float, Field(ge=0)]


class MeanOfTeachers(Mixer):
    """Weighted mean of several teachers' distributions (an ensemble as the teacher: Hinton et al., 2015).

    `of: probabilities` gives `T log sum_i w_i softmax(t_i / T)`, logits that are the mean of the softened
    distributions in a loss of the same temperature T. `of: logits` gives `sum_i w_i t_i`, the normalised geometric
    mean at any temperature. The weights are brought to sum 1.

    With `certainty` c, a teacher's weight is `w_i exp(-c H_i)` for each sample or token, where `H_i` is the entropy
    of its softened distribution in nats: the surer one counts more. It sends no gradient.

    Shape: teachers, a list of `[B, V]` or `[B, T, V]` -> one of them; logits.

    Args:
        weights: one for each teacher, numbers or schedules; equal unless given.

    Raises:
        GraphError: the teachers' shapes differ.
        RecipeError: there is not one weight for each teacher, one is negative, or all are zero.
    """

    def __init__(
        self,
        weights: list[Share] | None = None,
        of: Literal["probabilities", "logits"] = "probabilities",
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        certainty: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        self.weights, self.of, self.certainty = weights, of, certainty
        self.temperature = positive("core.mean", "temperature", temperature)

    def forward(self, teachers: list[Tensor]) -> Tensor:
        teachers = alike("core.mean", teachers)
        temperature = positive("core.mean", "temperature", self.temperature)
        weights = self._weights(len(teachers))
        used = [(teacher, weight) for teacher, weight in zip(teachers, weights, strict=True) if weight]
        teachers = [teacher for teacher, _ in used]
        shares = teachers[0].new_tensor([weight for _, weight in used])
        if self.certainty:
            shares = shares * torch.stack([self._sureness(teacher / temperature) for teacher in teachers], -1)
        shares = shares / shares.sum(-1, keepdim=True)
        if self.of == "probabilities":
            return mixture(teachers, shares.log(), temperature)
        return (torch.stack(teachers, -2) * shares.unsqueeze(-1)).sum(-2)

    def _weights(self, count: int) -> list[float]:
        weights = [1.0] * count if self.weights is None else self.weights
        if len(weights) != count or min(weights) < 0 or not any(weights):
            raise RecipeError(
                f"needs {count} weights of at least 0, not all zero, one for each teacher; given {weights}",
                where="core.mean",
            )
        return weights

    @torch.no_grad()
    def _sureness(self, logits: Tensor) -> Tensor:
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
        return torch.exp(-self.certainty * entropy)
