"""A whole run: students with their teachers, then the same students without, and the folder that holds it all."""

from __future__ import annotations

import os
import platform
import random
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmkd import plugins
from mmkd.datasets import evaluation, streams
from mmkd.diagnosis.preflight import clear
from mmkd.engine import checkpoint
from mmkd.engine.batch_norm import refresh, stale
from mmkd.engine.evaluation import Scores
from mmkd.engine.group import joined
from mmkd.engine.loop import Outcome, run
from mmkd.errors import RecipeError, TrainingError
from mmkd.exported import describe, write
from mmkd.graph import ranks
from mmkd.graph.plan import located
from mmkd.graph.training_graph import TrainingGraph
from mmkd.procedure import Stage
from mmkd.recipe import Recipe, blaming, load_recipe
from mmkd.report.card import card
from mmkd.staging import Stages


def distill(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    output_dir: str | Path | None = None,
    resume: bool = False,
    nodes: Mapping[str, nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    baseline: bool = True,
    preflight: bool = True,
) -> dict[str, Any]:
    """Train the students of a recipe, then its baseline; evaluate, export and report both.

    In processes that torchrun has started, each trains on its part of every batch, and the first one writes.

    Args:
        recipe: a recipe, its file or id, or a mapping.
        output_dir: where the run goes; `runs/<name>` unless given.
        resume: go on from the last checkpoint in `output_dir`, bit for bit.
        nodes: networks of your own by node name.
        data: datasets of your own, `{"train": ..., "eval": ..., "streams": {"unlabeled": ...}}`.
        overrides: changes to the recipe, `train.lr=1e-3`.
        baseline: also train the recipe's baseline, where it declares one.
        preflight: examine a copy of everything on one small batch first (`mmkd.doctor`), unless the run is resumed.

    Returns:
        What `results.json` holds: scores of teacher, students and baseline, steps, seconds, versions.

    Raises:
        TrainingError: the preflight finds what cannot be meant; nothing has been written.
    """
    with blaming(recipe):
        loaded = load_recipe(recipe, overrides)
        with joined(loaded.train.device):
            return _distill(loaded, output_dir, resume, nodes or {}, data, baseline, preflight and not resume)


def _distill(
    recipe: Recipe, output_dir: str | Path | None, resume: bool,
    nodes: Mapping[str, nn.Module], data: Mapping[str, Any] | None, baseline: bool, preflight: bool,
) -> dict[str, Any]:  # fmt: skip
    if recipe.train.steps is None and recipe.train.epochs is None:
        raise RecipeError("the recipe has no budget", where="train", next="train.steps=1000")
    folder = Path(output_dir or Path("runs") / (recipe.name or "run"))
    if folder.exists() and any(folder.iterdir()):
        _check_resumable(folder, recipe, resume)
    trained = arms(recipe, folder, nodes, data, baseline=baseline)
    if ranks.leads():
        with ranks.alone():
            _check_all(trained, preflight)
    ranks.wait()
    results: dict[str, Any] = {}
    for name, stages in trained.items():
        outcomes = _arm(stages, recipe, folder, name, resume)
        *earlier, (_, outcome) = outcomes.items()
        results |= _teachers(recipe, outcome.teachers)
        results[name] = _told(outcome)
        if earlier:
            key = "stages" if name == "student" else f"{name}_stages"
            results[key] = {stage: {**_told(one), "steps": one.steps} for stage, one in earlier}
        results["steps"] = outcome.steps
    results["versions"] = _versions()
    if ranks.leads():
        checkpoint.write_json(folder / "results.json", results)
        for name, stages in trained.items():
            describe(stages.home(stages.last) / "student", card(stages.last.recipe, results, name))
    return results


def arms(
    recipe: Recipe, folder: Path, nodes: Mapping[str, nn.Module] | None, data: Mapping[str, Any] | None, *,
    baseline: bool = True,
) -> dict[str, Stages]:  # fmt: skip
    """What a run trains, each in its folder: the students, and the same without teachers where there is a baseline."""
    found = {"student": Stages(recipe, nodes, data, folder)}
    if baseline and (plain := recipe.baseline_recipe()) is not None:
        gone = recipe.teacher_nodes().keys() - plain.teacher_nodes().keys()
        left = {name: network for name, network in (nodes or {}).items() if name not in gone}
        found["baseline"] = Stages(plain, left, data, folder / "baseline")
    return found


def restored(stages: Stages) -> TrainingGraph:
    """The graph of an arm at its last checkpoint.

    Raises:
        TrainingError: there is none, or it is of another graph.
    """
    found = checkpoint.checkpoints(stages.home(stages.last))
    if not found:
        raise TrainingError("there is no checkpoint", where=str(stages.folder), next="mmkd distill RECIPE --resume")
    seed_everything(stages.last.recipe.train.seed)  # a teacher without weights of its own is the run's again
    graph = stages.build(stages.last)
    checkpoint.restore(found[-1], graph, {})
    if stale(graph):
        refresh(graph, streams(stages.last.recipe, graph.plan, stages.data)[0])
    return graph


def _check_all(trained: Mapping[str, Stages], preflight: bool) -> None:
    """Find before the first step whatever cannot be built, and what the preflight finds."""
    for name, stages in trained.items():
        begun = Stages(stages.recipe, stages.nodes, stages.data)
        if name != "student":
            with located(name):
                begun.build(begun.last)
        elif len(begun) > 1:
            for stage in begun:
                begun.build(stage)
        if preflight and name == "student":
            for stage in begun:
                clear(stage.recipe, begun.given(stage), stages.data)


def _told(outcome: Outcome) -> dict[str, Any]:
    told = {"scores": outcome.scores, "best": outcome.best, "seconds": round(outcome.seconds, 2)}
    return {**told, "caches": outcome.caches} if outcome.caches else told


def _teachers(recipe: Recipe, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The teachers' own scores, under the key that the recipe names them by."""
    arms = {name: {"scores": own} for name, own in scores.items()}
    return arms if recipe.teacher is not None or not arms else {"teachers": arms}


def _arm(stages: Stages, recipe: Recipe, folder: Path, name: str, resume: bool) -> dict[str, Outcome]:
    """Train the stages of an arm, one after the other; those that have ended are not trained again."""
    if threads := os.environ.get("MMKD_THREADS"):
        torch.set_num_threads(int(threads))
    home = stages.home(stages.last)
    made = not home.exists() or not any(home.iterdir())
    outcomes: dict[str, Outcome] = {}
    try:
        for stage in stages:
            title = f"{name}: {stage.name}" if len(stages) > 1 else name
            ended = stages.finished(stage) if stage is not stages.last else None
            outcomes[stage.name] = ended or _stage(stages, stage, recipe, folder, name, title, resume)
    except BaseException:
        if made and ranks.leads() and not _stepped(home):
            shutil.rmtree(home, ignore_errors=True)  # it never took a step: leave nothing behind
        raise
    return outcomes


def _stepped(home: Path) -> bool:
    """Whether a run, or a stage of it, has left a checkpoint or a line in its log."""
    return any(log.stat().st_size for log in home.rglob("log.jsonl")) or any(home.rglob("checkpoint-*"))


def _stage(stages: Stages, stage: Stage, recipe: Recipe, folder: Path, name: str, title: str, resume: bool) -> Outcome:
    arm, data = stage.recipe, stages.data
    seed_everything(arm.train.seed)
    graph = stages.build(stage)
    judge = evaluation(arm, data)
    judge.check(graph)
    home = stages.home(stage)
    if ranks.leads():
        home.mkdir(parents=True, exist_ok=True)
    if ranks.leads() and name == "student" and not (folder / "recipe.yaml").is_file():
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        provenance = {"versions": _versions(), "plugins": _plugins(), "decided": graph.decided}
        provenance["machine"] = _machine(graph.device)
        checkpoint.write_json(folder / "provenance.json", provenance)
    whole = stages.resolved(stage)
    outcome = run(
        graph, arm, streams(arm, graph.plan, data), judge, home, resume=resume, title=title,
        on_best=lambda scores: write(graph, whole, home / "best", card(arm, {name: {"scores": scores}}, name)),
    )  # fmt: skip
    if ranks.leads():
        write(graph, whole, home / "student", card(arm, {name: {"scores": outcome.scores}}, name))
        if stage is not stages.last:
            stages.finish(stage, outcome)
    ranks.wait()
    return outcome


def _check_resumable(folder: Path, recipe: Recipe, resume: bool) -> None:
    if not resume:
        raise TrainingError(
            "already holds a run", where=str(folder), next="pass --resume to go on with it, or another --output-dir"
        )
    written = folder / "recipe.yaml"
    if not written.is_file():
        raise TrainingError(
            "is not a run: it has no recipe.yaml", where=str(folder), next="choose another --output-dir"
        )
    before, now = load_recipe(written).to_dict(), recipe.to_dict()
    different = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if different:
        raise TrainingError(
            f"was made by another recipe; they differ in {', '.join(different)}", where=str(folder),
            next=f"mmkd distill {written} --resume --output-dir {folder}",
        )  # fmt: skip


def evaluate(
    folder: str | Path, *, nodes: Mapping[str, nn.Module] | None = None, data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Scores of a run's last checkpoints, computed anew: teacher, students and, where there is one, baseline.

    Returns:
        As `results.json`: `{"teacher": {"scores": ...}, "student": {"scores": ...}, "baseline": {"scores": ...}}`.

    Raises:
        TrainingError: the folder holds no run, or a run without a checkpoint.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise TrainingError(
            "is not a run: it has no recipe.yaml", where=str(folder), next="mmkd distill RECIPE makes one"
        )
    recipe = load_recipe(folder / "recipe.yaml")
    if not checkpoint.checkpoints(folder):
        raise TrainingError("has no checkpoint", where=str(folder), next="mmkd distill RECIPE --resume")
    results: dict[str, Any] = {}
    for name, stages in arms(recipe, folder, nodes, data).items():
        if not checkpoint.checkpoints(stages.home(stages.last)):
            continue
        graph = restored(stages)
        students, teachers = evaluation(stages.last.recipe, data)(graph, graph.steps, graph.steps)
        results |= {**_teachers(recipe, teachers), name: {"scores": students}}
    return results


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "mmkd": version("mmkd"), "torch": torch.__version__}


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": f"{device.type}, {name}", "threads": torch.get_num_threads(), "system": platform.system()}


def _plugins() -> list[dict[str, Any]]:
    return [
        {"id": p.id, "distribution": p.distribution, "version": p.version, "status": p.status}
        for p in plugins.host().plugins
    ]
