"""The caches of a recipe, filled ahead of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmkd.datasets import streams
from mmkd.engine import group
from mmkd.engine.progress import Reporter
from mmkd.engine.remember import remember
from mmkd.errors import RecipeError
from mmkd.graph import ranks
from mmkd.procedure import Stage
from mmkd.recipe import Recipe, blaming, load_recipe
from mmkd.run import seed_everything
from mmkd.spec import Cache
from mmkd.staging import Stages


def cache(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    nodes: Mapping[str, nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Run every network with `cache: disk` over its data and keep the outputs, as the first run of the recipe would.

    It goes on where it was stopped. In processes that torchrun has started, and in any others at the same time, each
    writes its part. Networks that come from an earlier stage of a procedure are left to the run.

    Args:
        recipe: a recipe, its file or id, or a mapping.
        nodes: networks of your own by node name.
        data: datasets of your own.
        overrides: changes to the recipe, `teacher.cache=disk`.

    Returns:
        By network (`teacher`, `teacher@weak`): `folder`, `bytes`, `rows`, rows `written` now, `seconds`.

    Raises:
        RecipeError: no network is cached on disk, or the outputs of one are no function of the sample.
    """
    with blaming(recipe):
        loaded = load_recipe(recipe, overrides)
        with group.joined(loaded.train.device):
            found: dict[str, dict[str, Any]] = {}
            stages = Stages(loaded, nodes, data)
            for stage in stages:
                if names := _on_disk(stage):
                    found |= _filled(stages, stage, names)
            if not found:
                name = next(iter({**loaded.teacher_nodes(), **loaded.student_nodes()}))
                raise RecipeError(
                    "no network is cached on disk", where="recipe", next=f"{loaded.place(name)}.cache=disk"
                )
            return found


def _on_disk(stage: Stage) -> list[str]:
    nodes = {**stage.recipe.student_nodes(), **stage.recipe.teacher_nodes()}
    cached = {name: Cache.of(node.cache) for name, node in nodes.items() if node.cache is not None}
    return [name for name, spec in cached.items() if spec.store == "disk" and nodes[name].stage is None]


def _filled(stages: Stages, stage: Stage, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    recipe = stage.recipe
    seed_everything(recipe.train.seed)
    graph = stages.build(stage)
    drawn = streams(recipe, graph.plan, stages.data)
    group.begin(graph, drawn, recipe.train.seed)
    with Reporter(None, "cache", silent=not ranks.leads()) as report:
        kept = remember(graph, recipe, drawn, report.progress, report.say, only=names)
    ranks.wait()
    return {
        one.name: {
            "folder": one.place, "bytes": one.bytes, "rows": one.rows, "written": one.written,
            "seconds": round(one.seconds, 2),
        }
        for one in kept
    }  # fmt: skip
