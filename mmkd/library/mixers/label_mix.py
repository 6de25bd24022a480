"""The label mixed into a distribution."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Mixer
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.port import class_labels, positive, widen


class LabelMix(Mixer):
    """One target of the label and a distribution, which may be the network's own (Borup and Andersen, 2021).

    `T log(a onehot(label) + (1 - a) softmax(teacher / T))`: logits that, in a loss of the same temperature T, are the
    mixture. At `a = 0` it is the teacher, at `a = 1` the label. The teacher may be a network, its running average, or
    the student itself: `teacher: detach(student.logits)` (self-distillation).

    `a` is `alpha`, a number or a schedule, or what the port `share` reads, one for each sample or token, from 0 to 1.
    Where the label is negative (`-100`) there is none, and the teacher stays as it is.

    Shape: teacher `[B, V]`, label `[B]`, share `[B]` -> `[B, V]`; teacher `[B, T, V]`, label `[B, T]`, share `[B]` or
    `[B, T]` -> `[B, T, V]`; logits.

    Raises:
        GraphError: label or share do not have the teacher's shape without its last dimension.
        RecipeError: `alpha` is not from 0 to 1, or the temperature not above zero.
    """

    def __init__(
        self,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.temperature = alpha, positive("core.label_mix", "temperature", temperature)

    def forward(self, teacher: Tensor, label: Tensor, share: Tensor | None = None) -> Tensor:
        teacher = widen(teacher)
        label = class_labels("core.label_mix", teacher, label)
        temperature = positive("core.label_mix", "temperature", self.temperature)
        alpha = torch.where(label >= 0, self._alpha(teacher, share), 0.0).unsqueeze(-1)
        rest = (teacher / temperature).log_softmax(-1) + torch.log1p(-alpha)
        index = label.clamp(min=0).unsqueeze(-1)
        return temperature * rest.scatter(-1, index, torch.logaddexp(rest.gather(-1, index), alpha.log()))

    def _alpha(self, teacher: Tensor, share: Tensor | None) -> Tensor:
        """The share of the label, broadcast to all samples or tokens."""
        if share is None:
            if not 0 <= self.alpha <= 1:
                raise RecipeError(f"alpha must be from 0 to 1, not {self.alpha}", where="core.label_mix")
            return teacher.new_full(teacher.shape[:-1], self.alpha)
        if not share.dim() or share.shape != teacher.shape[: share.dim()] or share.dim() >= teacher.dim():
            raise GraphError(
                f"share {list(share.shape)} is not one for each sample or token of {list(teacher.shape)}",
                where="core.label_mix",
            )
        wide = widen(share).to(teacher.dtype)
        return wide.reshape(share.shape + (1,) * (teacher.dim() - 1 - share.dim())).expand(teacher.shape[:-1])
