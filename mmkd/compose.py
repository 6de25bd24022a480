"""From a recipe to objects: every component built by its plugin's class, bound, and set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmkd import plugins
from mmkd.components import Curator, Dataset, Encoder, Schedule
from mmkd.engine.data import read
from mmkd.engine.evaluation import Evaluation, Measure
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.binding import Binding, bind
from mmkd.graph.collate import to_device
from mmkd.graph.node import Node
from mmkd.graph.term import Term
from mmkd.graph.training_graph import Scheduled, TrainingGraph
from mmkd.graph.value import Address, parse
from mmkd.graph.wrap import wrap
from mmkd.recipe import Component, LossSpec, Node as NodeSpec, ProjectorSpec, Recipe, blaming, load_recipe
from mmkd.signature import construct, options, ports


def build(
    recipe: Recipe | str | Mapping[str, Any],
    *,
    nodes: Mapping[str, nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
    example: Mapping[str, Any] | None = None,
) -> TrainingGraph:
    """Build the training graph of a recipe.

    Args:
        recipe: a recipe, its file or id, or a mapping.
        nodes: networks of your own by node name; plain modules are wrapped (`mmkd.wrap` says how in detail).
        data: datasets of your own: `{"train": dataset, "eval": dataset or {name: dataset}}`.
        example: a batch to infer shapes from; the first training samples otherwise.

    Raises:
        RecipeError, GraphError, PluginError: what is wrong and where in the recipe.
    """
    with blaming(recipe):
        return _build(load_recipe(recipe), nodes or {}, data, example)


def _build(
    recipe: Recipe, nodes: Mapping[str, nn.Module], data: Mapping[str, Any] | None, example: Mapping[str, Any] | None
) -> TrainingGraph:
    dataset = train_dataset(recipe, data) if example is None or recipe.train.epochs is not None else None
    total = steps_of(recipe, len(dataset) if dataset is not None else 0)
    maker = Maker(total)
    graph = TrainingGraph(
        _nodes(maker, recipe, nodes),
        {name: maker.projector(name, spec) for name, spec in recipe.projectors.items()},
        [maker.term(name, spec) for name, spec in recipe.losses.items()],
        maker.scheduled,
        total_steps=total,
        precision=recipe.train.precision,
    ).to(device_of(recipe))
    graph.exported = tuple(recipe.exported())
    if example is None:
        assert dataset is not None
        size = max([4, *(term.loss.min_batch for term in graph.terms)])
        example = graph.collate([read(dataset, i) for i in range(min(size, len(dataset)))])
    graph.setup(to_device(example, graph.device))
    plugins.host().call("mmkd_graph_built", graph=graph)
    return graph


def steps_of(recipe: Recipe, samples: int) -> int:
    """Optimiser steps of the run: as given, or epochs times whole batches; 1 where the recipe has no `train`."""
    if recipe.train.epochs is None:
        return recipe.train.steps or 1
    return max(1, recipe.train.epochs * (samples // recipe.data.batch_size))


def device_of(recipe: Recipe) -> torch.device:
    """The device that the recipe asks for, checked to exist."""
    name = recipe.train.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError("no CUDA device is available", where="train.device", next="train.device=auto")
    return torch.device(name)


def train_dataset(recipe: Recipe, data: Mapping[str, Any] | None = None) -> Dataset:
    """The training dataset: the user's own, or the recipe's."""
    if data and "train" in data:
        return data["train"]  # type: ignore[no-any-return]
    if recipe.data.train is None:
        raise RecipeError("no training data", where="data.train", next="mmkd list dataset, or pass data={'train': ...}")
    return Maker(1).made("dataset", recipe.data.train, "data.train")  # type: ignore[no-any-return]


def curators(recipe: Recipe) -> list[Curator]:
    """The curators of the recipe, in order."""
    return [Maker(1).made("curator", spec, f"data.curators.{i}") for i, spec in enumerate(recipe.data.curators)]


def evaluation(recipe: Recipe, data: Mapping[str, Any] | None = None) -> Evaluation:
    """Metrics and evaluation datasets of the recipe."""
    maker = Maker(1)
    own = (data or {}).get("eval")
    if own is None:
        named = recipe.data.eval_sets().items()
        where = {
            name: "data.eval" if isinstance(recipe.data.eval, Component) else f"data.eval.{name}" for name, _ in named
        }
        datasets = {name: maker.made("dataset", spec, where[name]) for name, spec in named}
    else:
        datasets = dict(own) if isinstance(own, Mapping) else {"eval": own}
    measures = []
    for i, spec in enumerate(recipe.evaluate):
        binding = maker.bound("metric", spec.title, spec.use, spec.arguments, f"evaluate.{i}")
        measures.append(Measure(binding, spec.every or recipe.train.eval_every))
    return Evaluation(measures, datasets, recipe.data.eval_batch_size or recipe.data.batch_size)


def _nodes(maker: Maker, recipe: Recipe, given: Mapping[str, nn.Module]) -> dict[str, Node]:
    students, teachers = recipe.student_nodes(), recipe.teacher_nodes()
    specs = {**students, **teachers}
    for name in given:
        if name not in specs:
            raise GraphError(
                f"the recipe has no node '{name}'", where="nodes", name=name, exists=list(specs),
                next=f"write students: {{{name}: {{}}}} or teachers: {{{name}: {{}}}} in the recipe",
            )  # fmt: skip
    return {name: maker.node(name, spec, name in students, given.get(name)) for name, spec in specs.items()}


class Maker:
    """Builds components of a recipe and notes the options that follow a schedule."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.scheduled: list[Scheduled] = []

    def make(self, kind: str, spec: Any, where: str) -> Any:
        """A nested component from its map in the recipe."""
        if not isinstance(spec, Mapping) or not isinstance(spec.get("use"), str):
            raise RecipeError(f"a {kind} is written as a map with 'use'", where=where, next=f"mmkd list {kind}")
        return self.component(kind, spec["use"], {n: v for n, v in spec.items() if n != "use"}, where)

    def made(self, kind: str, spec: Component, where: str) -> Any:
        """A component without ports, from its spec."""
        return self.component(kind, spec.use, spec.arguments, where)

    def component(self, kind: str, use: str, arguments: Mapping[str, Any], where: str) -> Any:
        """A component from its options; one that is a schedule's map follows the schedule."""
        cls = plugins.host().catalogue.get(kind, use, where=f"{where}.use").load()
        followed = {n: v for n, v in arguments.items() if self._is_schedule(cls, n, v)}
        schedules = {n: self.make("schedule", v, f"{where}.{n}") for n, v in followed.items()}
        starts = {n: s(0, self.total_steps) for n, s in schedules.items()}
        made = construct(cls, {**arguments, **starts}, self.make, where)
        for name, schedule in schedules.items():
            if not hasattr(made, name):
                raise RecipeError(
                    f"{cls.__name__} cannot follow a schedule: it has no attribute '{name}'", where=f"{where}.{name}"
                )
            self.scheduled.append(Scheduled(made, name, schedule))
        return made

    @staticmethod
    def _is_schedule(cls: type, name: str, value: Any) -> bool:
        parameter = options(cls).get(name)
        return isinstance(value, Mapping) and "use" in value and parameter is not None and not parameter.nested

    def bound(self, kind: str, name: str, use: str, arguments: Mapping[str, Any], where: str) -> Binding:
        """A component with ports beside its options, bound."""
        cls = plugins.host().catalogue.get(kind, use, where=f"{where}.use").load()
        known = ports(cls)
        for argument in arguments:
            if argument not in known and argument not in options(cls):
                raise RecipeError(
                    f"{use} has neither port nor option '{argument}'", where=f"{where}.{argument}", name=argument,
                    exists=[*known, *options(cls)], next=f"mmkd show {use}",
                )  # fmt: skip
        made = self.component(kind, use, {n: v for n, v in arguments.items() if n not in known}, where)
        binding = bind(name, made, {n: v for n, v in arguments.items() if n in known}, where)
        binding.use = use
        return binding

    def node(self, name: str, spec: NodeSpec, trained: bool, given: nn.Module | None) -> Node:
        """A network: built by its plugin, or the user's own."""
        if given is not None:
            encoder = given if isinstance(given, Encoder) else wrap(given)
        elif spec.use is None:
            raise GraphError(
                "has no 'use' and was not handed in",
                where=name,
                next=f"pass nodes={{'{name}': network}} or write use: <id>",
            )
        else:
            encoder = self.component("encoder", spec.use, spec.arguments, name)
        inputs = {}
        for own, address in spec.inputs.items():
            source = parse(address, f"{name}.inputs.{own}")
            if source.node != "batch" or not source.name:
                raise GraphError(
                    "inputs are rebound to batch fields", where=f"{name}.inputs.{own}", next="batch.<field>"
                )
            inputs[own] = source.name
        use = "" if given is not None else spec.use or ""
        return Node(name, encoder, trained, inputs, use=use, cache=spec.cache)

    def projector(self, name: str, spec: ProjectorSpec) -> Binding:
        """A projector with the value whose shape it must produce."""
        where = f"projectors.{name}"
        binding = self.bound("projector", name, spec.use, spec.arguments, where)
        if spec.like is not None:
            like = spec.like
            binding.like = (
                [parse(a, f"{where}.like") for a in like] if isinstance(like, list) else parse(like, f"{where}.like")
            )
        return binding

    def term(self, name: str, spec: LossSpec) -> Term:
        """A loss with its weight, mask and sample weight."""
        where = f"losses.{name}"
        weight: float | Schedule = (
            self.made("schedule", spec.weight, f"{where}.weight") if isinstance(spec.weight, Component) else spec.weight
        )
        known = ports(plugins.host().catalogue.get("loss", spec.use, where=f"{where}.use").load())
        arguments = spec.arguments
        ours: dict[str, Address | None] = {"mask": None, "sample_weight": None}
        for port in ours:
            value = getattr(spec, port)
            if value is not None and port in known:
                arguments[port] = value  # the loss applies it itself
            elif value is not None:
                ours[port] = parse(value, f"{where}.{port}")
        return Term(self.bound("loss", name, spec.use, arguments, where), weight, ours["mask"], ours["sample_weight"])
