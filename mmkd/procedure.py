"""A training scheme around the graph: stages of a run, gradients kept apart, an optimiser of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from mmkd.graph.training_graph import TrainingGraph
    from mmkd.recipe import Recipe
    from mmkd.spec import Train


@dataclass(frozen=True)
class Stage:
    """One training of several that make up a run: a recipe with optimisers, budget and schedules of its own."""

    name: str
    """Name of its folder under `stages/`, and of its scores."""
    recipe: Recipe
    """What is trained; `teacher: {stage: NAME}` in it is the network that an earlier stage exported."""
    start: str | None = None
    """Earlier stage whose weights it goes on from, wherever a name is the same; None starts from the beginning."""


class Procedure:
    """A training scheme around the graph.

    A procedure that is several trainings, one after the other, defines `stages`. One that changes how a step is made
    defines `groups`, `optimizer`, or both; one that needs no steps defines `fit`. What it does not define stays as it
    is without a procedure.
    """

    fit: Callable[[TrainingGraph, Callable[[Sequence[str]], dict[str, Tensor]]], None] | None = None
    """Instead of the steps of a training: `fit(graph, read)` gives the students their weights at once, in closed form.
    `read(addresses)` are the values of all training samples, in order, unchanged by curators, networks evaluating."""

    def stages(self, recipe: Recipe) -> Sequence[Stage]:
        """The trainings of a run in order, each made with `recipe.patched({...})`; the last one makes the student.

        A pure function of options and recipe: it is asked again to resume, to explain and to examine.
        """
        return [Stage("main", recipe)]

    def groups(self, losses: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
        """Names of losses whose gradients are kept apart until the optimiser, by group; None adds all of them up.

        Every loss is in one group. The optimiser finds `{group: [gradient or None per parameter]}` in its attribute
        `gradients` before each step, and their sum in `parameter.grad`.
        """
        return None

    def optimizer(self, parameters: Sequence[nn.Parameter], train: Train) -> Optimizer | None:
        """The optimiser of students and train-only parts; None takes that of `train.optimizer`."""
        return None
