"""Curves of a run: losses, schedules, learning rate, gradient norm, throughput, scores on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkd import plugins
from mmkd.components import Schedule
from mmkd.errors import MmkdError
from mmkd.recipe import Component
from mmkd.report.chart import Series, line_chart
from mmkd.report.markup import Html
from mmkd.report.notation import some
from mmkd.report.record import Log, Place, Record
from mmkd.signature import construct, options, ports

LAST = ("lr", "grad_norm", "samples_per_second")
EXACT = ("lr", "samples_per_second")
"""Neither smoothed nor drawn on a logarithmic scale."""
TITLES = {
    "loss": "Loss, weighted sum", "lr": "Learning rate", "grad_norm": "Gradient norm",
    "samples_per_second": "Samples per second",
}  # fmt: skip
LOGARITHMIC = 30.0
"""A curve whose 98% range spans this factor gets a logarithmic scale."""
FEW = 24
"""Curves of fewer points are not smoothed."""
STRETCH = 40
"""Smoothing looks this part of a curve ahead and back."""
MOST = 12
"""Charts of scores; the table holds all of them."""


def curves(lines: Mapping[str, tuple[Log, str]], total: int) -> list[Html]:
    """One chart for every number that is logged.

    Args:
        lines: by name, a log and the colour it is drawn in.
        total: steps of the run.
    """
    keys = list(dict.fromkeys(key for log, _ in lines.values() for key in log.numbers))
    losses = sorted((key for key in keys if key not in LAST), key=lambda key: key != "loss")
    charts = []
    for key in [*losses, *(key for key in LAST if key in keys)]:
        drawn: dict[tuple[tuple[int, float], ...], tuple[list[str], str]] = {}
        for name, (log, colour) in lines.items():  # lines that coincide are drawn once, under all of their names
            if key in log.numbers:
                drawn.setdefault(tuple(log.numbers[key].items()), ([], colour))[0].append(name)
        series = [
            _series(some(names), dict(points), colour, smooth=key not in EXACT)
            for points, (names, colour) in drawn.items()
        ]
        title = TITLES.get(key, key.removesuffix("_loss") if key.endswith("_loss") else key.replace("_", " "))
        note = "before its weight" if key.endswith("_loss") else ""
        wide = key not in EXACT and _wide(series)
        charts.append(line_chart(title, series, total=total, log=wide, note=note, named=len(lines) > 1))
    return charts


def _series(name: str, values: Mapping[int, float], colour: str, *, smooth: bool = False) -> Series:
    steps = sorted(values)
    raw = [values[step] for step in steps]
    dashed = colour in ("baseline", "teacher")
    if not smooth or len(raw) < FEW:
        return Series(name, steps, raw, colour, dashed)
    return Series(name, steps, smoothed(raw), colour, dashed, raw)


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a window around each value, of what is finite in it; a gap stays a gap."""
    reach = max(1, len(values) // STRETCH)
    found = []
    for i, value in enumerate(values):
        wide = min(reach, i, len(values) - 1 - i)
        near = [v for v in values[i - wide : i + wide + 1] if math.isfinite(v)]
        found.append(sum(near) / len(near) if math.isfinite(value) else math.nan)
    return found


def _wide(series: Sequence[Series]) -> bool:
    values = sorted(v for s in series for v in (s.raw or s.y) if math.isfinite(v))
    if not values or values[0] <= 0:
        return False
    cut = len(values) // 50
    return values[-1 - cut] / values[cut] > LOGARITHMIC


Evaluated = Mapping[int, Mapping[Place, float]]
"""Scores by step."""


def evaluated(record: Record, arm: str) -> Evaluated:
    """Scores on the way and, where the run has ended, at its end."""
    steps = dict(record.logs[arm].scores)
    if record.results and (final := record.scores().get(arm)):
        steps[record.logs[arm].last if arm in record.stages.values() else record.total] = final
    return steps


def scores(
    lines: Mapping[str, tuple[Evaluated, str]], teachers: Mapping[str, Mapping[Place, float]], total: int
) -> list[Html]:
    """Scores of what has been evaluated more than once, by name with its colour; those of teachers as lines across."""
    places = dict.fromkeys(place for steps, _ in lines.values() for found in steps.values() for place in found)
    charts = []
    for place in places:
        found = {
            name: ({step: held[place] for step, held in steps.items() if place in held}, colour)
            for name, (steps, colour) in lines.items()
        }
        if max(len(points) for points, _ in found.values()) < 2:
            continue
        for name, held in teachers.items():
            if place in held:
                found[name] = dict.fromkeys((0, total), held[place]), "teacher"
        series = [_series(name, points, colour) for name, (points, colour) in found.items() if points]
        charts.append(line_chart(place[1], series, total=total, note=f"on {place[0]}", named=len(lines) > 1))
    return charts[:MOST]


def schedules(record: Record) -> tuple[list[Html], list[str]]:
    """Every weight and option that follows a schedule, over the run; and which could not be drawn, and why."""
    charts, notes = [], []
    for where, spec in _scheduled(record):
        try:
            steps = sorted({round(i * record.total / 100) for i in range(101)})
            schedule = _built(spec, where)
            values = [float(schedule(step, record.total)) for step in steps]
        except Exception as error:
            notes.append(f"The schedule at {where} cannot be drawn: {error}")
            continue
        series = [Series(str(spec["use"]), steps, values)]
        charts.append(line_chart(where, series, total=record.total, note=str(spec["use"])))
    return charts, notes


def _scheduled(record: Record) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Places of a recipe that hold a schedule's map where a number may stand."""
    recipe = record.recipe
    if recipe is None:
        return
    known = {entry.id for entry in plugins.host().catalogue if entry.kind == "schedule"}
    specs: dict[str, tuple[str, Any]] = {f"losses.{name}": ("loss", spec) for name, spec in recipe.losses.items()}
    specs |= {f"projectors.{name}": ("projector", spec) for name, spec in recipe.projectors.items()}
    specs |= {f"mixers.{name}": ("mixer", spec) for name, spec in recipe.mixers.items()}
    specs |= {name: ("encoder", spec) for name, spec in {**recipe.student_nodes(), **recipe.teacher_nodes()}.items()}
    for where, (kind, spec) in specs.items():
        weight = getattr(spec, "weight", None)
        if isinstance(weight, Component) and not _reads_values(weight.use):
            yield f"{where}.weight", {"use": weight.use, **weight.arguments}
        for option, value in spec.arguments.items():
            if isinstance(value, Mapping) and value.get("use") in known and not _nested(kind, spec.use, option):
                yield f"{where}.{option}", value


def _reads_values(use: str) -> bool:
    """Whether a schedule needs more than the step, so that there is no curve to draw before the run."""
    return bool(ports(plugins.host().catalogue.get("schedule", use).load()))


def _nested(kind: str, use: str | None, option: str) -> bool:
    """Whether an option takes a component of its own (`core.linear` is a projector and a schedule)."""
    try:
        parameter = options(plugins.host().catalogue.get(kind, use or "").load()).get(option)
    except MmkdError:
        return False
    return bool(parameter and parameter.nested)


def _built(spec: Mapping[str, Any], where: str) -> Schedule:
    """A schedule from its map; one that nests others builds them likewise."""
    cls = plugins.host().catalogue.get("schedule", str(spec["use"]), where=where).load()
    given = {key: value for key, value in spec.items() if key != "use"}
    made: Schedule = construct(cls, given, lambda _, inner, place: _built(inner, place), where)
    return made
