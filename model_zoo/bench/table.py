"""The results as one table: in the terminal, and as the card beside this file."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from model_zoo.bench.anchors import anchor, why
from model_zoo.bench.measure import Row
from model_zoo.bench.results import Entry, groups, titled

HEADS = ("", "ours [quartiles]", "anchor", "goal", "memory", "goal", "")
VERDICT = {True: "met", False: "missed", None: ""}
STYLE = {True: "green", False: "bold red", None: "dim"}


def number(value: float | None, unit: str = "x") -> str:
    """A ratio with three digits behind the point, other units with whole numbers or two digits."""
    if value is None:
        return ""
    if unit == "x":
        return f"{value:.3f}" if value < 100 else f"{value:.0f}"
    return f"{value:.0f} {unit}" if abs(value) >= 10 else f"{value:.2g} {unit}"


def cells(entry: Entry, row: Row) -> list[str]:
    """One line of the table."""
    ours = ""
    if row.ratio:
        low, high = (number(value, row.unit).removesuffix(f" {row.unit}") for value in row.ratio[1:])
        ours = f"{number(row.ratio.median, row.unit)} [{low}, {high}]"
    known = anchor(entry.group, row.name) if entry.device == "cpu" else None
    return [
        row.name,
        ours or ("" if row.memory_ratio is not None else "not measured"),
        f"{number(known.value, row.unit)} {known.what}" if known else "",
        f"≤ {number(row.goal, row.unit)}" if row.goal is not None else "",
        number(row.memory_ratio),
        f"≤ {number(row.memory_goal)}" if row.memory_goal is not None else "",
        VERDICT[row.met],
    ]


def notes(entry: Entry, row: Row) -> list[str]:
    """What is to be said of a row: its own note, and why it misses."""
    return [text for text in (row.note, why(entry.group, row.name) if row.met is False else "") if text]


def terminal(entries: Sequence[Entry]) -> Table:
    """The table for the terminal, a section for each group; notes stand below rows that were not measured or miss."""
    made = Table(*HEADS, box=box.SIMPLE_HEAD, pad_edge=False)
    for title, entry in titled(entries):
        made.add_section()
        made.add_row(Text(title, "bold"))
        for row in entry.rows:
            first, *others, verdict = cells(entry, row)
            made.add_row(f"  {first}", *others, Text(verdict, STYLE[row.met]))
            if row.met is not True and (said := notes(entry, row)) and (row.met is False or row.ratio is None):
                made.add_row(Text(f"    {'; '.join(said)}", "dim"))
    return made


def summary(entries: Sequence[Entry]) -> str:
    """How many goals are met."""
    judged = [row.met for entry in entries for row in entry.rows if row.met is not None]
    left = sum(row.ratio is None and row.memory_ratio is None for entry in entries for row in entry.rows)
    said = f"{sum(judged)} of {len(judged)} rows with a goal meet it"
    return said + (f"; {left} could not be measured" if left else "")


def card(entries: Sequence[Entry]) -> str:
    """The page beside this file."""
    known = groups()
    parts = [HEAD.format(summary=summary(entries), where=_where(entries))]
    for title, entry in titled(entries):
        about = known[entry.group].about if entry.group in known else ""
        rows = [[_escaped(cell) for cell in cells(entry, row)] for row in entry.rows]
        said = [f"- {row.name}: {note}" for row in entry.rows for note in notes(entry, row)]
        parts.append("\n".join([f"## {title}", "", about, "", *_markdown(HEADS, rows), *([""] if said else []), *said]))
    return "\n\n".join(parts) + "\n"


HEAD = """# What it costs

{summary}. `make bench` takes the numbers, writes `results.json` and makes this page and the picture from it;
`make bench-short` takes a few of each in about five minutes.

![Every ratio with a goal, beside its goal and its anchor](results.svg)

Less is better. A ratio is the median, with quartiles, over rounds of the time of ours over the reference's in the same
round; contestants take turns (A B C, then C B A) on one thread, without garbage collection, on processor time. Memory
is the peak of one call in a process of its own over that of the reference. `warm` keeps large blocks, as the caching
allocator of a GPU does; the default allocator gives them back. An anchor is what a peer or a loop by hand gave before
there was a host, on one thread of a processor with AVX-512 and bf16.

{where}"""


def _where(entries: Sequence[Entry]) -> str:
    said = []
    for facts in {str(entry.environment): entry.environment for entry in entries}.values():
        made = f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB" if facts else ""
        if facts.get("device", "cpu") != "cpu":
            made = f"{facts['device']}, {made}"
        said.append(f"{made}; torch {facts['torch']}, Python {facts['python']}, {facts['threads']} thread")
    loads = [entry.environment["load"] for entry in entries if "load" in entry.environment]
    load = f" Load average {min(loads):g} to {max(loads):g} as groups began." if loads else ""
    return "; ".join(dict.fromkeys(said)) + "." + load if said else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *["--:"] * (len(heads) - 2), "---"], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
