"""From a recipe to a training graph: every component built by its plugin's class, bound, and set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmkd import plugins
from mmkd.components import Dataset
from mmkd.datasets import batch_curators, streams, train_dataset
from mmkd.engine import attention
from mmkd.engine.data import first_batch
from mmkd.errors import GraphError, RecipeError
from mmkd.graph import gradient_cache
from mmkd.graph.collate import to_device
from mmkd.graph.node import Node
from mmkd.graph.training_graph import TrainingGraph
from mmkd.maker import Maker
from mmkd.procedure import Procedure
from mmkd.recipe import Recipe, blaming, load_recipe


def procedure_of(recipe: Recipe) -> Procedure | None:
    """The procedure of a recipe, built."""
    if recipe.procedure is None:
        return None
    made: Procedure = Maker(1).made("procedure", recipe.procedure, "procedure")
    return made


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
    if (procedure := procedure_of(recipe)) and len(stages := procedure.stages(recipe)) > 1:
        raise RecipeError(
            f"is made in stages ({', '.join(stage.name for stage in stages)}), each with a graph of its own",
            where="procedure", next="mmkd.distill(recipe), or mmkd.build(mmkd.stages(recipe)['NAME'])",
        )  # fmt: skip
    dataset = train_dataset(recipe, data) if example is None or recipe.train.epochs is not None else None
    graph = assemble(recipe, nodes, len(dataset) if dataset is not None else 0)
    graph.setup(to_device(example, graph.device) if example is not None else example_of(recipe, graph, data, dataset))
    train = recipe.train
    if said := gradient_cache.describe(graph, train.gradient_accumulation_steps, train.kept_graphs):
        graph.decided["gradient cache"] = said
    plugins.host().call("mmkd_graph_built", graph=graph)
    return graph


def example_of(
    recipe: Recipe, graph: TrainingGraph, data: Mapping[str, Any] | None = None, dataset: Dataset | None = None
) -> dict[str, Any]:
    """The first few training samples as a batch, on the graph's device."""
    size = max([4, *(term.loss.min_batch for term in graph.terms)])
    drawn = streams(recipe, graph.plan, data, train=dataset)
    return to_device(first_batch(drawn, graph.collator(), size), graph.device)


def assemble(recipe: Recipe, nodes: Mapping[str, nn.Module], samples: int) -> TrainingGraph:
    """The graph of a recipe for a training set of so many samples: bound, and not yet set up."""
    maker = Maker(steps_of(recipe, samples))
    for name, spec in recipe.schedules.items():
        maker.schedule(name, spec, f"schedules.{name}")
    curators = batch_curators(recipe, maker)
    graph = TrainingGraph(
        _nodes(maker, recipe, nodes),
        {name: maker.projector(name, spec) for name, spec in recipe.projectors.items()},
        [maker.term(name, spec) for name, spec in recipe.losses.items()],
        maker.scheduled,
        mixers={name: maker.mixer(name, spec) for name, spec in recipe.mixers.items()},
        schedules=maker.weightings,
        total_steps=maker.total_steps,
        precision=recipe.train.precision,
    ).to(device_of(recipe))
    graph.exported = tuple(recipe.exported())
    graph.curators, graph.seed = tuple(curators), recipe.train.seed
    graph.procedure = procedure_of(recipe)
    half = recipe.train.precision == "bf16"
    dtype, twice = torch.bfloat16 if half else torch.float32, any(run.graph for run in graph.plan.runs)
    decision = attention.decide(recipe.train.attention, graph.device, dtype, twice=twice)
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
            nodes[name] = maker.node(name, spec, name in students and not spec.frozen, given.get(name))
        else:
            nodes[name] = maker.average(name, spec, spec.average, nodes[spec.average.of])
    return nodes
