"""What the folder of a run says about it, whole or not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd.errors import MmkdError, TrainingError
from mmkd.recipe import Recipe, load_recipe

FILES = ("recipe.yaml", "log.jsonl", "results.json")
Place = tuple[str, str]
"""Dataset, and `metric.number`."""


@dataclass
class Log:
    """Numbers by step, and scores by step, of one arm."""

    steps: list[int] = field(default_factory=list)
    numbers: dict[str, dict[int, float]] = field(default_factory=dict)
    scores: dict[int, dict[Place, float]] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The last step that was logged."""
        return max([*self.steps, *self.scores], default=0)


@dataclass
class Record:
    """One run as its folder tells it. What is missing or broken is said in `notes`.

    Raises:
        TrainingError: the folder holds nothing of a run.
    """

    folder: Path
    label: str = ""
    recipe: Recipe | None = None
    recipe_text: str = ""
    logs: dict[str, Log] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    exports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By arm: what `config.json` of the exported model says."""
    stages: dict[str, str] = field(default_factory=dict)
    """Stages before the last one: what their log is called, by name."""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not any((self.folder / name).is_file() for name in FILES):
            raise TrainingError(
                f"is not a run: it has none of {', '.join(FILES)}", where=str(self.folder),
                next="mmkd distill RECIPE --output-dir FOLDER makes one",
            )  # fmt: skip
        self.label = self.label or self.folder.resolve().name
        self._read_recipe()
        self.results, self.provenance = self._json("results.json"), self._json("provenance.json")
        for arm, home in (("student", self.folder), ("baseline", self.folder / "baseline")):
            if home.is_dir():
                self.logs[arm] = self._log(home / "log.jsonl")
            if (home / "student" / "config.json").is_file():
                self.exports[arm] = self._json(home.relative_to(self.folder) / "student" / "config.json")
        known = list(_map(self.results.get("stages")))
        stages = [path for path in (self.folder / "stages").glob("*") if path.is_dir()]
        for path in sorted(stages, key=lambda path: (known.index(path.name) if path.name in known else 99, path.name)):
            self.stages[path.name] = f"stage {path.name}"
            self.logs[f"stage {path.name}"] = self._log(path / "log.jsonl")
        if not self.results:
            self.notes.append(f"The run has not ended: its last logged step is {self.logs['student'].last}.")

    @property
    def title(self) -> str:
        return (self.recipe.name if self.recipe else None) or self.label

    @property
    def total(self) -> int:
        """Steps of the run, as far as they are known."""
        planned = self.recipe.train.steps if self.recipe else None
        ended = self.results.get("steps")
        return max(int(ended) if isinstance(ended, int) else 0, planned or 0, *(log.last for log in self.logs.values()))

    def scores(self) -> dict[str, dict[Place, float]]:
        """Final scores by whose they are: teachers, students, baseline, earlier stages.

        Where the run has not ended they are those of the last evaluation.
        """
        teachers = {f"{name} (teacher)": arm for name, arm in _map(self.results.get("teachers")).items()}
        arms = {"teacher": self.results.get("teacher"), **teachers}
        arms |= {name: self.results.get(name) for name in ("student", "baseline")}
        arms |= {arm: _map(self.results.get("stages")).get(name) for name, arm in self.stages.items()}
        found = {name: dict(_flat(_map(arm).get("scores"))) for name, arm in arms.items()}
        for arm, log in self.logs.items():
            if not found[arm] and log.scores:
                found[arm] = log.scores[max(log.scores)]
        return {arm: scores for arm, scores in found.items() if scores}

    def _read_recipe(self) -> None:
        path = self.folder / "recipe.yaml"
        try:
            self.recipe_text = path.read_text(encoding="utf-8")
            self.recipe = load_recipe(path)
        except FileNotFoundError:
            self.notes.append("recipe.yaml is missing.")
        except (OSError, UnicodeDecodeError, MmkdError) as error:
            self.notes.append(f"recipe.yaml cannot be read: {error}")

    def _json(self, name: str | Path) -> dict[str, Any]:
        try:
            document = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.notes.append(f"{name} is missing.")
            return {}
        except (OSError, ValueError) as error:
            self.notes.append(f"{name} cannot be read: {error}")
            return {}
        if not isinstance(document, dict):
            self.notes.append(f"{name} holds no map.")
            return {}
        return document

    def _log(self, path: Path) -> Log:
        log = Log()
        name = path.relative_to(self.folder)
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            self.notes.append(f"{name} is missing.")
            return log
        broken = 0
        for line in filter(str.strip, lines):
            try:
                row = json.loads(line)
                step = int(row.pop("step"))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                broken += 1
                continue
            if "scores" in row:
                log.scores[step] = dict(_flat(row["scores"]))
                continue
            log.steps.append(step)
            for key, value in row.items():
                if _number(value):
                    log.numbers.setdefault(key, {})[step] = float(value)
        if broken:
            self.notes.append(f"{name}: {broken} of {len(lines)} lines cannot be read and are left out.")
        if not log.steps:
            self.notes.append(f"{name} holds no step.")
        odd = {key: sum(not math.isfinite(v) for v in values.values()) for key, values in log.numbers.items()}
        if odd := {key: count for key, count in odd.items() if count}:
            counts = ", ".join(f"{key} {count}" for key, count in odd.items())
            self.notes.append(f"{name}: numbers that are not finite are left out of the curves ({counts}).")
        return log


def records(folders: list[Path]) -> list[Record]:
    """The runs in these folders, under labels that tell them apart."""
    found = [Record(folder) for folder in folders]
    for depth in range(2, 6):
        labels = [record.label for record in found]
        for record in found:
            if labels.count(record.label) > 1:
                record.label = "/".join(record.folder.resolve().parts[-depth:])
    return found


def _flat(scores: Any) -> Iterator[tuple[Place, float]]:
    for dataset, metrics in _map(scores).items():
        for metric, numbers in _map(metrics).items():
            for name, value in _map(numbers).items():
                if _number(value):
                    yield (str(dataset), f"{metric}.{name}"), float(value)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
