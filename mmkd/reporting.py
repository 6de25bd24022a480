"""Runs as an HTML report: their folders, and what their models say about the evaluation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmkd.compose import build
from mmkd.datasets import evaluation
from mmkd.engine import checkpoint
from mmkd.errors import MmkdError, RecipeError, TrainingError
from mmkd.exported import from_pretrained
from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import Recipe
from mmkd.report.document import Sight, document
from mmkd.report.observation import observe
from mmkd.report.picture import drawing
from mmkd.report.record import Record, records
from mmkd.run import seed_everything


def write_report(
    runs: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    samples: int = 512,
    nodes: Mapping[str, nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Write one HTML file about a run, or about several beside each other.

    Args:
        runs: folders of runs.
        output: the file; `report.html` in the folder of the run unless given.
        samples: evaluation samples that the models are run on; 0 leaves the models alone.
        nodes: networks that were handed in when the model was trained.
        data: datasets of your own, as they were handed in.

    Raises:
        TrainingError: a folder holds no run, or the file cannot be written.
        RecipeError: several runs and no `output`, or negative `samples`.
    """
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    if samples < 0 or not folders:
        raise RecipeError("needs a run, and samples from 0", where="report", next="mmkd report RUN --samples 0")
    if output is None and len(folders) > 1:
        raise RecipeError("several runs need a file to write to", where="report", next="--output report.html")
    path = Path(output) if output is not None else folders[0] / "report.html"
    page = document([(record, _sight(record, samples, nodes, data)) for record in records(folders)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot be written: {error}", where=str(path), next="--output report.html") from error
    return path


def _sight(
    record: Record, samples: int, nodes: Mapping[str, nn.Module] | None, data: Mapping[str, Any] | None
) -> Sight:
    """What the models of a run show; what cannot be loaded or run is said, never raised."""
    sight = Sight()
    if samples == 0 or record.recipe is None:
        sight.notes.append(
            "The models were not run (no samples were asked for)." if samples == 0
            else "The models were not run: without the recipe they cannot be built."
        )  # fmt: skip
        return sight
    anywhere = record.recipe.train.model_copy(update={"device": "auto"})  # a report may be made on another machine
    recipe = record.recipe.model_copy(update={"train": anywhere})
    arms = {"student": (recipe, record.folder)}
    if (record.folder / "baseline").is_dir() and (plain := recipe.baseline_recipe()) is not None:
        arms["baseline"] = plain, record.folder / "baseline"
    for arm, (spec, home) in arms.items():
        try:
            graph = _restored(spec, home, arm, sight, nodes, data)
            if graph.terms and arm == "student":
                sight.picture = drawing(graph).decode()
            sight.arms[arm] = observe(graph, evaluation(spec, data), samples)
        except Exception as error:  # a plugin may raise anything, and a report of the rest is worth having
            sight.notes.append(f"The {arm} was not run: {_said(error)}")
    return sight


def _restored(
    recipe: Recipe, home: Path, arm: str, sight: Sight,
    nodes: Mapping[str, nn.Module] | None, data: Mapping[str, Any] | None,
) -> TrainingGraph:  # fmt: skip
    """The graph at the last checkpoint, or, where that cannot be had, the exported model."""
    found = checkpoint.checkpoints(home)
    known = recipe.teacher_nodes().keys() | recipe.student_nodes().keys()
    own = {name: network for name, network in (nodes or {}).items() if name in known}  # a baseline has no teacher
    try:
        if not found:
            raise TrainingError("there is no checkpoint")
        seed_everything(recipe.train.seed)  # a teacher without weights of its own is the run's again
        graph = build(recipe, nodes=own, data=data)
        checkpoint.restore(found[-1], graph, {})
        return graph
    except Exception as error:
        try:
            graph = from_pretrained(home, nodes=own)
        except MmkdError:
            raise error from None
        sight.notes.append(f"The {arm} is shown as exported, without its training graph: {_said(error)}")
        return graph


def _said(error: Exception) -> str:
    return str(error) if str(error) else type(error).__name__
