"""Phases of a step: which losses move which parameters, in which direction, how often."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkd.errors import GraphError
from mmkd.graph import ranks


@dataclass(frozen=True)
class Phase:
    """One optimiser's part of a step. `main` trains students and train-only parts; each critic has its own."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    ascend: bool = False
    repeats: int = 1
    lr: float | None = None
    """Learning rate of a critic; the main phase takes the recipe's."""
    term: str | None = None
    """The one loss a critic's phase is about; None for all."""
    schedule: bool = False
    """Whether it moves a schedule, so that its lessons fall after the students' next step."""

    def gradients(self) -> list[Tensor]:
        """The gradients that the phase's loss has left on its parameters.

        Raises:
            GraphError: there is none at all.
        """
        gradients = [gradient for p in self.parameters if (gradient := p.grad) is not None]
        if not gradients:
            raise GraphError(
                f"no gradient reaches any parameter of phase '{self.name}'",
                next="mmkd explain RECIPE shows what is detached",
            )
        return gradients

    def average(self) -> None:
        """Give every rank the mean of the gradients over the ranks."""
        averaged = ranks.average([parameter.grad for parameter in self.parameters], self.parameters)
        for parameter, gradient in zip(self.parameters, averaged, strict=True):
            parameter.grad = gradient

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients to at most `max_norm`; returns their norm before."""
        norm = torch.nn.utils.get_total_norm(self.gradients())
        torch.nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        return norm

    def apply(self, optimizer: Optimizer, loss: Tensor) -> Tensor:
        """Take the optimiser's step unless the loss or a gradient is not finite.

        Fused optimisers on a GPU read the flag themselves, so that nothing waits for the device; any other
        optimiser waits for it.

        Returns:
            1.0 where something was not finite and the step was skipped, else 0.0.
        """
        one = _one(loss.device)
        found = torch.zeros_like(one)
        checked = [*self.gradients(), loss]
        torch._amp_foreach_non_finite_check_and_unscale_(checked, found, one)
        if reads_flag(optimizer, found):
            optimizer.grad_scale, optimizer.found_inf = None, found  # type: ignore[attr-defined]
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        elif not found:
            optimizer.step()
        return found


@functools.cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


def reads_flag(optimizer: Optimizer, found: Tensor) -> bool:
    """Whether the optimiser's kernel skips the step by itself; on a CPU reading the flag costs nothing."""
    return not found.is_cpu and getattr(optimizer, "_step_supports_amp_scaling", False)


@contextlib.contextmanager
def frozen(phases: Sequence[Phase]) -> Iterator[None]:
    """No gradient for the parameters of these phases."""
    held = [parameter for phase in phases for parameter in phase.parameters]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
