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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.registry import Entry
from mmkd.report.canvas import Curve, Dot, Shape, Text, line, svg, text_width
from mmkd.signature import options
from model_zoo.methods import bench, registry
from model_zoo.methods.arms import ARMS, BASE, GRID, NOT_PROVED, VIT, recipe
from model_zoo.methods.task import REPLICAS, TASKS, TEST, VALIDATION, classes, labelled, places

HERE = Path(__file__).parent
DRAWS = 10_000


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
    return {"conv": {"labels": "labels", "kd": "kd"}, "vit": {"labels": "vit_labels", "kd": "vit_kd"}}[ARMS[name].kind][of]


def gains(found: Mapping[str, Mapping[str, Result]], task: str, of: str = "labels") -> dict[str, Gain]:
    """Every arm against its reference, where both are finished."""
    return {
        name: gain(found[name][task], found[other][task])
        for name in found
        if (other := reference(name, of)) != name and task in found[name] and task in found.get(other, {})
    }


# -- the page -----------------------------------------------------------------------------------------------------


def page(found: Mapping[str, Mapping[str, Result]], scores: Mapping[str, Any]) -> str:
    """The whole README."""
    formulas, presets = registry.formulas(), registry.presets()
    counts = ", ".join(
        f"{sum(entry.kind == kind for entry in formulas)} {word}"
        for kind, word in {"loss": "losses", "mixer": "mixers", "schedule": "schedules", "procedure": "procedures",
                           "metric": "metrics"}.items()
    )  # fmt: skip
    against = {task: gains(found, task) for task in TASKS}
    losses = [entry for entry in formulas if entry.kind == "loss"]
    others = [entry for entry in formulas if entry.kind in ("mixer", "procedure", "schedule")]
    metrics = [entry for entry in formulas if entry.kind == "metric"]
    done = sum(len(tasks) == len(TASKS) for tasks in found.values())
    return "\n".join([
        "# Methods", "",
        f"{len(formulas)} distinct formulas ({counts}) and, counted apart, {len(presets)} presets: recipes that put",
        "formulas together. Made by `make methods` out of the registry, the tests and the files in `results/`; `make",
        f"bench-methods` makes those. {done} of {len(ARMS)} arms are finished.", "",
        "*oracle*: a test compares it with an independent float64 implementation. *golden*: a test compares it with values",
        "recorded from its authors' code (`tests/goldens`). The two last columns are a **small proof, not a ranking**: the",
        "gain in points over the same student without a teacher, mean (sd) over seeds; **+** and **−** where the 95%",
        "interval over test pictures leaves out 0 and all seeds agree. See [below](#the-small-proof) what that is worth.", "",
        "## Losses", "", *_table(losses, against), "",
        *(f"- no proof of `{name}`: {why}" for name, why in NOT_PROVED.items()), "",
        "## Mixers, procedures and schedules", "", *_table(others, against), "",
        "## Metrics", "", *_plain(metrics), "",
        "## Presets", "", *_presets(presets, against), "",
        "## Variants", "", "Other options or layers of formulas above, and recipes of the bench alone.", "",
        *_variants(against), "",
        "## The small proof", "", *_proof(found, scores, against),
    ]) + "\n"  # fmt: skip


def _cells(names: Sequence[str], against: Mapping[str, Mapping[str, Gain]]) -> str:
    return " | ".join(
        "; ".join(str(against[task][name]) for name in names if name in against[task]) for task in TASKS
    )


def _table(entries: Sequence[Entry], against: Mapping[str, Mapping[str, Gain]]) -> list[str]:
    lines = [
        f"| id | what | formula | options in the proof | paper | oracle | golden | {' | '.join(TASKS)} |",
        f"|---|---|---|---|---|---|---|{'---|' * len(TASKS)}",
    ]
    for entry in entries:
        arms = [name for name, arm in ARMS.items() if entry.id in arm.proves]
        golden = ", ".join(registry.goldens(entry))
        lines.append(
            f"| `{entry.id}` | {_escaped(entry.summary)} | {_code(registry.formula(entry))} | {_options(entry, arms)} | "
            f"{_paper(entry)} | {'yes' if registry.has_oracle(entry) else ''} | {golden} | {_cells(arms, against)} |"
        )
    return lines


def _plain(entries: Sequence[Entry]) -> list[str]:
    lines = ["| id | what | formula | paper | oracle |", "|---|---|---|---|---|"]
    return lines + [
        f"| `{entry.id}` | {_escaped(entry.summary)} | {_code(registry.formula(entry))} | {_paper(entry)} | "
        f"{'yes' if registry.has_oracle(entry) else ''} |"
        for entry in entries
    ]


def _presets(entries: Sequence[Entry], against: Mapping[str, Mapping[str, Gain]]) -> list[str]:
    lines = [f"| id | what | paper | {' | '.join(TASKS)} |", f"|---|---|---|{'---|' * len(TASKS)}"]
    for entry in entries:
        arms = [name for name, arm in ARMS.items() if entry.id in arm.proves]
        lines.append(f"| `{entry.id}` | {_escaped(entry.summary)} | {_paper(entry)} | {_cells(arms, against)} |")
    return lines


def _variants(against: Mapping[str, Mapping[str, Gain]]) -> list[str]:
    lines = [f"| arm | terms | {' | '.join(TASKS)} |", f"|---|---|{'---|' * len(TASKS)}"]
    for name, arm in ARMS.items():
        if not arm.proves and name != "vit_labels":
            terms = [term for key, term in recipe(name)["losses"].items() if key.startswith("method")]
            said = "; ".join(" ".join([f"`{term['use']}`", _code(_chosen(term))]).strip() for term in terms)
            lines.append(f"| {name} | {said} | {_cells([name], against)} |")
    return lines


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


def _proof(
    found: Mapping[str, Mapping[str, Result]], scores: Mapping[str, Any], against: Mapping[str, Mapping[str, Gain]]
) -> list[str]:
    given = {task: statistics.mean(len(labelled(task, seed)) for seed in bench.SEEDS) for task in TASKS}
    student = BASE["student"]
    lines = [
        "![Gain over the same student without a teacher, by arm and task](gain.svg)", "",
        "| | |", "|---|---|",
        f"| tasks | emoji (Noto, 32 pixels): {' and '.join(f'{task}, {len(classes(task))} classes' for task in TASKS)} |",
        f"| data | a pool of {len(places((2, 3)))} pictures, {REPLICAS} augmented views each, of which "
        + " and ".join(f"{given[task]:.0f} pictures ({TASKS[task]} a class at most) are labelled for {task}" for task in TASKS)
        + f"; {len(places(VALIDATION))} pictures to tune, {len(places(TEST))} to test; near-duplicates never on two sides |",
        f"| student | convolutional, widths {student['widths']}, 0.12 M parameters, from random weights |",
        "| teacher | MobileNetV2 of ImageNet (torchvision) at 128 pixels, run once over the views; a linear head fitted to "
        f"the same labelled pictures: {_scored(scores, 'conv')} |",
        f"| ViT arms | `{VIT['student']['model']}` at 64 pixels from random weights, taught by a ViT that was trained here "
        f"on MobileNetV2's embedding of the pool without labels, and given a head as above: {_scored(scores, 'vit')} |",
        f"| budget | {BASE['train']['steps']} steps of {BASE['data']['batch_size']} (ViT {VIT['data']['batch_size']}), half "
        "of a batch labelled; a few seconds of one core a run. Without a teacher every batch is labelled pictures only |",
        "| labels | methods that ask for a label get the teacher's class where none is given |",
        f"| tuning | every arm alike: its weight from {{{', '.join(f'{g:g}' for g in GRID)}}} times that with which the "
        "method starts as large as the label loss (for no teacher: the learning rate, likewise), by validation accuracy of "
        "one seed. Options are the paper's or a common choice, as the tables say, and were not tuned |",
        f"| seeds | {len(bench.SEEDS)}; each draws labelled pictures, weights and order anew, the same for all arms |", "",
        *_accuracies(found), "",
        "### What this shows", "",
    ]  # fmt: skip
    for task in TASKS:
        lines += [f"**{task}**", "", *_said(found, task, against[task]), ""]
    return [
        *lines,
        "With this many comparisons some signs are luck: of as many methods that do nothing about one in forty would get a "
        "**+** by its interval alone. The order of methods depends on student, teacher, budget and grid, all of them tiny "
        "here; features of views that were augmented once and runs of seconds favour what learns fast.", "",
        "Goes on where it stopped: `make bench-methods`; one arm: `python -m model_zoo.methods.bench kd`. A further arm is "
        "a line in [`arms.py`](arms.py).",
    ]  # fmt: skip


def _scored(scores: Mapping[str, Any], kind: str) -> str:
    return ", ".join(
        f"{statistics.mean(own):.1f} ({statistics.stdev(own):.1f}) at {task}" for task, own in scores.get(kind, {}).items()
    )


def _accuracies(found: Mapping[str, Mapping[str, Result]]) -> list[str]:
    lines = [f"| accuracy, % | {' | '.join(TASKS)} |", f"|---|{'---|' * len(TASKS)}"]
    for name in ("labels", "kd", "vit_labels", "vit_kd"):
        cells = [f"{r.mean:.1f} ({r.spread:.1f})" if (r := found.get(name, {}).get(task)) else "" for task in TASKS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _said(found: Mapping[str, Mapping[str, Result]], task: str, own: Mapping[str, Gain]) -> list[str]:
    over_kd = gains(found, task, "kd")
    names = {sign: [n for n, g in own.items() if g.verdict == sign] for sign in (1, 0, -1)}
    beats, loses = ([n for n, g in over_kd.items() if g.verdict == sign and n not in ("labels", "vit_labels")] for sign in (1, -1))
    return [
        f"- better than no teacher ({len(names[1])} of {len(own)}): {_list(names[1])}",
        f"- not told apart from no teacher ({len(names[0])}): {_list(names[0])}",
        f"- worse than no teacher ({len(names[-1])}): {_list(names[-1])}",
        f"- better than KD: {_list(beats)}; worse than KD: {_list(loses)}",
    ]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


# -- the plot -----------------------------------------------------------------------------------------------------

ROW, LEFT, PANEL, GAP, TOP = 17, 150, 330, 40, 58
INK, FAINT = "#333333", "#cccccc"
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
        Text(12, 37, "dot: mean of seeds; bar: 95% interval over test pictures; ticks: seeds; colour: told apart from 0", INK, 11),
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
