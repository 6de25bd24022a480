"""From a recipe's `data` and `evaluate` to datasets, curators and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd import plugins
from mmkd.components import Curator, Dataset
from mmkd.engine.evaluation import Evaluation, Measure
from mmkd.engine.fields import Fields, Mapped, usable
from mmkd.engine.stream import Stream
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.plan import Plan
from mmkd.graph.value import parse
from mmkd.maker import Maker
from mmkd.recipe import Component, Recipe
from mmkd.spec import StreamSpec


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
    common: dict[str, Any] = {"seed": recipe.train.seed, "replicas": spec.replicas}
    common["skip"] = spec.on_bad_sample == "skip"
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
        own_changes, place = (stream.curators, f"{where}.curators")
        if own_changes is None:
            own_changes, place = spec.curators, "data.curators"
        changes = _curators(own_changes, place) if name in plan.nodes else None
        size = stream.batch_size or spec.batch_size
        found.append(Stream(name, dataset, size, changes, views, where=where, **common))
    return found


def _views(specs: Mapping[str, list[Component]], plan: Plan, where: str) -> dict[str, list[Curator]]:
    return {name: _curators(own, f"{where}.{name}") for name, own in specs.items() if name in plan.nodes}


def _curators(specs: list[Component], where: str) -> list[Curator]:
    """Those that change raw samples."""
    found = []
    for i, spec in enumerate(specs):
        cls = _curator(spec, f"{where}.{i}")
        if cls.of_samples():
            found.append(Maker(1).made("curator", spec, f"{where}.{i}"))
        elif where != "data.curators":
            raise RecipeError(
                f"{spec.use} changes whole batches, not the samples of one stream or view", where=f"{where}.{i}",
                next="list it under data.curators",
            )  # fmt: skip
    return found


def batch_curators(recipe: Recipe, maker: Maker) -> list[Curator]:
    """Those of `data.curators` that change whole batches in training; their options may follow schedules."""
    named = {f"data.curators.{i}": spec for i, spec in enumerate(recipe.data.curators)}
    return [maker.made("curator", spec, where) for where, spec in named.items() if _curator(spec, where).of_batches()]


def _curator(spec: Component, where: str) -> type[Curator]:
    cls: Any = plugins.host().catalogue.get("curator", spec.use, where=f"{where}.use").load()
    return cls  # type: ignore[no-any-return]


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
