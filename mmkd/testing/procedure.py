"""What a procedure must be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.compose import build
from mmkd.graph.training_graph import TrainingGraph
from mmkd.merge import merge
from mmkd.recipe import Recipe, load_recipe
from mmkd.spec import Train
from mmkd.staging import in_order
from mmkd.testing.module import refuses_to_build
from mmkd.testing.probe import NotApplicable, Probes, ask, require
from mmkd.testing.sameness import difference
from mmkd.testing.specimen import Specimen, seeded
from mmkd.testing.surroundings import changed, surroundings

WIDTH, CLASSES = 6, 4

TOY: dict[str, Any] = {
    "name": "toy",
    "teacher": {},
    "student": {},
    "losses": {
        "distill": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
        "label": {"use": "core.cross_entropy", "student": "student.logits"},
    },
    "data": {"batch_size": 8},
    "train": {"steps": 4, "lr": 0.1, "optimizer": "sgd", "device": "cpu"},
    "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1]}],
}
"""A teacher, a student, two losses: what a procedure is tried on."""


class ProcedureCase:
    """A procedure, and a recipe that it takes."""

    def __init__(self, specimen: Specimen, recipe: Mapping[str, Any], inert: tuple[str, ...]) -> None:
        self.specimen, self.inert = specimen, inert
        self.recipe: Recipe = load_recipe(merge(TOY, recipe))

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        return self.specimen.fresh(seed, changed)

    def behaviour(self, procedure: Any) -> list[Any]:
        """Its stages, its groups, and where two steps of its optimiser lead."""
        stages = [(stage.name, stage.recipe.to_dict(), stage.start) for stage in procedure.stages(self.recipe)]
        return [str(stages), str(procedure.groups(list(self.recipe.losses))), self.moved(procedure)]

    def optimizer(self, procedure: Any, parameters: list[nn.Parameter]) -> Any:
        """Its optimiser, or `NotApplicable`."""
        made = procedure.optimizer(parameters, Train(steps=4, optimizer="sgd", lr=0.1))
        if made is None:
            raise NotApplicable
        return made

    def moved(self, procedure: Any) -> list[Tensor]:
        """Parameters after two steps; none where it has no optimiser of its own."""
        parameters = self.parameters()
        try:
            optimizer = self.optimizer(procedure, parameters)
        except NotApplicable:
            return []
        for step in range(2):
            self.step(procedure, optimizer, parameters, step)
        return [parameter.detach().clone() for parameter in parameters]

    def step(self, procedure: Any, optimizer: Any, parameters: list[nn.Parameter], seed: int) -> None:
        """One step on gradients of our own, group by group."""
        groups = procedure.groups(list(self.recipe.losses)) or {"all": list(self.recipe.losses)}
        generator = torch.Generator().manual_seed(seed)
        gradients = {name: [torch.randn(p.shape, generator=generator) for p in parameters] for name in groups}
        for parameter, *parts in zip(parameters, *gradients.values(), strict=True):
            parameter.grad = torch.stack(parts).sum(0)
        optimizer.gradients = gradients
        optimizer.step()

    @staticmethod
    def parameters() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(7)
        return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((CLASSES, WIDTH), (CLASSES,))]

    def graph(self, recipe: Recipe) -> TrainingGraph:
        """The graph of a recipe over two linear networks, for those nodes that are handed in."""
        specs = {**recipe.student_nodes(), **recipe.teacher_nodes()}
        with seeded(3):
            networks = {n: nn.Linear(WIDTH, CLASSES) for n, spec in specs.items() if not (spec.use or spec.average)}
        return build(recipe, nodes=networks, example=batch(0))


def batch(seed: int) -> dict[str, Any]:
    """A batch that the toy recipe takes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (8,), generator=generator)
    return {"image": torch.randn(8, WIDTH, generator=generator), "label": label}


PROCEDURE = Probes()


@PROCEDURE("give every option a default, or options={...} and recipe={...} to the check", first=True)
def runs(case: ProcedureCase) -> None:
    """Nothing else can be said of a procedure that makes nothing of an ordinary recipe."""
    refuses_to_build(case.specimen)
    in_order(case.fresh(), case.recipe)


@PROCEDURE("compute the stages from options and recipe alone")
def pure(case: ProcedureCase) -> None:
    """They are asked for again to resume, to explain and to examine: other stages would be another run."""
    procedure, before, data = case.fresh(), surroundings(), case.recipe.to_dict()
    first = [(stage.name, stage.recipe, stage.start) for stage in procedure.stages(case.recipe)]
    again = [(stage.name, stage.recipe, stage.start) for stage in procedure.stages(case.recipe)]
    fresh = [(stage.name, stage.recipe, stage.start) for stage in case.fresh().stages(case.recipe)]
    require(first == again, "asked twice it gives other stages")
    require(first == fresh, "two equal instances give other stages")
    require(case.recipe.to_dict() == data, "changes the recipe that it was given")
    require(not changed(before), f"changes {', '.join(changed(before))}")


@PROCEDURE("make stages with recipe.patched({...}), every value and loss of which exists")
def stages_train(case: ProcedureCase) -> None:
    """A stage that cannot be built ends the run after hours."""
    for stage in in_order(case.fresh(), case.recipe).values():
        graph = case.graph(stage.recipe)
        require(graph.phases[-1].parameters, f"stage '{stage.name}' trains nothing")


@PROCEDURE("return every loss in exactly one group")
def groups_cover(case: ProcedureCase) -> None:
    """A loss in no group would have no gradient, one in two groups would count twice."""
    for losses in (list(case.recipe.losses), ["label"], []):
        groups = case.fresh().groups(losses)
        if groups is None:
            raise NotApplicable
        held = sorted(name for members in groups.values() for name in members)
        require(held == sorted(losses), f"of losses {losses} the groups hold {held}")


@PROCEDURE("optimise exactly the parameters that were given")
def optimizer_owns(case: ProcedureCase) -> None:
    """Checkpoints, clipping and the learning rate's course go by the optimiser's parameters."""
    parameters = case.parameters()
    optimizer = case.optimizer(case.fresh(), parameters)
    require(isinstance(optimizer, torch.optim.Optimizer), f"is {type(optimizer).__name__}, no torch Optimizer")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    require(held == {id(p) for p in parameters}, "holds other parameters than it was given")
    require(all("lr" in group for group in optimizer.param_groups), "a group has no 'lr' for the schedule to set")


@PROCEDURE("keep all state in Optimizer.state, as tensors and numbers")
def optimizer_resumes(case: ProcedureCase) -> None:
    """A resumed run goes on from `state_dict()`, bit for bit."""
    procedure, parameters = case.fresh(), case.parameters()
    optimizer = case.optimizer(procedure, parameters)
    for step in range(2):
        case.step(procedure, optimizer, parameters, step)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    resumed = case.optimizer(case.fresh(), copies)
    resumed.load_state_dict({**resumed.state_dict(), "state": copy.deepcopy(optimizer.state_dict()["state"])})
    case.step(procedure, optimizer, parameters, 2)
    case.step(procedure, resumed, copies, 2)
    found = difference([p.detach() for p in parameters], [p.detach() for p in copies])
    require(not found, f"a resumed step leads elsewhere: {found}")


@PROCEDURE("use it in stages, groups or optimizer, or remove it")
def options_matter(case: ProcedureCase) -> None:
    """An option that does nothing is a typo or a lost line, and users will tune it."""
    from mmkd.testing.module import idle_options

    idle = idle_options(case)
    require(not idle, f"nothing changes with option {', '.join(idle)}")


def check_procedure(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a procedure everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class or an instance.
        options: options of the class; numbers without a default are filled in.
        recipe: changes to the recipe that it is tried on: `teacher` and `student` that publish `logits`, losses
            `distill` and `label`.
        inert: options that need not change anything.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    return ask(f"procedure {specimen.cls.__name__}", ProcedureCase(specimen, recipe or {}, inert), PROCEDURE)
