"""The key of a cache: what the outputs of a network over a dataset depend on, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkd import plugins
from mmkd.engine import content
from mmkd.engine.cache.column import Column
from mmkd.engine.cache.key import Key
from mmkd.engine.cacheable import Cacheable
from mmkd.engine.manifest import Manifest
from mmkd.engine.stream import read
from mmkd.errors import MmkdError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import Recipe
from mmkd.spec import Component, StreamSpec

PROBED = 4
"""Samples by whose transforms one transform is told from another."""


def key_of(
    recipe: Recipe, graph: TrainingGraph, kept: Cacheable, columns: Mapping[str, Column], manifest: Manifest
) -> Key:
    """The key of a pass; no paths and no times are in it.

    `network`: id or class, options and structure · `weights`: sha256 · `transform`: what it makes of the first samples
    · `values`: what is read · `dtype`: arithmetic, and what is kept · `draws`: seed, replicas and curators, where
    these change what it reads · `dataset`: keys and contents · `plugins`: versions of those that have a part in it.
    """
    node = kept.node
    curators = _curators(recipe, kept) if kept.drawn else []
    spec = {**recipe.student_nodes(), **recipe.teacher_nodes()}[node.name]
    draws = {
        "seed": kept.stream.seed, "replicas": kept.replicas, "view": kept.run.view, "skip": kept.stream.skip,
        "curators": [{"use": curator.use, **curator.arguments} for curator in curators],
    }  # fmt: skip
    return Key({
        "network": {
            "use": node.use or type(node.encoder.network).__qualname__, "options": _portable(spec.arguments),
            "inputs": dict(node.inputs), "structure": content.checksum(repr(node.encoder.network)),
        },
        "weights": content.checksum(node.state()),
        "transform": _transform(graph, kept),
        "values": sorted(columns),
        "dtype": {
            "form": str(node.form or ""), "autocast": graph.precision,
            "kept": sorted({f"{column.dtype} as {column.stored} {column.k or ''}" for column in columns.values()}),
        },
        "draws": draws if kept.drawn else None,
        "dataset": manifest.content,
        "plugins": _versions([node.use, *(curator.use for curator in curators), *_dataset(recipe, kept)]),
    })  # fmt: skip


def told(differs: Sequence[str]) -> list[str]:
    """The fields to name to a user: the transform is probed on samples, so that with other samples it differs too."""
    return [name for name in differs if name != "transform" or "dataset" not in differs]


def _transform(graph: TrainingGraph, kept: Cacheable) -> dict[str, Any]:
    encoder, node = kept.node.encoder, kept.node
    made: list[Any] = []
    with encoder.reading(graph.plan.wanted.get(node.name)):
        for sample in _first(kept):
            inner = {own: sample[field] for own, field in node.inputs.items() if field in sample}
            made.append(encoder.transform({**sample, **inner}))
        about = encoder.preprocessing()
    return {"of_first_samples": content.checksum(made), "preprocessing": json.loads(json.dumps(about, default=str))}


def _first(kept: Cacheable) -> Iterator[Mapping[str, Any]]:
    found = 0
    for index in range(len(kept.stream.dataset)):
        try:
            sample = read(kept.stream.dataset, index)
        except MmkdError:
            continue  # whether it may be skipped has been decided before
        yield sample
        if (found := found + 1) == PROBED:
            return


def _curators(recipe: Recipe, kept: Cacheable) -> list[Component]:
    """As the recipe has them, for the view that is read."""
    data, stream, view = recipe.data, kept.stream, kept.run.view
    spec = data.streams.get(stream.name, StreamSpec()) if stream.name else None
    if view != stream.name:
        return list((spec or data).views[view])
    own = spec.curators if spec is not None else None
    return list(data.curators if own is None else own)


def _dataset(recipe: Recipe, kept: Cacheable) -> list[str]:
    name = kept.stream.name
    spec = recipe.data.streams.get(name, StreamSpec()).dataset if name else recipe.data.train
    return [spec.use] if spec is not None else []


def _versions(ids: Sequence[str]) -> dict[str, str]:
    wanted = {"core", *(id.partition(".")[0] for id in ids if id)}
    return {plugin.id: plugin.version for plugin in plugins.host().plugins if plugin.id in wanted}


def _portable(options: Any) -> Any:
    """Options without the places of files, whose contents are in the key themselves."""
    if isinstance(options, Mapping):
        return {name: _portable(value) for name, value in options.items()}
    if isinstance(options, list | tuple):
        return [_portable(value) for value in options]
    if isinstance(options, str) and (options.startswith("local-dir:") or _exists(options)):
        return "(a file or folder)"
    return options if isinstance(options, str | int | float | bool | None) else str(options)


def _exists(text: str) -> bool:
    """Whether it is written as a path, and is one; a word stays a word beside a file of that name."""
    try:
        return len(Path(text).parts) > 1 and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
