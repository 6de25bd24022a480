"""A diagnosis for people: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from mmkd.diagnosis.finding import Diagnosis, Finding

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_sheet(diagnosis: Diagnosis, stream: TextIO) -> None:
    """Print findings, worst first, how many there are, and what was measured."""
    print_findings(diagnosis.findings, stream)
    print(diagnosis.summary(), file=stream)
    if m := diagnosis.measured:
        print(
            f"a step of {m['batch_size']} takes {m['step_seconds']:.3g} s on {m['device']} "
            f"({m['samples_per_second']:.0f} samples/s), the run {_clock(m['run_seconds'])}; "
            f"memory about {_size(m['memory_bytes'])}; attention by {m['attention']}",
            file=stream,
        )


def print_findings(findings: Sequence[Finding], stream: TextIO) -> None:
    """Print each finding with its place and its fix."""
    if stream.isatty():
        _table(findings, stream)
        return
    for finding in findings:
        place = f"{finding.where}: " if finding.where else ""
        print(f"{finding.severity}: {place}{finding.what} [{finding.check}]", file=stream)
        if finding.fix:
            print(f"  fix: {finding.fix}", file=stream)


def _table(findings: Sequence[Finding], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text.assemble((finding.where, "bold"), ": " if finding.where else "", finding.what)
        said.append(f"  {finding.check}", "dim")
        if finding.fix:
            said.append("\nfix: ", "green").append(finding.fix)
        table.add_row(Text(finding.severity, COLOURS[finding.severity]), said)
    if findings:
        Console(file=stream, highlight=False, markup=False, emoji=False).print(table)


def _clock(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 100 else f"{seconds:.0f} s"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, count / 2**20):.0f} MiB"
