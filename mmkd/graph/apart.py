"""Gradients of groups of losses, kept apart until the optimiser."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.errors import GraphError
from mmkd.graph import ranks
from mmkd.graph.objective import Objective
from mmkd.graph.phase import Phase


class Apart:
    """The gradients of one step by group, in the order of the phase's parameters; `parameter.grad` is their sum.

    Args:
        groups: names of losses by group.
        phase: whose parameters.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], phase: Phase) -> None:
        self.groups, self.phase = groups, phase
        self.gradients: dict[str, list[Tensor | None]] = {group: [None] * len(phase.parameters) for group in groups}

    def backward(self, objective: Objective) -> None:
        """Add the gradients of a batch."""
        *_, last = self.groups
        for group, names in self.groups.items():
            loss = objective.total(names)
            if loss.requires_grad:
                with self.into(group):
                    loss.backward(retain_graph=group != last)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def into(self, group: str) -> Iterator[None]:
        """Inside, what is accumulated on the parameters is this group's."""
        self._put(self.gradients[group])
        yield
        self.gradients[group] = [parameter.grad for parameter in self.phase.parameters]

    def average(self) -> None:
        """Give every rank the means over the ranks."""
        several = list(self.gradients.values())
        made = ranks.average([g for own in several for g in own], [*self.phase.parameters] * len(several))
        size = len(self.phase.parameters)
        self.gradients = {group: made[i * size : (i + 1) * size] for i, group in enumerate(self.gradients)}

    def sum_up(self) -> None:
        """Put the sum of the groups where an optimiser looks for the gradient."""
        columns = zip(*self.gradients.values(), strict=True)
        present = ([gradient for gradient in column if gradient is not None] for column in columns)
        self._put([functools.reduce(torch.add, column) if column else None for column in present])

    def clip(self, max_norm: float) -> Tensor:
        """Scale all groups alike, so that their sum is at most `max_norm`; returns its norm before."""
        norm = torch.nn.utils.get_total_norm(self.phase.gradients())
        held = [gradient for own in self.gradients.values() for gradient in own if gradient is not None]
        torch._foreach_mul_(held, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        self.sum_up()
        return norm

    @contextlib.contextmanager
    def handed_to(self, optimizer: Optimizer) -> Iterator[None]:
        """Inside, the optimiser has the groups as its attribute `gradients`."""
        optimizer.gradients = self.gradients  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del optimizer.gradients  # type: ignore[attr-defined]

    def _put(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self.phase.parameters, gradients, strict=True):
            parameter.grad = gradient


def check(groups: Mapping[str, Sequence[str]] | None, losses: Sequence[str]) -> dict[str, list[str]]:
    """The groups of a procedure, none where it keeps nothing apart.

    Raises:
        GraphError: a loss is unknown, or not in exactly one group.
    """
    times = Counter(name for names in (groups or {}).values() for name in names)
    for name in times:
        if name not in losses:
            raise GraphError(f"there is no loss '{name}'", where="procedure", name=name, exists=losses)
    for name in losses if groups else ():
        if times[name] != 1:
            raise GraphError(
                f"loss '{name}' is in {times[name]} groups of gradients, not in one", where="procedure",
                exists=[f"{group}: {', '.join(names)}" for group, names in (groups or {}).items()],
            )  # fmt: skip
    return {group: list(names) for group, names in (groups or {}).items() if names}
