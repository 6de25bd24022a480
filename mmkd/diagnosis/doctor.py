"""The doctor: a copy of the graph on real samples, every check, and what one step costs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmkd.components import Sample
from mmkd.compose import assemble
from mmkd.datasets import evaluation, streams, train_dataset
from mmkd.diagnosis import pictures as sheet_of_pictures
from mmkd.diagnosis.checks import (
    balance,
    batch_size,
    distribution,
    drift,
    frozen,
    gradients,
    labels,
    leakage,
    learning_rate,
    outputs,
    preprocessing,
    roles,
    temperature,
    vocabulary,
)  # fmt: skip
from mmkd.diagnosis.cost import cost
from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import SEVERITIES, Diagnosis, Finding
from mmkd.engine.stream import Stream
from mmkd.errors import MmkdError
from mmkd.graph.collate import Collator, Prepared, to_device
from mmkd.graph.plan import preserved
from mmkd.recipe import Recipe, load_recipe
from mmkd.staging import Stages

CHECKS: dict[str, Callable[[Examination], Iterator[Finding]]] = {
    module.__name__.rpartition(".")[2]: module.check
    for module in (
        preprocessing, vocabulary, labels, roles, frozen, drift, gradients, outputs, distribution, temperature, balance,
        batch_size, learning_rate, leakage,
    )
}  # fmt: skip
"""Every check by name, in the order in which they are made."""

EXAMINED, GLANCED = 32, 16
"""Samples that are looked at: by the doctor, before a run."""
PATIENCE, HASTE = 1.0, 0.1
"""Seconds that a check may read data for, likewise."""


def doctor(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    nodes: Mapping[str, nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    pictures: str | Path | None = None,
) -> Diagnosis:
    """Examine a recipe on real samples before step 0: what is wrong, where, and what helps.

    Networks, data and random generators are afterwards as before; nothing is written but `pictures`.

    Args:
        recipe: a recipe, its file or id, or a mapping.
        nodes: networks of your own by node name; copies of them are examined.
        data: datasets of your own, `{"train": ..., "eval": ...}`.
        overrides: changes to the recipe, `train.lr=1e-3`.
        pictures: folder for a picture of what each image network really sees.
    """
    try:
        loaded = load_recipe(recipe, overrides)
    except MmkdError as error:
        return Diagnosis([_finding(error, "recipe")])
    folder = Path(pictures) if pictures is not None else None
    found: list[Finding] = []
    measured: Mapping[str, Any] = {}
    try:
        stages = Stages(loaded, nodes, data)
        for stage in stages:
            diagnosis = diagnose(stage.recipe, stages.given(stage), data, folder=folder, thorough=True)
            place = f"stage '{stage.name}': " if len(stages) > 1 else ""
            found += [replace(finding, where=place + finding.where) for finding in diagnosis.findings]
            measured = diagnosis.measured
    except MmkdError as error:
        found.append(_finding(error, "build"))
    return Diagnosis(_sorted(found), measured)


def diagnose(
    recipe: Recipe, nodes: Mapping[str, nn.Module], data: Mapping[str, Any] | None, *,
    folder: Path | None = None, thorough: bool,
) -> Diagnosis:  # fmt: skip
    """All checks; those on more data, and the cost of a step, only where `thorough`."""
    found: list[Finding] = []
    measured: dict[str, Any] = {}
    with preserved([]), torch.enable_grad():
        random.seed(recipe.train.seed)
        np.random.seed(recipe.train.seed)
        torch.manual_seed(recipe.train.seed)
        try:
            exam = _examination(recipe, {n: copy.deepcopy(net) for n, net in nodes.items()}, data, found, thorough)
        except MmkdError as error:
            return Diagnosis([*found, _finding(error, "build")])
        with preserved([exam.graph]), torch.enable_grad():
            for name, check in CHECKS.items():
                found += _made(name, check, exam)
            found += [_finding(error, "outputs") for error in exam.trouble]
            if folder is not None:
                sheet_of_pictures.draw(exam, folder)
        if thorough and not any(finding.severity == "error" for finding in found):
            found += _made("cost", lambda exam: cost(exam, measured), exam)
    return Diagnosis(_sorted(found), measured)


def _examination(
    recipe: Recipe, nodes: Mapping[str, nn.Module], data: Mapping[str, Any] | None, found: list[Finding], thorough: bool
) -> Examination:
    """Assemble the graph, read a batch, set the graph up; where that fails, the rest can still be examined."""
    dataset = train_dataset(recipe, data)
    graph = assemble(recipe, nodes, len(dataset))
    least = max(term.loss.min_batch for term in graph.terms)
    size = min(max(least, min(EXAMINED if thorough else GLANCED, recipe.data.batch_size)), len(dataset))
    fitted = recipe.model_copy(update={"data": recipe.data.model_copy(update={"batch_size": size})})
    samples, batch = _batch(streams(fitted, graph.plan, data, train=dataset), graph.collator(), size)
    batch = to_device(batch, graph.device)
    judge = None
    failed = False
    try:
        judge = evaluation(recipe, data)
        graph.setup(batch)
        judge.check(graph)
    except MmkdError as error:
        failed = not graph.phases
        found.append(_finding(error, "build"))
    graph.train()
    scored = [address for m in (judge.measures if judge else ()) for address, _ in m.binding.readers()]
    sets = judge.datasets if judge else {}
    patience = PATIENCE if thorough else HASTE
    return Examination(recipe, graph, dataset, sets, scored, samples, batch, patience, failed)


def _batch(drawn: Sequence[Stream], collator: Collator, size: int) -> tuple[list[Sample], dict[str, Any]]:
    """The first training samples, as the curators leave them, and the batch that they and the other streams make."""
    columns: dict[str, list[Prepared]] = {}
    for stream in drawn:
        for place in stream.places(0)[:size]:
            made = stream.fetch(place, lambda views: {view: collator.prepare(s, view) for view, s in views.items()})
            for view, prepared in made.items():
                columns.setdefault(view, []).append(prepared)
    return [prepared.sample for prepared in columns[""]], collator.stack(columns)


def _made(name: str, check: Callable[[Examination], Iterator[Finding]], exam: Examination) -> Iterator[Finding]:
    """The findings of one check; one that breaks says so and hides nothing else."""
    try:
        for finding in check(exam):
            yield replace(finding, check=name)
    except Exception as error:
        yield Finding("note", f"this check could not be made: {type(error).__name__}: {error}", check=name)


def _finding(error: MmkdError, check: str) -> Finding:
    what = error.what + (f"; did you mean '{error.nearest}'?" if error.nearest else "")
    return Finding("error", what, error.where, error.next, check)


def _sorted(found: Sequence[Finding]) -> list[Finding]:
    """Worst first; a failure to build goes where a check says more about the same component."""
    known = {_component(f.where) for f in found if f.severity == "error" and f.check not in ("build", "outputs")}
    kept = [f for f in found if f.check != "build" or _component(f.where) not in known]
    return sorted(kept, key=lambda f: SEVERITIES.index(f.severity))


def _component(where: str) -> str:
    """`losses.kd` of `losses.kd.teacher`."""
    return ".".join(where.split(":")[0].split(".")[:2])
