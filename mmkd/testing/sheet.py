"""Verdicts for people: a table of components and probes, then what failed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from mmkd.report.table import print_table
from mmkd.testing.plugin import Verdict


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print one row a component, then each failure with its reason and its fix."""
    rows = []
    for verdict in verdicts:
        failed = list(dict.fromkeys(failure.probe for failure in verdict.failures))
        passed = f"{len(verdict.ran) - len(verdict.failures)}/{len(verdict.ran)}"
        told = ", ".join(failed) or verdict.unbuilt.partition("\n")[0]
        rows.append([verdict.kind, verdict.id, verdict.status, passed, told])
    print_table(["kind", "id", "status", "passed", "failed probes"], rows)
    for verdict in verdicts:
        for failure in verdict.failures:
            print(f"\n{verdict.kind} {verdict.id}\n{textwrap.indent(str(failure), '  ')}")


def as_data(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Plain data for JSON."""
    return [
        {
            "kind": verdict.kind,
            "id": verdict.id,
            "status": verdict.status,
            "probes": list(dict.fromkeys(verdict.ran)),
            "failures": [vars(failure) for failure in verdict.failures],
            "unbuilt": verdict.unbuilt or None,
        }
        for verdict in verdicts
    ]
