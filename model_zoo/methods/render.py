"""The page of methods: the registry, what stands beside it in the tests, and the result files, as one table and a plot.

`python -m model_zoo.methods.render` writes `README.md` and `gain.svg` beside this file. It trains nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.registry import Entry
from mmkd.report.canvas import Curve, Dot, Shape, Text, line, svg, text_width
from mmkd.signature import options
from model_zoo.methods import bench, registry
from model_zoo.methods.arms import ARMS, BASE, GRID, NOT_PROVED, RATES, VIT, recipe
from model_zoo.methods.task import POOL, REPLICAS, TASKS, TEST, VALIDATION, classes, labelled, places

HERE = Path(__file__).parent
DRAWS = 10_000
WORDS = {
    "loss": "losses", "mixer": "mixers", "schedule": "schedules", "procedure": "procedures", "metric": "metrics",
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What an arm did on one task: accuracy by seed, and which test pictures it got right."""

    accuracy: tuple[float, ...]
    hits: NDArray[np.float64]
    """`[seeds, pictures]` of 0 and 100."""
    chosen: float
    unit: float

    @cached_property
    def mean(self) -> float:
        return statistics.mean(self.accuracy)

    @property
    def spread(self) -> float:
        return statistics.stdev(self.accuracy) if len(self.accuracy) > 1 else 0.0


@dataclass(frozen=True)
class Gain:
    """Paired difference of two arms in points: its mean and spread over seeds, and a 95% interval over pictures."""

    mean: float
    spread: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> int:
        """1 or -1 where the interval leaves out 0 and all seeds agree, else 0."""
        for sign in (1, -1):
            if min(sign * self.low, sign * self.high) > 0 and all(sign * gain > 0 for gain in self.by_seed):
                return sign
        return 0

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ({self.spread:.1f})" + {1: " **+**", -1: " **−**", 0: ""}[self.verdict]


def results(folder: Path) -> dict[str, dict[str, Result]]:
    """Finished tasks of every arm, by arm and task; files of another recipe than the arm's are left out."""
    found: dict[str, dict[str, Result]] = {}
    for name in ARMS:
        file = folder / f"{name}.json"
        held = json.loads(file.read_text()) if file.is_file() else {}
        if held.get("key") == bench.key(name):
            done = {task: _result(task, held["tasks"].get(task, {})) for task in TASKS}
            found[name] = {task: result for task, result in done.items() if result is not None}
    return found


def _result(task: str, held: Mapping[str, Any]) -> Result | None:
    runs = [held.get("test", {}).get(str(seed)) for seed in bench.SEEDS]
    if None in runs:
        return None
    accuracy = tuple(run["accuracy"] for run in runs if run)
    hits = np.array([unpacked(run["hits"], len(places(TEST))) for run in runs if run])
    return Result(accuracy, 100 * hits, held["chosen"], held["unit"])


def unpacked(digits: str, count: int) -> NDArray[np.float64]:
    """Hits from hexadecimal digits, the first picture the highest bit."""
    return np.array([float(bit) for bit in f"{int(digits, 16):0{count}b}"])


def gain(one: Result, other: Result) -> Gain:
    """`one` less `other`, seed by seed and picture by picture; the bootstrap draws pictures."""
    by_seed = tuple(a - b for a, b in zip(one.accuracy, other.accuracy, strict=True))
    difference = (one.hits - other.hits).mean(0)
    picked = np.random.default_rng(0).integers(0, len(difference), (DRAWS, len(difference)))
    low, high = np.percentile(difference[picked].mean(1), [2.5, 97.5])
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0
    return Gain(float(difference.mean()), spread, float(low), float(high), by_seed)


def reference(name: str, of: str = "labels") -> str:
    """The arm that an arm is compared with: the same student without a teacher, or with KD."""
    return of if ARMS[name].kind == "conv" else f"vit_{of}"


def gains(found: Mapping[str, Mapping[str, Result]], task: str, of: str = "labels") -> dict[str, Gain]:
    """Every arm against its reference, where both are finished."""
    return {
        name: gain(found[name][task], found[other][task])
        for name in found
        if (other := reference(name, of)) != name and task in found[name] and task in found.get(other, {})
    }


# -- the page -----------------------------------------------------------------------------------------------------


def page(found: Mapping[str, Mapping[str, Result]], scores: Mapping[str, Any]) -> str:
    """The whole README: `page.md` with its blanks filled."""
    formulas, presets = registry.formulas(), registry.presets()
    kinds = {kind: [entry for entry in formulas if entry.kind == kind] for kind in WORDS}
    against = {task: gains(found, task) for task in TASKS}
    given = {task: statistics.mean(len(labelled(task, seed)) for seed in bench.SEEDS) for task in TASKS}
    edges = sum(
        bool(bench.methods(recipe(name))) and result.chosen in (GRID[0], GRID[-1])
        for name, tasks in found.items()
        for result in tasks.values()
    )
    return Template((HERE / "page.md").read_text(encoding="utf-8")).substitute(
        formulas=len(formulas),
        counts=", ".join(f"{len(kinds[kind])} {word}" for kind, word in WORDS.items()),
        presets=len(presets),
        done=sum(len(tasks) == len(TASKS) for tasks in found.values()),
        arms=len(ARMS),
        oracles=sum(registry.has_oracle(entry) for entry in kinds["loss"]),
        goldens=sum(bool(registry.goldens(entry)) for entry in kinds["loss"]),
        losses=_table(kinds["loss"], against),
        unproved="\n".join(f"- `{name}`: {why}" for name, why in NOT_PROVED.items()),
        others=_table([*kinds["mixer"], *kinds["schedule"], *kinds["procedure"]], against),
        metrics=_metrics(kinds["metric"]),
        recipes=_presets(presets, against),
        variants=_variants(against),
        tasks=" and ".join(f"{task} ({len(classes(task))} classes)" for task in TASKS),
        pool=len(places(POOL)),
        replicas=REPLICAS,
        labelled=" and ".join(f"{given[task]:.0f} (at most {TASKS[task]} a class) for {task}" for task in TASKS),
        validation=len(places(VALIDATION)),
        test=len(places(TEST)),
        widths=", ".join(map(str, BASE["student"]["widths"])),
        conv=_scored(scores, "conv"),
        vit=_scored(scores, "vit"),
        vit_student=VIT["student"]["model"],
        steps=BASE["train"]["steps"],
        batch=BASE["data"]["batch_size"],
        vit_batch=VIT["data"]["batch_size"],
        grid=_either(GRID),
        rates=_either(RATES),
        rate=f"{BASE['train']['lr']:g}",
        seeds=len(bench.SEEDS),
        count=len(bench.SEEDS),
        edges=f"{edges} of {sum(bool(bench.methods(recipe(n))) * len(t) for n, t in found.items())} so far",
        accuracies=_accuracies(found),
        shows="\n\n".join(f"**{task}**\n\n{_shown(found, task, against[task])}" for task in TASKS),
    )


def _either(numbers: Sequence[float]) -> str:
    *most, last = (f"{number:g}" for number in numbers)
    return f"{', '.join(most)} or {last}"


def _cells(names: Sequence[str], against: Mapping[str, Mapping[str, Gain]]) -> list[str]:
    """A cell for each task: the gains of these arms."""
    return ["; ".join(str(own[name]) for name in names if name in own) for own in against.values()]


def _table(entries: Sequence[Entry], against: Mapping[str, Mapping[str, Gain]]) -> str:
    rows = []
    for entry in entries:
        arms = _arms(entry)
        oracle, golden = "yes" if registry.has_oracle(entry) else "", ", ".join(registry.goldens(entry))
        cells = [f"`{entry.id}`", _escaped(entry.summary), _code(registry.formula(entry)), _options(entry, arms)]
        rows.append([*cells, _paper(entry), oracle, golden, *_cells(arms, against)])
    return _markdown(["id", "what", "formula", "options in the proof", "paper", "oracle", "golden", *TASKS], rows)


def _metrics(entries: Sequence[Entry]) -> str:
    return _markdown(
        ["id", "what", "formula", "paper", "oracle"],
        [
            [f"`{entry.id}`", _escaped(entry.summary), _code(registry.formula(entry)), _paper(entry),
             "yes" if registry.has_oracle(entry) else ""]
            for entry in entries
        ],
    )  # fmt: skip


def _presets(entries: Sequence[Entry], against: Mapping[str, Mapping[str, Gain]]) -> str:
    rows = [
        [f"`{entry.id}`", _escaped(entry.summary), _paper(entry), *_cells(_arms(entry), against)] for entry in entries
    ]
    return _markdown(["id", "what", "paper", *TASKS], rows)


def _variants(against: Mapping[str, Mapping[str, Gain]]) -> str:
    rows = []
    for name, arm in ARMS.items():
        if not arm.proves and name != "vit_labels":
            made = recipe(name)
            terms = [made["losses"][term] for term in bench.methods(made)]
            said = "; ".join(" ".join([f"`{term['use']}`", _code(_chosen(term))]).strip() for term in terms)
            rows.append([name, said, *_cells([name], against)])
    return _markdown(["arm", "method", *TASKS], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _arms(entry: Entry) -> list[str]:
    return [name for name, arm in ARMS.items() if f"{entry.kind} {entry.id}" in arm.proves]


def _options(entry: Entry, arms: Sequence[str]) -> str:
    terms = [
        term
        for name in arms
        for group in ("losses", "mixers")
        for term in recipe(name).get(group, {}).values()
        if term["use"] == entry.id
    ]
    return _code(_chosen(terms[0])) if terms else ""


def _chosen(term: Mapping[str, Any]) -> str:
    """The options of a component that are not its defaults."""
    known = options(_load(term["use"]))
    return ", ".join(
        f"{name}: {value}" for name, value in term.items() if name in known and value != known[name].default
    )


def _load(id: str) -> type:
    return next(entry for entry in registry.formulas() if entry.id == id).load()


def _paper(entry: Entry) -> str:
    return f"[{entry.paper}]({entry.url})" if entry.paper and entry.url else entry.paper or ""


def _code(text: str) -> str:
    return f"`{_escaped(text)}`" if text else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _scored(scores: Mapping[str, Any], kind: str) -> str:
    """Test accuracy of a teacher on every task."""
    own = scores.get(kind, {}).items()
    return ", ".join(f"{statistics.mean(a):.1f} ({statistics.stdev(a):.1f})% at {task}" for task, a in own)


def _accuracies(found: Mapping[str, Mapping[str, Result]]) -> str:
    rows = []
    for name in ("labels", "labels_half", "kd", "vit_labels", "vit_kd"):
        own = [found.get(name, {}).get(task) for task in TASKS]
        rows.append([name, *(f"{result.mean:.1f} ({result.spread:.1f})" if result else "" for result in own)])
    return _markdown(["accuracy on the test pictures, %", *TASKS], rows)


def _shown(found: Mapping[str, Mapping[str, Result]], task: str, own: Mapping[str, Gain]) -> str:
    over_kd = {name: g for name, g in gains(found, task, "kd").items() if name not in ("labels", "vit_labels")}
    half = gains(found, task, "labels_half")
    taught = [name for name, g in half.items() if g.verdict == 1 and name != "labels"]
    names = {sign: [name for name, g in own.items() if g.verdict == sign] for sign in (1, 0, -1)}
    beats, loses = ([name for name, g in over_kd.items() if g.verdict == sign] for sign in (1, -1))
    return "\n".join([
        f"- better than no teacher ({len(names[1])} of {len(own)}): {_list(names[1])}",
        f"- not told apart from no teacher ({len(names[0])}): {_list(names[0])}",
        f"- worse than no teacher ({len(names[-1])}): {_list(names[-1])}",
        f"- better than `labels_half` ({len(taught)} of {len(half)}): {_list(taught)}",
        f"- better than KD ({len(beats)} of {len(over_kd)}): {_list(beats)}",
        f"- worse than KD ({len(loses)}): {_list(loses)}",
    ])  # fmt: skip


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


# -- the plot -----------------------------------------------------------------------------------------------------

ROW, LEFT, PANEL, GAP, TOP = 17, 150, 330, 40, 58
INK, FAINT = "#333333", "#cccccc"
LEGEND = "dot: mean of seeds; bar: 95% interval over test pictures; ticks: seeds; colour: told apart from 0"
COLOURS = {1: "#0b7a75", 0: "#8a8a8a", -1: "#c2410c"}


def plot(found: Mapping[str, Mapping[str, Result]]) -> bytes:
    """Gain of every arm with its interval and its seeds, a panel for each task."""
    against = {task: gains(found, task) for task in TASKS}
    names = [name for name in ARMS if any(name in own for own in against.values())]
    first = next(iter(TASKS))
    names.sort(key=lambda name: -against[first][name].mean if name in against[first] else 0.0)
    spans = [end for own in against.values() for g in own.values() for end in (g.low, g.high, *g.by_seed)]
    low, high = min([0.0, *spans]) - 1, max([1.0, *spans]) + 1
    height = TOP + ROW * len(names) + 30
    shapes: list[Shape] = [
        Text(12, 20, "Gain over the same student without a teacher, in points", INK, 14),
        Text(12, 37, LEGEND, INK, 11),
    ]
    for name, row in zip(names, range(len(names)), strict=True):
        shapes.append(Text(LEFT - 8, TOP + ROW * row + ROW - 5, name, INK, 11, ends=True))
    for panel, (task, own) in enumerate(against.items()):
        left = LEFT + panel * (PANEL + GAP)

        def across(value: float, left: float = left) -> float:
            return left + (value - low) / (high - low) * PANEL

        shapes.append(Text(left, TOP - 6, task, INK, 12))
        for tick in range(5 * int(np.ceil(low / 5)), int(high) + 1, 5):
            x, label = across(tick), f"{tick:+d}" if tick else "0"
            shapes.append(Curve(line((x, TOP), (x, height - 26)), INK if not tick else FAINT, 1.0))
            shapes.append(Text(x - text_width(label, 10) / 2, height - 12, label, INK, 10))
        for row, name in enumerate(names):
            if name in own:
                g, y = own[name], TOP + ROW * row + ROW / 2
                colour = COLOURS[g.verdict]
                shapes.append(Curve(line((across(g.low), y), (across(g.high), y)), colour, 2.0))
                shapes += [Curve(line((across(v), y - 4), (across(v), y + 4)), colour, 1.0) for v in g.by_seed]
                shapes.append(Dot(across(g.mean), y, colour, "#ffffff", 4))
    width = LEFT + len(TASKS) * (PANEL + GAP)
    return svg(shapes, width, height, "Gain over the same student without a teacher, by arm and task")


def main() -> None:
    found = results(HERE / "results")
    file = HERE / "results" / "teachers.json"
    scores = json.loads(file.read_text()) if file.is_file() else {}
    (HERE / "README.md").write_text(page(found, scores), encoding="utf-8")
    (HERE / "gain.svg").write_bytes(plot(found))
    print(f"{len(found)} of {len(ARMS)} arms have results")


if __name__ == "__main__":
    main()
