"""Several runs beside each other: scores with spread over seeds, curves, and what differs in their recipes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mmkd.report.chart import number
from mmkd.report.curves import curves, evaluated, scores
from mmkd.report.markup import Html, join, table, tag
from mmkd.report.record import Place, Record

PALETTE = 7
"""Colours that runs are told apart by."""
Group = tuple[str, list[Record]]
"""A title, and runs that differ by their seed alone."""


def comparison(runs: Sequence[Record]) -> list[tuple[str, Html]]:
    """Titled sections about all runs together."""
    together = groups(runs)
    sections = [("Scores", _scores(together)), ("Differences of the recipes", _differences(runs))]
    lines = {run.label: (run.logs["student"], f"c{i % PALETTE}") for i, run in enumerate(runs)}
    total = max(run.total for run in runs)
    judged = {run.label: (evaluated(run, "student"), lines[run.label][1]) for run in runs}
    if charts := [*scores(judged, {}, total), *curves(lines, total)]:
        sections.insert(1, ("Curves of the students", tag("div", charts, class_="charts")))
    return sections


def groups(runs: Sequence[Record]) -> list[Group]:
    """Runs whose recipes differ by `train.seed` alone, together; names and descriptions do not count."""
    found: dict[str, list[Record]] = {}
    for run in runs:
        plain = _flat(run)
        for key in ("train.seed", "name", "description"):
            plain.pop(key, None)
        key = json.dumps(plain, sort_keys=True, default=str) if plain else run.label
        found.setdefault(key, []).append(run)
    return [(_title(members), members) for members in found.values()]


def _title(members: Sequence[Record]) -> str:
    if len(members) == 1:
        return members[0].label
    seeds = ", ".join(str(run.recipe.train.seed) for run in members if run.recipe)
    return f"{members[0].title}, seeds {seeds}"


def _scores(together: Sequence[Group]) -> Html:
    cells: dict[Place, dict[tuple[str, str], str]] = {}
    columns: list[tuple[str, str]] = []
    for title, members in together:
        held = [run.scores() for run in members]
        for arm in dict.fromkeys(arm for scored in held for arm in scored):
            values: dict[Place, list[float]] = {}
            for scored in held:
                for place, value in scored.get(arm, {}).items():
                    values.setdefault(place, []).append(value)
            if values:
                columns.append((title, arm))
            for place, numbers in values.items():
                cells.setdefault(place, {})[title, arm] = spread(numbers)
    if not columns:
        return tag("p", "No run has scores.", class_="faint")
    head = ["metric", *(join([title, tag("small", arm)]) for title, arm in columns)]
    rows = [[metric(place), *(row.get(column, "–") for column in columns)] for place, row in cells.items()]
    note = "Mean ± standard deviation over seeds (n − 1), with the number of runs." if any(
        len(members) > 1 for _, members in together
    ) else None  # fmt: skip
    return join([table(head, rows, class_="numbers"), tag("p", note, class_="faint") if note else None])


def metric(place: Place) -> Html:
    """The name of a score above that of its dataset."""
    return join([place[1], tag("small", f"on {place[0]}")])


def spread(values: Sequence[float]) -> str:
    """`0.512 ± 0.004 (3)`; one value stands alone."""
    if len(values) < 2:
        return number(values[0])
    return f"{number(statistics.mean(values))} ± {statistics.stdev(values):.2g} ({len(values)})"


def _differences(runs: Sequence[Record]) -> Html:
    flat = [_flat(run) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    different = [key for key in keys if len({json.dumps(each.get(key), default=str) for each in flat}) > 1]
    if not different:
        return tag("p", "The recipes are equal.", class_="faint")
    rows = [[tag("code", key), *(_written(each, key) for each in flat)] for key in different]
    return table(["", *(run.label for run in runs)], rows)


def _written(flat: Mapping[str, Any], key: str) -> str:
    return "–" if key not in flat else flat[key] if isinstance(flat[key], str) else json.dumps(flat[key], default=str)


def _flat(run: Record) -> dict[str, Any]:
    """A recipe as values by dotted key; lists of plain values stay whole."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value):
                walk(item, f"{path}.{i}")
        else:
            found[path] = value

    walk(run.recipe.to_dict() if run.recipe else {}, "")
    found.pop("", None)
    return found
