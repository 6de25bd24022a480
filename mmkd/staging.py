"""The trainings that a procedure makes of a recipe: where each lives, what it is given, what it goes on from."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from mmkd.compose import build, procedure_of
from mmkd.engine import checkpoint
from mmkd.engine.loop import Outcome
from mmkd.errors import GraphError, MmkdError, RecipeError, TrainingError
from mmkd.exported import from_pretrained
from mmkd.graph.state import carry
from mmkd.graph.training_graph import TrainingGraph
from mmkd.merge import merge
from mmkd.procedure import Procedure, Stage
from mmkd.recipe import Recipe, blaming, load_recipe
from mmkd.spec import Node, check_name


class Stages:
    """The stages of a recipe in order; one, the recipe itself, where no procedure makes more of it.

    The last stage lives in the folder of the run, those before it in `stages/<name>`.

    Args:
        recipe: the whole recipe.
        nodes: networks of the user's own; every stage begins with copies of them.
        data: datasets of the user's own.
        folder: the run's folder; without one, what an earlier stage would export stands there as it begins.

    Raises:
        RecipeError: a stage is no recipe, or names a stage that does not come before it.
    """

    def __init__(
        self,
        recipe: Recipe,
        nodes: Mapping[str, nn.Module] | None = None,
        data: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.recipe, self.nodes, self.data, self.folder = recipe, nodes or {}, data, folder
        self.all = in_order(procedure_of(recipe), recipe)
        known = {name for stage in self.all.values() for name in _networks(stage.recipe)}
        for name in self.nodes:
            if name not in known:
                raise GraphError(
                    f"the recipe has no node '{name}'", where="nodes", name=name, exists=sorted(known),
                    next=f"write students: {{{name}: {{}}}} or teachers: {{{name}: {{}}}} in the recipe",
                )  # fmt: skip

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.all.values())

    def __len__(self) -> int:
        return len(self.all)

    @property
    def last(self) -> Stage:
        """The stage that makes the student."""
        return list(self.all.values())[-1]

    def home(self, stage: Stage) -> Path:
        """The folder of a stage."""
        assert self.folder is not None
        return self.folder if stage is self.last else self.folder / "stages" / stage.name

    def build(self, stage: Stage) -> TrainingGraph:
        """The graph of a stage before its first step."""
        try:
            graph = build(stage.recipe, nodes=self.given(stage), data=self.data)
            for earlier in self._before(stage):
                self._carry(earlier, stage, graph)
            for name, spec in _networks(stage.recipe).items():
                graph.roles[name].changed = spec.stage is not None or (spec.frozen and stage.start is not None)
        except MmkdError as error:
            if len(self) > 1:
                error.at(f"stage '{stage.name}'")
            raise
        return graph

    def given(self, stage: Stage) -> dict[str, nn.Module]:
        """The networks that are handed in to a stage: copies of the user's, and what earlier stages exported."""
        specs = _networks(stage.recipe)
        own = {name: network for name, network in self.nodes.items() if name in specs and specs[name].stage is None}
        found = {name: copy.deepcopy(network) for name, network in own.items()}
        return found | {name: self._exported(spec.stage) for name, spec in specs.items() if spec.stage is not None}

    def resolved(self, stage: Stage) -> Recipe:
        """The recipe of a stage, its networks of earlier stages written as what they were exported as."""
        written: dict[str, Any] = {}
        for place, spec in ((stage.recipe.place(n), s) for n, s in _networks(stage.recipe).items()):
            if spec.stage is not None:
                name, _, network = spec.stage.partition(".")
                config = json.loads((self.home(self.all[name]) / "student" / "config.json").read_text())
                entry = config["nodes"][network or self.all[name].recipe.exported()[0]]
                if entry["use"] is None:
                    continue  # it was handed in
                kind, _, node = place.partition(".")
                whole = {"use": entry["use"], "inputs": entry["inputs"], **entry["options"]}
                written = merge(written, {kind: {node: whole} if node else whole})
        return stage.recipe.patched(written) if written else stage.recipe

    def finish(self, stage: Stage, outcome: Outcome) -> None:
        """Note that a stage has ended, so that a resumed run goes on after it."""
        checkpoint.write_json(self.home(stage) / "stage.json", asdict(outcome))

    def finished(self, stage: Stage) -> Outcome | None:
        """What a stage came to, where it has ended."""
        path = self.home(stage) / "stage.json"
        return Outcome(**json.loads(path.read_text())) if path.is_file() else None

    def _exported(self, reference: str) -> nn.Module:
        name, _, network = reference.partition(".")
        stage = self.all[name]
        network = network or stage.recipe.exported()[0]
        if self.folder is None:
            return copy.deepcopy(self.build(stage).roles[network].encoder)
        return from_pretrained(self.home(stage) / "student", nodes=self.given(stage)).roles[network].encoder

    def _before(self, stage: Stage) -> list[Stage]:
        """The stages that it goes on from, the first one first."""
        chain: list[Stage] = []
        while stage.start is not None:
            stage = self.all[stage.start]
            chain.insert(0, stage)
        return chain

    def _carry(self, earlier: Stage, stage: Stage, graph: TrainingGraph) -> None:
        """Put what an earlier stage has trained into the graph, wherever a name is the same."""
        if self.folder is None:
            return
        found = checkpoint.checkpoints(self.home(earlier))
        if not found:
            raise TrainingError(
                f"stage '{earlier.name}' has no checkpoint to go on from", where=str(self.home(earlier)),
                next="remove its folder and resume again",
            )  # fmt: skip
        fixed = tuple(f"nodes.{name}." for name, spec in _networks(stage.recipe).items() if spec.stage is not None)
        trained = load_file(found[-1] / "graph.safetensors")
        carry(graph, {name: tensor for name, tensor in trained.items() if not name.startswith(fixed)})


def _networks(recipe: Recipe) -> dict[str, Node]:
    return {**recipe.student_nodes(), **recipe.teacher_nodes()}


def in_order(procedure: Procedure | None, recipe: Recipe) -> dict[str, Stage]:
    """The stages that a procedure makes of a recipe, by name.

    Raises:
        RecipeError: a name is none or is there twice, or a stage refers to what does not come before it.
    """
    listed = [Stage("main", recipe)] if procedure is None else list(procedure.stages(recipe))
    if not listed:
        raise RecipeError("makes no stage", where="procedure", next="mmkd list procedure")
    stages: dict[str, Stage] = {}
    for stage in listed:
        where = f"procedure: stage '{stage.name}'"
        try:
            check_name(stage.name)
        except ValueError as error:
            raise RecipeError(str(error), where=where) from None
        if stage.name in stages:
            raise RecipeError("a second stage has this name", where=where)
        sources = {"start": stage.start, **{name: spec.stage for name, spec in _networks(stage.recipe).items()}}
        for place, source in sources.items():
            if source is not None:
                _check_before(source, stages, f"{where}: {place}")
        if len(listed) > 1 and (inner := procedure_of(stage.recipe)) and len(inner.stages(stage.recipe)) > 1:
            raise RecipeError("a stage has no stages of its own", where=f"{where}: procedure")
        stages[stage.name] = stage
    return stages


def _check_before(source: str, stages: Mapping[str, Stage], where: str) -> None:
    """Raise unless `STAGE` or `STAGE.NETWORK` is there."""
    name, _, network = source.partition(".")
    if name not in stages:
        raise RecipeError(f"'{name}' is no stage before it", where=where, name=name, exists=list(stages))
    if network and network not in (exported := stages[name].recipe.exported()):
        raise RecipeError(f"stage '{name}' exports no '{network}'", where=where, name=network, exists=exported)


def stages(recipe: Recipe | str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """The recipes that a recipe's procedure makes of it, by stage; `{"main": recipe}` without one.

    Raises:
        RecipeError: a stage is no recipe.
    """
    with blaming(recipe):
        return {stage.name: stage.recipe for stage in Stages(load_recipe(recipe, overrides))}
