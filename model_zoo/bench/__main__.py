"""Run the bench: every group in a process of its own, one table at the end.

    python -m model_zoo.bench --short
    python -m model_zoo.bench --only divergence --only peers

The full form writes `results.json` after every group, and the picture and the card made from it; `--resume` leaves out
groups that are there for the same versions. Groups that have a CUDA variant run it too where CUDA is present.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from model_zoo.bench import measure, picture, results, table
from model_zoo.bench.results import FILE, HERE, Entry, Group

MARK = "failed"


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parsed(arguments)
    if given.render:
        render(results.read(given.json or FILE))
        return 0
    known = results.groups()
    if given.group:
        emit(known[given.group], given.short)
        return 0
    console = Console(highlight=False)
    file = given.json or (HERE / "results_short.json" if given.short else FILE)
    before = results.read(file)
    entries = before if given.only or given.resume else []
    chosen = [known[name] for name in given.only or known]
    jobs = [(group, device) for group in chosen for device in given.device if device in group.devices]
    if given.resume:
        jobs = [job for job in jobs if not _there(entries, *job, given.short)]
    expected = {(entry.group, entry.device): entry.seconds for entry in before}
    failed = []
    for i, (group, device) in enumerate(jobs):
        left = [expected.get((other.name, on)) for other, on in jobs[i:]]
        wait = f", about {_span(sum(known for known in left if known))} left" if all(left) else ""
        console.print(f"[{i + 1}/{len(jobs)}] {group.title}{'' if device == 'cpu' else f' on {device}'}{wait}")
        start = time.monotonic()
        entry = Entry(group.name, device, results.key(group, device, given.short), 0.0, {})
        try:
            for row in measured(group, device, given.short):
                if isinstance(row, measure.Row):
                    entry.rows.append(row)
                    shown = [cell for cell in table.cells(entry, row) if cell] + ([] if row.ratio else [row.note])
                    console.print(f"    {'  '.join(shown)}", style="dim", markup=False, soft_wrap=True)
                else:
                    entry.environment = row
        except RuntimeError as error:
            failed.append(group.name)
            console.print(str(error), style="red", markup=False)
            continue
        entry.seconds = round(time.monotonic() - start, 1)
        entries = [e for e in entries if (e.group, e.device) != (group.name, device)] + [entry]
        results.write(file, entries)
    console.print(table.terminal(entries))
    console.print(table.summary(entries) + (f"; {MARK}: {', '.join(failed)}" if failed else ""))
    console.print(f"{file}: {_span(sum(entry.seconds for entry in entries))} in all", style="dim", markup=False)
    if file == FILE:
        render(entries)
    return bool(failed)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m model_zoo.bench", description=__doc__.split("\n\n")[0])
    names = list(results.groups())
    here = measure.devices()
    parser.add_argument("--short", action="store_true", help="fewer rounds and rows; about five minutes")
    parser.add_argument("--only", action="append", choices=names, metavar="GROUP", help=", ".join(names))
    parser.add_argument("--device", action="append", choices=here, help=f"here: {', '.join(here)} (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results go (results.json beside this file)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out groups that are there for the same processor, versions and file",
    )
    parser.add_argument("--render", action="store_true", help="make card and picture from the results, measure nothing")
    parser.add_argument("--group", choices=names, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    given.device = given.device or here
    return given


def render(entries: Sequence[Entry]) -> None:
    """Write card and picture."""
    (HERE / "README.md").write_text(table.card(entries), encoding="utf-8")
    (HERE / "results.svg").write_bytes(picture.drawn(entries))


def _there(entries: Sequence[Entry], group: Group, device: str, short: bool) -> bool:
    wanted = (group.name, device, results.key(group, device, short))
    return any((entry.group, entry.device, entry.key) == wanted for entry in entries)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# -- a group in a process of its own --------------------------------------------------------------------------------


def measured(group: Group, device: str, short: bool) -> Iterator[measure.Row | dict[str, Any]]:
    """Facts of the environment, then rows as they come."""
    command = [sys.executable, "-m", "model_zoo.bench", "--group", group.name, *(["--short"] if short else [])]
    environment = {**os.environ, measure.DEVICE: device, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        process = subprocess.Popen(
            command, cwd=measure.ROOT, env=environment, stdout=subprocess.PIPE, stderr=noise, text=True
        )
        assert process.stdout
        for line in process.stdout:
            held = json.loads(line)
            yield results.row(held["row"]) if "row" in held else held["environment"]
        if process.wait():
            noise.seek(0)
            raise RuntimeError(f"{group.name} {MARK} with exit status {process.returncode}:\n{noise.read()[-2000:]}")


def emit(group: Group, short: bool) -> None:
    """Measure here; what others print to standard output goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measure.one_thread()
    print(json.dumps({"environment": measure.environment()}), file=out, flush=True)
    for row in import_module(f"model_zoo.bench.{group.name}").rows(short):
        print(json.dumps({"row": results.plain(row)}), file=out, flush=True)


if __name__ == "__main__":
    sys.exit(main())
