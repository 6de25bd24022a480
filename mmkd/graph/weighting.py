"""Weights of losses that are values: made from the batch by a schedule, one number or one per sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmkd.components import Schedule
from mmkd.errors import GraphError
from mmkd.graph.binding import Binding
from mmkd.graph.value import Address

if TYPE_CHECKING:
    from mmkd.graph.term import Term


@dataclass(frozen=True)
class Share:
    """A weight by the name of a schedule: `alpha`, or `1 - alpha`."""

    address: Address
    rest: bool = False
    """Whether it is what the schedule leaves of 1."""

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `alpha` or `1 - alpha`."""
        name = text.rpartition("-")[2].strip()
        return cls(Address(name), name != text.strip())

    def times(self, loss: Tensor, values: Mapping[str, Tensor], where: str) -> Tensor:
        """The unreduced loss of an objective, times the weight.

        Raises:
            GraphError: the weight is one per sample, and the loss is not.
        """
        weight = values[self.address.key].to(loss.dtype)
        if self.rest:
            weight = 1.0 - weight
        if weight.dim() and not len(weight):
            return loss  # an empty batch: the loss is zero
        if weight.dim() and (not loss.dim() or len(loss) != len(weight)):
            raise GraphError(
                f"'{self.address}' is {list(weight.shape)}, the loss {list(loss.shape)}: not one weight per sample",
                where=f"{where}.weight", next="weigh a loss that returns [B] or [B, T]",
            )  # fmt: skip
        return loss * (weight[:, None] if weight.dim() < loss.dim() == 2 and weight.dim() else weight)

    def __str__(self) -> str:
        return f"1 - {self.address}" if self.rest else str(self.address)


@dataclass
class Weighting(Binding):
    """A schedule under a name: it may read values, which it sees detached, and may learn in a phase of its own."""

    step: int = 0
    total: int = 1

    @property
    def schedule(self) -> Schedule:
        assert isinstance(self.module, Schedule)
        return self.module

    @property
    def due(self) -> bool:
        """Whether its parameters are updated at this step."""
        return self.step % self.schedule.interval == 0

    def set(self, step: int, total: int) -> None:
        """Go to a step."""
        self.step, self.total = step, total

    def value(self, values: Mapping[str, Tensor]) -> Tensor:
        """The weight as every loss sees it: a number or one per sample, without gradient."""
        with torch.no_grad():
            return self.weight(values)

    def weight(self, values: Mapping[str, Tensor]) -> Tensor:
        """The weight, with gradient to the schedule's parameters.

        Raises:
            GraphError: it is neither `[]` nor `[B]`.
        """
        made = self.module(self.step, self.total, **self.arguments(values, float32=True, detached=True))
        weight = made if isinstance(made, Tensor) else torch.tensor(float(made))
        if weight.dim() > 1:
            raise GraphError(f"a schedule is a number, [] or [B], not {list(weight.shape)}", where=self.where)
        return weight


def learning(
    weightings: Mapping[str, Weighting], terms: Iterable[Term], lessons: Mapping[str, Sequence[Term]]
) -> list[str]:
    """The schedules that weigh a term of the objective and learn from lessons of their own.

    Raises:
        GraphError: lessons are for a schedule that weighs nothing.
    """
    weighing = {term.weight.address.node for term in terms if isinstance(term.weight, Share)}
    for name, group in lessons.items():
        if group and name not in weighing:
            raise GraphError(
                f"'{name}' is the weight of no loss", where=f"{group[0].binding.where}.phase", next=f"weight: {name}"
            )
    return [name for name, group in lessons.items() if group and weightings[name].schedule.lr > 0]


def check_learnable(weightings: Mapping[str, Weighting], taught: Iterable[str], used: Iterable[Binding]) -> None:
    """Raise where a schedule that has been set up learns nothing, or has nothing to learn with."""
    for binding in used:
        if not isinstance(binding, Weighting):
            continue
        name, module = binding.name, binding.schedule
        able = any(True for _ in module.parameters())
        if able and module.lr > 0 and name not in taught:
            raise GraphError(
                f"{type(module).__name__} learns, and no loss says what", where=binding.where,
                next=f"losses: {{meta: {{use: ..., phase: {name}}}}}, on samples of a stream of its own; or lr: 0",
            )  # fmt: skip
        if name in taught and not able:
            raise GraphError(f"{type(module).__name__} has no parameters to learn with", where=binding.where)


def check_readers(weightings: Mapping[str, Weighting], terms: Sequence[Term], derived: Iterable[Binding]) -> None:
    """Raise where something else than a weight reads a schedule, which could not learn from that."""
    factors = [(a, term.binding.where) for term in terms for a in (term.mask, term.sample_weight) if a is not None]
    read = [reader for binding in (*derived, *(term.binding for term in terms)) for reader in binding.readers()]
    for address, place in [*factors, *read]:
        if address.node in weightings:
            raise GraphError(
                f"'{address.node}' is a schedule and may be a weight only", where=place, next=f"weight: {address.node}"
            )
