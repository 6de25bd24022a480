"""Probes: small named questions to a component, all of them asked, every failure told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.testing.surroundings import preserved


class ProbeFailure(Exception):
    """Raised by a probe: what is wrong with the component."""


class NotApplicable(Exception):
    """Raised by a probe that has nothing to ask of this component."""


@dataclass(frozen=True)
class Probe:
    """One question. `why` says what a wrong answer costs, `fix` what helps."""

    name: str
    why: str
    fix: str
    ask: Callable[[Any], None]
    first: bool = False
    """Whether the others make no sense where this one fails."""


@dataclass(frozen=True)
class Failure:
    """A probe that a component failed."""

    probe: str
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        what = self.what.replace("\n", "\n    ")
        return f"{self.probe}: {what}\n    why: {self.why}\n    fix: {self.fix}"


class ConformanceError(AssertionError):
    """A component breaks the contract; lists every probe that it failed.

    Args:
        title: the component.
        failures: the probes that it failed.
        ran: names of all probes that ran.
    """

    def __init__(self, title: str, failures: Sequence[Failure], ran: Sequence[str]) -> None:
        self.title, self.failures, self.ran = title, tuple(failures), tuple(ran)
        listed = "".join(f"\n  {failure}" for failure in failures)
        super().__init__(f"{title} fails {len(failures)} of {len(ran)} probes{listed}")


class Probes(list[Probe]):
    """The probes of a kind, in order; adds a function to them as a decorator.

    The function's name is the probe's, its docstring says why the answer matters.
    """

    def __call__(self, fix: str, *, first: bool = False) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        def add(ask: Callable[[Any], None]) -> Callable[[Any], None]:
            why = " ".join((ask.__doc__ or "").split())
            self.append(Probe(ask.__name__, why, fix, ask, first))
            return ask

        return add


def ask(title: str, case: Any, probes: Sequence[Probe]) -> list[str]:
    """Ask all probes; returns the names of those that applied.

    Raises:
        ConformanceError: some failed.
    """
    ran, failures = [], []
    for probe in probes:
        try:
            with preserved(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                probe.ask(case)
        except NotApplicable:
            continue
        except ProbeFailure as failure:
            failures.append(Failure(probe.name, str(failure), probe.why, probe.fix))
        except Exception as error:
            failures.append(Failure(probe.name, f"{type(error).__name__}: {error}", probe.why, probe.fix))
        ran.append(probe.name)
        if failures and probe.first:
            break
    if failures:
        raise ConformanceError(title, failures, ran)
    return ran


def require(condition: object, what: str) -> None:
    """Fail the probe unless the condition holds."""
    if not condition:
        raise ProbeFailure(what)
