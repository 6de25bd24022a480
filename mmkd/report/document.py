"""A run, or several, as one HTML file that needs nothing besides itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmkd.report import fidelity
from mmkd.report.chart import number
from mmkd.report.comparison import PALETTE, comparison, metric
from mmkd.report.curves import curves, evaluated, schedules, scores
from mmkd.report.markup import Html, join, scrolling, table, tag
from mmkd.report.observation import Observation
from mmkd.report.record import Place, Record
from mmkd.report.retrieval import retrieval

QUERIES = 8
"""Queries of a retrieval grid; several runs share them."""
DESCRIPTION = 600


@dataclass
class Sight:
    """What running a run's model has shown, beside what its folder says."""

    arms: dict[str, Observation] = field(default_factory=dict)
    picture: str = ""
    """The training graph as SVG."""
    notes: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""


Section = tuple[str, Html]
"""A title and what stands under it."""


def document(runs: Sequence[tuple[Record, Sight]]) -> str:
    """The whole page.

    Args:
        runs: each run's folder as read, and what its model has shown.
    """
    if len(runs) == 1:
        record, sight = runs[0]
        title = record.title
        body = [_header(record), _sections(_of_run(record, sight, QUERIES), "")]
    else:
        title = f"{len(runs)} runs"
        names = ", ".join(record.label for record, _ in runs)
        body = [tag("header", tag("h1", title), tag("p", names, class_="lead"))]
        links = [tag("a", record.label, href=f"#run{i}") for i, (record, _) in enumerate(runs)]
        body += [_sections(comparison([record for record, _ in runs]), "all", links)]
        queries = max(2, QUERIES // len(runs))
        for i, (record, sight) in enumerate(runs):
            inner = [_header(record, "h2"), _sections(_of_run(record, sight, queries), f"run{i}")]
            body.append(tag("details", tag("summary", record.label), inner, class_="run", id=f"run{i}"))
    return "<!doctype html>\n" + tag("html", _head(title), tag("body", tag("main", body), _script()), lang="en") + "\n"


def _head(title: str) -> Html:
    script = base64.b64encode(hashlib.sha256(_file("page.js").encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · mmkd"),
        tag("style", Html(_file("page.css"))),
    )


def _script() -> Html:
    return tag("script", Html(_file("page.js")))


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _sections(sections: Iterator[Section] | Sequence[Section], prefix: str, more: Sequence[Html] = ()) -> Html:
    """Sections below links to them and to what else there is."""
    held = [(f"{prefix}-{title.lower().replace(' ', '-')}".strip("-"), title, content) for title, content in sections]
    links = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in held]
    heading = "h3" if prefix.startswith("run") else "h2"
    shown = [tag("section", tag(heading, title), content, id=anchor) for anchor, title, content in held]
    return join([tag("nav", links, more, aria_label=f"Sections {prefix}".strip()), shown])


# -- one run ----------------------------------------------------------------------------------------------------


def _header(record: Record, heading: str = "h1") -> Html:
    recipe = record.recipe
    about = (recipe.description if recipe else None) or ""
    return tag(
        "header",
        tag(heading, record.title),
        tag("p", about[:DESCRIPTION], class_="lead") if about else None,
        _tiles(record),
    )


def _tiles(record: Record) -> Html | None:
    """The first score of the first metric, as teacher, student and baseline reach it."""
    held = record.scores()
    place = next(iter(held.get("student", {})), None)
    if place is None:
        return None
    student = held["student"][place]
    tiles = []
    teacher = next((arm for arm in held if arm.endswith("(teacher)")), "teacher")
    for arm, colour in ((teacher, "teacher"), ("student", "student"), ("baseline", "baseline")):
        value = held.get(arm, {}).get(place)
        if value is None:
            said = "not scored"
        elif arm == "student":
            said = f"{record.total:,} steps".replace(",", " ") if record.results else "run not ended"
        else:
            said = f"student {student - value:+.3g}".replace("-", "−")
        shown = tag("strong", "–" if value is None else number(value))
        tiles.append(tag("div", tag("span", arm, class_=f"arm {colour}"), shown, tag("small", said), class_="tile"))
    return join([tag("div", tiles, class_="tiles"), tag("p", f"{place[1]} on {place[0]}", class_="faint under")])


def _of_run(record: Record, sight: Sight, queries: int) -> Iterator[Section]:
    charts, broken = schedules(record)
    if notes := [*record.notes, *sight.notes, *broken]:
        yield "What is missing", tag("ul", [tag("li", note) for note in notes], class_="notes")
    if held := record.scores():
        yield "Scores", _scores(record, held)
    colours = {arm: f"c{2 + i % (PALETTE - 2)}" for i, arm in enumerate(record.stages.values())}  # not the arms' two
    lines = {arm: (log, colours.get(arm, arm)) for arm, log in record.logs.items() if log.numbers}
    teachers = {arm: scored for arm, scored in held.items() if arm.split()[-1].strip("()") == "teacher"}
    judged = {arm: (evaluated(record, arm), colours.get(arm, arm)) for arm in record.logs}
    drawn = [*scores(judged, teachers, record.total), *curves(lines, record.total), *charts]
    if drawn:
        yield "Curves", tag("div", drawn, class_="charts")
    if sight.arms:
        yield from _observed(sight.arms, queries)
    if sight.picture:
        fitted = r'<svg style="max-width:\1px;min-width:min(\1px,900px)"'
        inner = Html(re.sub(r'<svg xmlns="[^"]*" width="(\d+)" height="\d+"', fitted, sight.picture, count=1))
        yield "Graph", tag("figure", scrolling(inner, "training graph"), class_="card paper")
    if record.recipe_text:
        yield "Recipe", tag("pre", _highlighted(record.recipe_text), class_="recipe", tabindex="0")
    yield "Provenance", _provenance(record)


def _observed(arms: Mapping[str, Observation], queries: int) -> Iterator[Section]:
    if grids := retrieval(arms, queries):
        yield "Retrieval", join(grids)
    main = next(iter(arms.values()))
    lead = tag("p", f"On {main.extent} samples of {main.dataset_name}.", class_="lead")
    if matrices := [*fidelity.confusion(arms), *fidelity.agreement(main)]:
        yield "Predictions", join([lead, tag("div", matrices, class_="charts")])
    if diagrams := fidelity.calibration(arms):
        said = "Bars on the diagonal are calibrated; the strip above shows where the samples are."
        yield "Calibration", join([tag("p", said, class_="lead"), tag("div", diagrams, class_="charts")])
    if (drawn := fidelity.similarity(main)) is not None:
        yield "Representations", drawn


def _scores(record: Record, held: Mapping[str, Mapping[Place, float]]) -> Html:
    places = dict.fromkeys(place for scores in (held.get("student", {}), *held.values()) for place in scores)
    rows = [[metric(place), *(number(s[place]) if place in s else "–" for s in held.values())] for place in places]
    notes = []
    for arm in held:
        best = record.results.get(arm, {}).get("best") if isinstance(record.results.get(arm), dict) else None
        if isinstance(best, dict) and {"step", "score", "value"} <= best.keys():
            notes.append(f"Best of the {arm} on the way: {best['score']} {best['value']:.4g} at step {best['step']}.")
    if not record.results:
        notes.append("Scores of the last evaluation that was logged.")
    seed = record.recipe.train.seed if record.recipe else "?"
    notes.append(f"One run, seed {seed}: no spread is known.")
    return join([table(["metric", *held], rows, class_="numbers"), tag("p", " ".join(notes), class_="faint")])


LINE = re.compile(r"^(?P<lead>\s*(?:- )*)(?P<key>[^\s:#'\"][^:]*:)?(?P<rest>.*)$")


def _highlighted(text: str) -> Html:
    lines = []
    for line in text.rstrip().splitlines():
        match = LINE.match(line)
        assert match
        rest = match["rest"]
        look = "comment" if rest.lstrip().startswith("#") else "value"
        key = tag("span", match["key"], class_="key") if match["key"] else None
        lines.append(join([match["lead"], key, tag("span", rest, class_=look) if rest else None, Html("\n")]))
    return tag("code", lines)


def _provenance(record: Record) -> Html:
    rows: list[tuple[str, Any]] = [("folder", record.folder.resolve().name)]
    if record.recipe:
        rows.append(("seed", record.recipe.train.seed))
    for arm in ("student", "baseline"):
        seconds = record.results.get(arm, {}).get("seconds") if isinstance(record.results.get(arm), dict) else None
        if isinstance(seconds, int | float):
            rows.append((f"time, {arm}", f"{seconds:,.1f} s".replace(",", " ")))
    rows += _walked(record.provenance)
    for arm, config in record.exports.items():
        nodes = config.get("nodes")
        for name, entry in nodes.items() if isinstance(nodes, dict) else ():
            if isinstance(entry, dict) and entry.get("fingerprint"):
                rows.append((f"weights of {name}, {arm}", tag("code", str(entry["fingerprint"]))))
    for arm, home in (("student", record.folder), ("baseline", record.folder / "baseline")):
        weights = home / "student" / "model.safetensors"
        if weights.is_file():
            with weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = f"{weights.stat().st_size / 2**20:.1f} MiB"
            rows.append((f"exported weights, {arm}", join([size, " ", tag("code", f"sha256:{digest}")])))
    body = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in rows]
    return scrolling(tag("table", tag("tbody", body), class_="facts"), "provenance")


def _walked(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        if key == "plugins" and isinstance(value, list):
            named = [p for p in value if isinstance(p, dict)]
            said = [f"{p.get('id')} ({p.get('distribution')} {p.get('version')}, {p.get('status')})" for p in named]
            yield "plugins", ", ".join(said)
        elif isinstance(value, dict):
            yield key, ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
        else:
            yield key, _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
