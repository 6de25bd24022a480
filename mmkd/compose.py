"""From a recipe to objects: every component built by its plugin's class, bound, and set up."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from mmkd import plugins
from mmkd.components import Curator, Dataset, Encoder, Schedule
from mmkd.engine import attention
from mmkd.engine.data import first_batch
from mmkd.engine.evaluation import Evaluation, Measure
from mmkd.engine.fields import Fields, Mapped, usable
from mmkd.engine.stream import Stream
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.average import Average
from mmkd.graph.binding import Binding, bind
from mmkd.graph.collate import to_device
from mmkd.graph.node import Node
from mmkd.graph.plan import Plan
from mmkd.graph.term import Term
from mmkd.graph.training_graph import Scheduled, TrainingGraph
from mmkd.graph.value import Address, parse
from mmkd.graph.wrap import wrap
from mmkd.recipe import (
    Average as AverageSpec,
    Component,
    LossSpec,
    Node as NodeSpec,
    ProjectorSpec,
    Recipe,
    blaming,
    load_recipe,
)
from mmkd.signature import construct, options, ports
from mmkd.spec import StreamSpec


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
        data: datasets of your own: `{"train": dataset, "eval": dataset or {name: dataset}, "streams": {name: ...}}`.
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
    graph = assemble(recipe, nodes, len(dataset) if dataset is not None else 0)
    if example is None:
        size = max([4, *(term.loss.min_batch for term in graph.terms)])
        example = first_batch(streams(recipe, graph.plan, data, train=dataset), graph.collator(), size)
    graph.setup(to_device(example, graph.device))
    plugins.host().call("mmkd_graph_built", graph=graph)
    return graph


def assemble(recipe: Recipe, nodes: Mapping[str, nn.Module], samples: int) -> TrainingGraph:
    """The graph of a recipe for a training set of so many samples: bound, and not yet set up."""
    maker = Maker(steps_of(recipe, samples))
    graph = TrainingGraph(
        _nodes(maker, recipe, nodes),
        {name: maker.projector(name, spec) for name, spec in recipe.projectors.items()},
        [maker.term(name, spec) for name, spec in recipe.losses.items()],
        maker.scheduled,
        mixers={name: maker.mixer(name, spec) for name, spec in recipe.mixers.items()},
        total_steps=maker.total_steps,
        precision=recipe.train.precision,
    ).to(device_of(recipe))
    graph.exported = tuple(recipe.exported())
    half = recipe.train.precision == "bf16"
    decision = attention.decide(recipe.train.attention, graph.device, torch.bfloat16 if half else torch.float32)
    graph.attention, graph.decided = decision.rerouting(), {"attention": str(decision)}
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
    return _dataset(recipe.data.train, _own(data, "train"), recipe.data.fields, "data.train", "data={'train': ...}")


def streams(
    recipe: Recipe, plan: Plan, data: Mapping[str, Any] | None = None, *, train: Dataset | None = None
) -> list[Stream]:
    """The training set first, then the other streams that the plan reads, each with those views that it reads.

    Args:
        recipe: a recipe.
        plan: what its losses read.
        data: datasets of the user's own.
        train: what `train_dataset` gives, where it is there already.

    Raises:
        GraphError: something is read on a stream or view that the recipe does not declare.
    """
    spec, own = recipe.data, _own(data, "streams") or {}
    declared = {name: spec.streams.get(name, StreamSpec()) for name in [*spec.streams, *own]}
    known = [*declared, *spec.views, *(view for stream in declared.values() for view in stream.views)]
    for key, place in plan.where.items():
        if (view := parse(key).view) and view not in known:
            raise GraphError(
                f"'{key}' is read on a stream or view that data does not declare", where=place, name=view, exists=known,
                next=f"data.streams: {{{view}: {{dataset: {{use: ...}}}}}}, or data.views: {{{view}: [{{use: ...}}]}}",
            )  # fmt: skip
    common: dict[str, Any] = {"seed": recipe.train.seed, "skip": spec.on_bad_sample == "skip"}
    changes: list[Curator] | None = _curators(spec.curators, "data.curators")
    views = _views(spec.views, plan, "data.views")
    main = train if train is not None else train_dataset(recipe, data)
    found = [Stream("", main, spec.batch_size, changes, views, **common)]
    for name, stream in declared.items():
        where = f"data.streams.{name}"
        views = _views(stream.views, plan, f"{where}.views")
        if not views and name not in plan.nodes:
            continue
        fields = spec.fields if stream.fields is None else stream.fields
        hint = f"data={{'streams': {{'{name}': ...}}}}"
        dataset = _dataset(stream.dataset, own.get(name), fields, f"{where}.dataset", hint)
        own_changes = spec.curators if stream.curators is None else stream.curators
        changes = _curators(own_changes, f"{where}.curators") if name in plan.nodes else None
        size = stream.batch_size or spec.batch_size
        found.append(Stream(name, dataset, size, changes, views, where=where, **common))
    return found


def _views(specs: Mapping[str, list[Component]], plan: Plan, where: str) -> dict[str, list[Curator]]:
    return {name: _curators(own, f"{where}.{name}") for name, own in specs.items() if name in plan.nodes}


def _curators(specs: list[Component], where: str) -> list[Curator]:
    return [Maker(1).made("curator", spec, f"{where}.{i}") for i, spec in enumerate(specs)]


def _own(data: Mapping[str, Any] | None, part: str) -> Any:
    """What the user handed in for `train`, `eval` or `streams`."""
    parts = ("train", "eval", "streams")
    for name in data or ():
        if name not in parts:
            raise RecipeError("is no part of the data", where=f"data['{name}']", name=name, exists=parts)
    return (data or {}).get(part)


def _dataset(spec: Component | None, own: Any, fields: Mapping[str, str | int], where: str, hint: str) -> Dataset:
    """A dataset, handed in or built, its samples read through `fields`."""
    if own is None and spec is None:
        what = "no training data" if where == "data.train" else "no dataset"
        raise RecipeError(what, where=where, next=f"mmkd list dataset, or pass {hint}")
    dataset = own if own is not None else Maker(1).made("dataset", spec, where)  # type: ignore[arg-type]
    return Mapped(usable(dataset, where), Fields(fields)) if fields else usable(dataset, where)


def evaluation(recipe: Recipe, data: Mapping[str, Any] | None = None) -> Evaluation:
    """Metrics and evaluation datasets of the recipe."""
    maker = Maker(1)
    own, fields = _own(data, "eval"), recipe.data.fields
    if own is None:
        named = recipe.data.eval_sets().items()
        where = {
            name: "data.eval" if isinstance(recipe.data.eval, Component) else f"data.eval.{name}" for name, _ in named
        }
        datasets = {name: _dataset(spec, None, fields, where[name], "") for name, spec in named}
    else:
        given = own if isinstance(own, Mapping) else {"eval": own}
        datasets = {name: _dataset(None, dataset, fields, f"data.eval.{name}", "") for name, dataset in given.items()}
    measures = []
    for i, spec in enumerate(recipe.evaluate):
        binding = maker.bound("metric", spec.title, spec.use, spec.arguments, f"evaluate.{i}")
        measures.append(Measure(binding, spec.every or recipe.train.eval_every, spec.teacher_score))
    return Evaluation(measures, datasets, recipe.data.eval_batch_size or recipe.data.batch_size)


def _nodes(maker: Maker, recipe: Recipe, given: Mapping[str, nn.Module]) -> dict[str, Node]:
    students, teachers = recipe.student_nodes(), recipe.teacher_nodes()
    specs = {**students, **teachers}
    averages = {name: spec.average for name, spec in specs.items() if spec.average is not None}
    for name in given:
        if name not in specs:
            raise GraphError(
                f"the recipe has no node '{name}'", where="nodes", name=name, exists=list(specs),
                next=f"write students: {{{name}: {{}}}} or teachers: {{{name}: {{}}}} in the recipe",
            )  # fmt: skip
        if name in averages:
            raise GraphError(f"'{name}' is the average of '{averages[name].of}' and cannot be handed in", where="nodes")
    nodes: dict[str, Node] = {}
    for name, spec in specs.items():  # students first, so that what follows one finds it
        if spec.average is None:
            nodes[name] = maker.node(name, spec, name in students, given.get(name))
        else:
            nodes[name] = maker.average(name, spec, spec.average, nodes[spec.average.of])
    return nodes


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
        schedules = list(self._schedules(cls, arguments, where))
        starts = dict(arguments)
        for name, item, schedule in schedules:
            start = schedule(0, self.total_steps)
            if item is None:
                starts[name] = start
            else:
                starts[name] = [start if i == item else value for i, value in enumerate(starts[name])]
        made = construct(cls, starts, self.make, where)
        for name, item, schedule in schedules:
            if not hasattr(made, name):
                raise RecipeError(
                    f"{cls.__name__} cannot follow a schedule: it has no attribute '{name}'", where=f"{where}.{name}"
                )
            self.scheduled.append(Scheduled(made, name, schedule, item))
        return made

    def _schedules(
        self, cls: type, arguments: Mapping[str, Any], where: str
    ) -> Iterator[tuple[str, int | None, Schedule]]:
        """The options, and items of options that are lists, which follow a schedule."""
        for name, value in arguments.items():
            parameter = options(cls).get(name)
            if parameter is None or parameter.nested:
                continue
            if isinstance(value, Mapping) and "use" in value:
                yield name, None, self.make("schedule", value, f"{where}.{name}")
            for i, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, Mapping) and "use" in item:
                    yield name, i, self.make("schedule", item, f"{where}.{name}.{i}")

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
        use = "" if given is not None else spec.use or ""
        return Node(name, encoder, trained, _inputs(name, spec), use=use, cache=spec.cache)

    def average(self, name: str, spec: NodeSpec, rule: AverageSpec, student: Node) -> Node:
        """A copy of a student that follows it."""
        average = Average(rule.of, rule.kind, start=rule.start, every=rule.every)
        if isinstance(rule.momentum, Component):
            schedule = self.made("schedule", rule.momentum, f"{name}.average.momentum")
            self.scheduled.append(Scheduled(average, "momentum", schedule))
        else:
            average.momentum = rule.momentum
        encoder, inputs = copy.deepcopy(student.encoder), {**student.inputs, **_inputs(name, spec)}
        return Node(name, encoder, False, inputs, average, use=student.use)

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

    def mixer(self, name: str, spec: Component) -> Binding:
        """A mixer, bound."""
        return self.bound("mixer", name, spec.use, spec.arguments, f"mixers.{name}")

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


def _inputs(name: str, spec: NodeSpec) -> dict[str, str]:
    """The batch fields that inputs of a network are rebound to."""
    inputs = {}
    for own, address in spec.inputs.items():
        source = parse(address, f"{name}.inputs.{own}")
        if source.node != "batch" or not source.name:
            raise GraphError("inputs are rebound to batch fields", where=f"{name}.inputs.{own}", next="batch.<field>")
        inputs[own] = source.name
    return inputs
