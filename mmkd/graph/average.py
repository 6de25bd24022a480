"""A network whose weights are a running average of another's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmkd.errors import GraphError


class Average(nn.Module):
    """The rule by which a network follows another one, applied once per applied optimiser step.

    `ema`: `average <- momentum * average + (1 - momentum) * student` (mean teacher: Tarvainen and Valpola, 2017).
    `uniform`: the arithmetic mean of the student's weights (averaged weights: Izmailov et al., 2018).

    Everything of floating point is averaged, BatchNorm's statistics included; counters are copied. The network itself
    runs in evaluation mode and without gradient. Averaged statistics are not those of averaged weights: `refresh` has
    the engine take them anew before it evaluates and exports; in between, and for losses, they are averages.

    Args:
        of: name of the network that is followed.
        kind: the rule.
        momentum: share of itself that an `ema` keeps; may follow a schedule.
        start: updates before this step copy the student, so that the average begins there.
        every: steps from one update to the next.
        batch_norm: where the statistics of BatchNorm come from at use, `average` or `refresh`.
        refresh_batches: training batches that a refresh reads, or the whole training set where that has fewer.

    Raises:
        GraphError: the momentum is not from 0 to 1.
    """

    taken: Tensor
    """Updates since `start`."""

    def __init__(
        self,
        of: str,
        kind: Literal["ema", "uniform"] = "ema",
        momentum: float = 0.999,
        start: int = 0,
        every: int = 1,
        batch_norm: Literal["average", "refresh"] = "average",
        refresh_batches: int = 100,
    ) -> None:
        super().__init__()
        self.of, self.kind, self.momentum, self.start, self.every = of, kind, momentum, start, every
        self.batch_norm, self.refresh_batches = batch_norm, refresh_batches
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, average: nn.Module, student: nn.Module, step: int, skipped: Tensor | None = None) -> None:
        """Move `average` towards `student` after an optimiser step; by nothing where `skipped` is 1 on the device."""
        if step % self.every:
            return
        share = self._share(step)
        if skipped is not None:
            share = torch.where(skipped > 0, 0.0, share)
        means, targets = [], []
        for mean, target in zip(_state(average), _state(student), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                targets.append(target)
            else:
                mean.copy_(target)
        weights = [share.to(mean.dtype) for mean in means] if isinstance(share, Tensor) else share
        torch._foreach_lerp_(means, targets, weights)
        if step > self.start:
            self.taken += 1 if skipped is None else skipped.logical_not()

    def _share(self, step: int) -> float | Tensor:
        """How much of the student goes into the average."""
        if step <= self.start:
            return 1.0
        if self.kind == "uniform":
            return 1.0 / (self.taken + 1)
        if not 0 <= self.momentum <= 1:
            raise GraphError(f"momentum must be from 0 to 1, not {self.momentum}", where="average.momentum")
        return 1.0 - self.momentum


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
