"""A whole run: students with their teachers, then the same students without, and the folder that holds it all."""

from __future__ import annotations

import copy
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
from mmkd.compose import build
from mmkd.datasets import evaluation, streams
from mmkd.diagnosis.preflight import clear
from mmkd.engine import checkpoint
from mmkd.engine.evaluation import Scores
from mmkd.engine.loop import Outcome, run
from mmkd.errors import RecipeError, TrainingError
from mmkd.exported import describe, write
from mmkd.graph.plan import located
from mmkd.recipe import Recipe, blaming, load_recipe
from mmkd.report.card import card


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
    arms: dict[str, Recipe] = {"student": recipe}
    if baseline and (plain := recipe.baseline_recipe()) is not None:
        arms["baseline"] = plain
        with located("baseline"):  # a baseline that cannot be built is found before the students are trained
            build(plain, nodes=_own(plain, recipe, nodes), data=data)
    if preflight:
        clear(recipe, nodes, data)
    results: dict[str, Any] = {}
    for name, arm in arms.items():
        outcome = _arm(arm, recipe, folder, name, resume, _own(arm, recipe, nodes), data)
        results |= _teachers(recipe, outcome.teachers)
        results[name] = {"scores": outcome.scores, "best": outcome.best, "seconds": round(outcome.seconds, 2)}
        results["steps"] = outcome.steps
    results["versions"] = _versions()
    checkpoint.write_json(folder / "results.json", results)
    for name, arm in arms.items():
        describe(_home(folder, name) / "student", card(arm, results, name))
    return results


def _teachers(recipe: Recipe, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The teachers' own scores, under the key that the recipe names them by."""
    arms = {name: {"scores": own} for name, own in scores.items()}
    return arms if recipe.teacher is not None or not arms else {"teachers": arms}


def _own(arm: Recipe, recipe: Recipe, nodes: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Copies of the networks that were handed in and that this arm still has: each arm starts from the same weights."""
    gone = recipe.teacher_nodes().keys() - arm.teacher_nodes().keys()
    return {name: copy.deepcopy(network) for name, network in nodes.items() if name not in gone}


def _arm(
    arm: Recipe, recipe: Recipe, folder: Path, name: str, resume: bool,
    nodes: Mapping[str, nn.Module], data: Mapping[str, Any] | None,
) -> Outcome:  # fmt: skip
    if threads := os.environ.get("MMKD_THREADS"):
        torch.set_num_threads(int(threads))
    seed_everything(arm.train.seed)
    graph = build(arm, nodes=nodes, data=data)
    judge = evaluation(arm, data)
    judge.check(graph)
    home = _home(folder, name)
    made = not home.exists() or not any(home.iterdir())
    home.mkdir(parents=True, exist_ok=True)
    try:
        if name == "student":
            (folder / "recipe.yaml").write_text(recipe.to_yaml())
            provenance = {"versions": _versions(), "plugins": _plugins(), "decided": graph.decided}
            provenance["machine"] = _machine(graph.device)
            checkpoint.write_json(folder / "provenance.json", provenance)
        outcome = run(
            graph, arm, streams(arm, graph.plan, data), judge, home, resume=resume, title=name,
            on_best=lambda scores: write(graph, arm, home / "best", card(arm, {name: {"scores": scores}}, name)),
        )  # fmt: skip
        write(graph, arm, home / "student", card(arm, {name: {"scores": outcome.scores}}, name))
    except BaseException:
        log = home / "log.jsonl"
        if made and not checkpoint.checkpoints(home) and not (log.is_file() and log.stat().st_size):
            shutil.rmtree(home, ignore_errors=True)  # it never took a step: leave nothing behind
        raise
    return outcome


def _home(folder: Path, name: str) -> Path:
    return folder if name == "student" else folder / name


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
    arms = {"student": recipe, "baseline": recipe.baseline_recipe()}
    results: dict[str, Any] = {}
    for name, arm in arms.items():
        found = checkpoint.checkpoints(_home(folder, name))
        if arm is None or not found:
            continue
        seed_everything(arm.train.seed)  # a teacher without weights of its own is the run's again
        graph = build(arm, nodes=_own(arm, recipe, nodes or {}), data=data)
        checkpoint.restore(found[-1], graph, {})
        students, teachers = evaluation(arm, data)(graph, graph.steps, graph.steps)
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
