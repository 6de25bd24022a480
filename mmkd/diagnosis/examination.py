"""What the checks look at: the graph on one real batch, with values, losses and gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.components import Dataset, Sample
from mmkd.errors import MmkdError
from mmkd.graph.binding import Binding
from mmkd.graph.node import Node
from mmkd.graph.plan import preserved
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import Address
from mmkd.recipe import Recipe

Gradients = list[Tensor | None]
"""One entry per parameter of the main phase; None where a loss does not reach it."""


@dataclass
class Examination:
    """A copy of the graph, one real batch and what they give; nothing here belongs to the caller.

    What cannot be computed, since the graph could not be set up, is absent from `values`, `losses` and `gradients`.
    """

    recipe: Recipe
    graph: TrainingGraph
    train: Dataset
    evaluation: Mapping[str, Dataset]
    scored: Sequence[Address]
    """What the metrics read."""
    samples: Sequence[Sample]
    """Raw samples as the curators leave them."""
    batch: Mapping[str, Any]
    patience: float = 1.0
    """Seconds that a check may spend on reading data."""
    failed: bool = False
    """Whether the graph could not be set up."""
    trouble: list[MmkdError] = field(default_factory=list)
    """What went wrong on the way, beside that."""

    @property
    def size(self) -> int:
        """Samples in the batch."""
        return len(self.samples)

    def place(self, node: str) -> str:
        """Where a network stands in the recipe."""
        return self.recipe.place(node)

    def students(self) -> list[Node]:
        return [node for node in self.graph.roles.values() if node.trained]

    def constants(self) -> list[Node]:
        """The networks that are not trained, that some loss reads and that take no inner inputs."""
        read = {run.node.name for run in self.graph.plan.runs if not run.inner}
        return [node for node in self.graph.roles.values() if node.constant and node.name in read]

    def origins(self, address: Address) -> set[str]:
        """The networks that a value comes from, through projectors and mixers."""
        if address.node in self.graph.roles:
            return {address.node}
        bound = self.graph.bound.get(address.node)
        return set().union(*(self.origins(a) for a, _ in bound.readers())) if bound else set()

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What the main phase trains, by name."""
        owned = {id(p) for phase in self.graph.phases[-1:] for p in phase.parameters}
        return {name: p for name, p in self.graph.named_parameters() if id(p) in owned}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """What the losses read, with gradient, in training mode."""
        plan, values = self.graph.plan, dict[str, Tensor]()
        with self.graph._autocast():
            with self._noting("data.train"):
                values |= plan.read(self.batch)
            for step in plan.steps:
                with self._noting(step.where if isinstance(step, Binding) else self.place(step.node.name)):
                    plan.take(step, self.batch, values)
        return values

    @property
    def addressed(self) -> dict[str, Tensor]:
        """The values as most losses read them, by address."""
        return {key: value for key, value in self.values.items() if not key.endswith(")")}

    @cached_property
    def losses(self) -> dict[str, Tensor]:
        """Each loss before its weight."""
        found: dict[str, Tensor] = {}
        for term in self.graph.terms:
            with self._noting(term.binding.where):
                found[term.name] = term(self.values)
        return found

    @cached_property
    def gradients(self) -> dict[str, Gradients]:
        """The gradient of each loss, before its weight, on every trained parameter."""
        parameters = list(self.parameters.values())
        return {name: self.gradient(loss, parameters) for name, loss in self.losses.items()}

    @staticmethod
    def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
        """The gradient of a number; all None where it stands on no parameter."""
        if not loss.requires_grad or not parameters:
            return [None] * len(parameters)
        return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))

    def weight(self, term: Term) -> float:
        """The largest weight that a loss has at the start, in the middle and at the end of the run."""
        total = self.graph.total_steps
        return max((term.weight_at(step, total) for step in (0, total // 2, total)), key=abs)

    def answers(self, node: Node, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the losses read of a network, without gradient, under another seed than `values`."""
        values: dict[str, Tensor] = {}
        with preserved([node.encoder]), self.graph._autocast():
            torch.manual_seed(self.recipe.train.seed + 1)
            for run in self.graph.plan.runs:
                if run.node is node:
                    run(batch, values)
        return {key: value.clone() for key, value in values.items()}

    @contextlib.contextmanager
    def _noting(self, where: str) -> Iterator[None]:
        """Turn what is raised into a note of trouble, unless the graph is known not to work."""
        try:
            yield
        except Exception as error:
            if not self.failed:
                known = error if isinstance(error, MmkdError) else MmkdError(f"{type(error).__name__}: {error}")
                self.trouble.append(known if known.where else known.at(where))
