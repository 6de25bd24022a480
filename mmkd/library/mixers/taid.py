"""A target that moves from the student to the teacher."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmkd import Mixer
from mmkd.errors import RecipeError
from mmkd.library.losses.port import same_shape


class TemporalInterpolation(Mixer):
    """Temporally adaptive interpolation between student and teacher (TAID: Shing et al., 2025).

    `(1 - t) stop(student) + t teacher`, in logits: the student sends no gradient. After each optimiser step, with the
    cross-entropy L of the student under this target, `m <- beta m + (1 - beta) (L_before - L) / L_before` and
    `t <- min(end, max(start + (end - start) step / total, t + alpha sigmoid(m) (1 - t)))`: t never falls, follows
    at least a straight line, hurries while the student does well, and is `end` after the last step. The first step
    only remembers its L. `alpha = 0` is the line alone; `start = end` is a fixed t.

    The authors (SakanaAI/TAID, `src/distil_losses/taid.py`) minimise the cross-entropy to the target, `core.kl` the
    divergence from it: the gradient is the same, since the target sends none. Their step counts from 0, so that their
    line lies one step behind.

    Shape: student, teacher `[B, V]` or `[B, T, V]`, mask `[B]` or `[B, T]` (what counts in L) -> as student; logits.

    Raises:
        GraphError: the shapes differ.
        RecipeError: not `0 <= start <= end <= 1`.
    """

    t: Tensor
    """The teacher's share."""
    momentum: Tensor
    previous: Tensor
    """L of the step before; infinite before there is one."""

    def __init__(
        self,
        start: Annotated[float, Field(ge=0, le=1)] = 0.4,
        end: Annotated[float, Field(ge=0, le=1)] = 1.0,
        alpha: Annotated[float, Field(ge=0, le=1)] = 5e-4,
        beta: Annotated[float, Field(ge=0, lt=1)] = 0.99,
    ) -> None:
        super().__init__()
        if not 0 <= start <= end <= 1:
            raise RecipeError(f"needs 0 <= start <= end <= 1, not start {start} and end {end}", where="core.taid")
        self.start, self.end, self.alpha, self.beta = start, end, alpha, beta
        self.register_buffer("t", torch.tensor(start))
        self.register_buffer("momentum", torch.zeros(()))
        self.register_buffer("previous", torch.tensor(torch.inf))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        student, teacher = same_shape("core.taid", student.detach(), teacher)
        t = self.t.to(student.dtype)  # a share of zero of -inf is nothing
        return torch.where(t < 1, (1 - t) * student, 0.0) + torch.where(t > 0, t * teacher, 0.0)

    def update(self, student: Tensor, teacher: Tensor, step: int, total: int, mask: Tensor | None = None) -> None:
        loss = self._loss(student, self(student, teacher), mask).to(self.t.dtype)
        change = (self.previous - loss) / (self.previous + 1e-15)
        momentum = self.beta * self.momentum + (1 - self.beta) * change
        line = self.start + (self.end - self.start) * min(1.0, step / total)
        t = (self.t + self.alpha * momentum.sigmoid() * (1 - self.t)).clamp(min=line).clamp(max=self.end)
        known = self.previous.isfinite() & loss.isfinite()
        self.momentum = torch.where(known, momentum, self.momentum)
        self.t = torch.where(known, t, self.t)
        self.previous = torch.where(loss.isfinite(), loss, self.previous)

    @staticmethod
    def _loss(student: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Cross-entropy of the student under the target, over what counts."""
        p = target.softmax(-1)
        loss = -(p * torch.where(p > 0, student.log_softmax(-1), 0.0)).sum(-1)
        if mask is None:
            return loss.mean()
        weight = mask.to(loss.dtype).reshape(mask.shape + (1,) * (loss.dim() - mask.dim())).expand_as(loss)
        return torch.where(weight > 0, loss * weight, 0.0).sum() / weight.sum()
