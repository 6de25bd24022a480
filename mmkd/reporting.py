"""Runs as an HTML report: their folders, and what their models say about the evaluation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmkd.datasets import evaluation
from mmkd.errors import MmkdError, RecipeError, TrainingError
from mmkd.exported import from_pretrained
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report.document import Sight, document
from mmkd.report.observation import observe
from mmkd.report.picture import drawing
from mmkd.report.record import Record, records
from mmkd.run import arms, restored
from mmkd.staging import Stages


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
    for arm, stages in arms(recipe, record.folder, nodes, data).items():
        if arm != "student" and not (record.folder / arm).is_dir():
            continue
        try:
            graph = _graph(stages, arm, sight)
            if graph.terms and arm == "student":
                sight.picture = drawing(graph).decode()
            sight.arms[arm] = observe(graph, evaluation(stages.last.recipe, data), samples)
        except Exception as error:  # a plugin may raise anything, and a report of the rest is worth having
            sight.notes.append(f"The {arm} was not run: {_said(error)}")
    return sight


def _graph(stages: Stages, arm: str, sight: Sight) -> TrainingGraph:
    """The graph at the last checkpoint, or, where that cannot be had, the exported model."""
    try:
        return restored(stages)
    except Exception as error:
        try:
            graph = from_pretrained(stages.home(stages.last), nodes=stages.nodes)
        except MmkdError:
            raise error from None
        sight.notes.append(f"The {arm} is shown as exported, without its training graph: {_said(error)}")
        return graph


def _said(error: Exception) -> str:
    return str(error) if str(error) else type(error).__name__
