"""What an examination comes to: findings, each with its place and its fix, and what was measured on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, doubtful or worth knowing.

    Args:
        severity: `error` cannot be meant, `warning` is seldom meant, `note` is worth knowing.
        what: one sentence without a final stop.
        where: place in the recipe (`losses.kd.teacher`).
        fix: the edit that helps.
        check: name of the check that found it; the doctor fills it in.
    """

    severity: Severity
    what: str
    where: str = ""
    fix: str = ""
    check: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, worst first, and what one step costs."""

    findings: Sequence[Finding]
    measured: Mapping[str, Any] = field(default_factory=dict)
    """`step_seconds`, `samples_per_second`, `memory_bytes`, `device`, ...; empty after a preflight."""

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def summary(self) -> str:
        """One line: how many of each."""
        counts = Counter(finding.severity for finding in self.findings)
        held = [f"{counts[s]} {s}{'' if counts[s] == 1 else 's'}" for s in SEVERITIES if counts[s]]
        return ", ".join(held) or "nothing found"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "measured": dict(self.measured),
        }
