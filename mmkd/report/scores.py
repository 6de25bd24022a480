"""Scores three abreast: teacher, student, baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def columns(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scores by whose they are, in the order in which they stand: each teacher, earlier stages, the students, the
    baseline."""
    several = {f"{name} (teacher)": arm for name, arm in results.get("teachers", {}).items()}
    ended = {name: results.get(name) for name in ("student", "baseline")}
    arms = {"teacher": results.get("teacher"), **several, **results.get("stages", {}), **ended}
    return {name: arm["scores"] for name, arm in arms.items() if arm is not None}


def rows(columns: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for every number: dataset, metric, and what each column says of it."""
    flat = [_flat(scores) for scores in columns.values()]
    places = dict.fromkeys(place for scores in sorted(flat, key=len, reverse=True) for place in scores)
    return [[*place, *_cells(place, flat)] for place in places]


def _cells(place: tuple[str, str], flat: Sequence[Mapping[tuple[str, str], float]]) -> list[str]:
    return [f"{scores[place]:.4g}" if place in scores else "-" for scores in flat]


def _flat(scores: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (dataset, f"{metric}.{name}"): number
        for dataset, metrics in scores.items()
        for metric, numbers in metrics.items()
        for name, number in numbers.items()
    }
