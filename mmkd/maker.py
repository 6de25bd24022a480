"""A component of a recipe, built by its plugin's class and bound to what it reads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from mmkd import plugins
from mmkd.components import Encoder, Schedule
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.average import Average
from mmkd.graph.binding import Binding, bind
from mmkd.graph.form import Form
from mmkd.graph.node import Node
from mmkd.graph.scheduled import Scheduled
from mmkd.graph.term import Term
from mmkd.graph.value import Address, parse
from mmkd.graph.weighting import Share, Weighting
from mmkd.graph.wrap import wrap
from mmkd.recipe import Average as AverageSpec, Component, LossSpec, Node as NodeSpec, ProjectorSpec
from mmkd.signature import construct, options, ports
from mmkd.spec import Cache


class Maker:
    """Builds components of a recipe and notes the options that follow a schedule."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.scheduled: list[Scheduled] = []
        self.weightings: dict[str, Weighting] = {}
        """Schedules that have a name, given in the recipe or by the loss that they weigh."""

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
            if parameter is None or parameter.nested or parameter.maps:
                continue
            if isinstance(value, Mapping) and "use" in value:
                yield name, None, self.plain(value, f"{where}.{name}")
            for i, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, Mapping) and "use" in item:
                    yield name, i, self.plain(item, f"{where}.{name}.{i}")

    def plain(self, spec: Any, where: str) -> Schedule:
        """A schedule that needs nothing but the step, as an option must."""
        if ports(plugins.host().catalogue.get("schedule", spec["use"], where=f"{where}.use").load()):
            raise RecipeError(
                f"an option follows the step alone; {spec['use']} reads values, which only the weight of a loss may",
                where=where, next=f"mmkd show {spec['use']}",
            )  # fmt: skip
        made: Schedule = self.make("schedule", spec, where)
        return made

    def schedule(self, name: str, spec: Component, where: str) -> Weighting:
        """A schedule under a name, bound to the values that it reads."""
        if name in self.weightings:
            raise RecipeError(f"a schedule is called '{name}' already", where=where, next="name one under schedules:")
        made = Weighting(**vars(self.bound("schedule", name, spec.use, spec.arguments, where)))
        self.weightings[name] = made
        return made

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
            recast = not trained and (spec.precision or spec.layout)
            given = copy.deepcopy(given) if recast else given
            encoder = given if isinstance(given, Encoder) else wrap(given)
        elif spec.stage is not None:
            raise GraphError(
                f"is what stage '{spec.stage}' exports, which is not here", where=name,
                next=f"mmkd.distill runs all stages; or pass nodes={{'{name}': network}}",
            )  # fmt: skip
        elif spec.use is None:
            raise GraphError(
                "has no 'use' and was not handed in",
                where=name,
                next=f"pass nodes={{'{name}': network}} or write use: <id>",
            )
        else:
            encoder = self.component("encoder", spec.use, spec.arguments, name)
        use = "" if given is not None else spec.use or ""
        made = Node(name, encoder, trained, _inputs(name, spec), _inner(name, spec), use=use)
        if spec.cache is not None:
            made.cache = str(Cache.of(spec.cache))
        made.form = _form(spec)
        return made

    def average(self, name: str, spec: NodeSpec, rule: AverageSpec, student: Node) -> Node:
        """A copy of a student that follows it."""
        average = Average(
            rule.of, rule.kind, start=rule.start, every=rule.every,
            batch_norm=rule.batch_norm, refresh_batches=rule.refresh_batches,
        )  # fmt: skip
        if isinstance(rule.momentum, Component):
            momentum = rule.momentum
            schedule = self.plain({"use": momentum.use, **momentum.arguments}, f"{name}.average.momentum")
            self.scheduled.append(Scheduled(average, "momentum", schedule))
        else:
            average.momentum = rule.momentum
        encoder, inputs = copy.deepcopy(student.encoder), {**student.inputs, **_inputs(name, spec)}
        form = Form(layout=student.form.layout) if student.form else None
        return Node(name, encoder, False, inputs, _inner(name, spec), average, use=student.use, form=form)

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
        weight = self.weight(name, spec.weight, f"{where}.weight")
        cls: Any = plugins.host().catalogue.get("loss", spec.use, where=f"{where}.use").load()
        known = ports(cls)
        arguments = spec.arguments
        ours: dict[str, Address | None] = {"mask": None, "sample_weight": None}
        for port in ours:
            value = getattr(spec, port)
            if value is not None and port in known:
                arguments[port] = value  # the loss applies it itself
            if value is not None and (port not in known or (port == "mask" and cls.skips_masked)):
                ours[port] = parse(value, f"{where}.{port}")
        bound = self.bound("loss", name, spec.use, arguments, where)
        return Term(bound, weight, ours["mask"], ours["sample_weight"], spec.phase or "")

    def weight(self, loss: str, spec: float | str | Component, where: str) -> float | Schedule | Share:
        """The weight of a loss; a schedule that reads values is called `<loss>_weight`."""
        if isinstance(spec, str):
            return Share.parse(spec)
        if not isinstance(spec, Component):
            return spec
        if ports(plugins.host().catalogue.get("schedule", spec.use, where=f"{where}.use").load()):
            return Share.parse(self.schedule(f"{loss}_weight", spec, where).name)
        made: Schedule = self.made("schedule", spec, where)
        return made


def _form(spec: NodeSpec) -> Form | None:
    """What the recipe asks of a network's passes; None where it asks for nothing."""
    asked = spec.precision or spec.layout or spec.compile
    return Form(spec.precision, spec.layout, bool(spec.compile)) if asked else None


def _inner(name: str, spec: NodeSpec) -> dict[str, Address]:
    """The values that modules inside a network are given, by path."""
    inner = {own: address for own, address in spec.inputs.items() if own.startswith("/")}
    return {own[1:]: parse(address, f"{name}.inputs.{own}") for own, address in inner.items()}


def _inputs(name: str, spec: NodeSpec) -> dict[str, str]:
    """The batch fields that inputs of a network are rebound to."""
    inputs = {}
    for own, address in spec.inputs.items():
        if own.startswith("/"):
            continue
        source = parse(address, f"{name}.inputs.{own}")
        if source.node != "batch" or not source.name:
            raise GraphError("inputs are rebound to batch fields", where=f"{name}.inputs.{own}", next="batch.<field>")
        inputs[own] = source.name
    return inputs
