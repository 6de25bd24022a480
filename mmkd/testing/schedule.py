"""What a schedule must be."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from typing import Any

from mmkd.signature import ports
from mmkd.testing.module import refuses_to_build
from mmkd.testing.probe import NotApplicable, Probes, ask, require
from mmkd.testing.schedule_values import PROBES, WeightingCase
from mmkd.testing.specimen import Specimen
from mmkd.testing.surroundings import changed, surroundings

TOTALS = (1, 2, 10, 1000)


class ScheduleCase:
    """A schedule and its instances."""

    def __init__(self, specimen: Specimen, inert: tuple[str, ...]) -> None:
        self.specimen, self.inert = specimen, inert

    def curve(self, schedule: Any, total: int) -> list[float]:
        return [schedule(step, total) for step in (*range(min(total, 50) + 1), total, 2 * total)]

    def behaviour(self, schedule: Any) -> list[list[float]]:
        return [self.curve(schedule, total) for total in TOTALS]

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        return self.specimen.fresh(seed, changed)


SCHEDULE = Probes()


@SCHEDULE("give every option a default, or options={...} to the check", first=True)
def runs(case: ScheduleCase) -> None:
    """Nothing else can be said of a schedule that cannot be made."""
    refuses_to_build(case.specimen)
    case.fresh()(0, 10)


@SCHEDULE("return a plain float; guard divisions by total - 1")
def finite(case: ScheduleCase) -> None:
    """It becomes a weight or an option: one NaN in it ends the run."""
    schedule = case.fresh()
    for total in TOTALS:
        for step in {0, 1, total // 2, total - 1, total, total + 1}:
            value = schedule(step, total)
            require(isinstance(value, int | float), f"is {type(value).__name__} at step {step} of {total}, not a float")
            require(math.isfinite(value), f"is {value} at step {step} of {total}")


@SCHEDULE("compute from step and total alone; state belongs into a curator or loss")
def pure(case: ScheduleCase) -> None:
    """The host asks for any step, in any order: to resume, to explain, to draw."""
    schedule, before = case.fresh(), surroundings()
    forwards = [schedule(step, 20) for step in range(21)]
    backwards = [schedule(step, 20) for step in reversed(range(21))]
    require(forwards == backwards[::-1], "asked in reverse it gives other values")
    require(forwards == [case.fresh()(step, 20) for step in range(21)], "two equal instances give different values")
    require(not changed(before), f"changes {', '.join(changed(before))}")


@SCHEDULE("hold the end value: `if step >= total: return end`")
def holds_its_end(case: ScheduleCase) -> None:
    """The last step is `total`, and a run that goes on for longer must not leave the range."""
    schedule = case.fresh()
    for total in TOTALS:
        end = schedule(total, total)
        later = [schedule(total + extra, total) for extra in (1, 7, 10 * total)]
        require(all(value == end for value in later), f"goes on after its {total} steps: {end}, then {later}")


@SCHEDULE("be exactly `start` at step 0 and `end` from step `total` on")
def states_its_ends(case: ScheduleCase) -> None:
    """Whoever writes `start` and `end` expects to see them."""
    schedule = case.fresh()
    for step, name in ((0, "start"), (100, "end")):
        told = getattr(schedule, name, None)
        if not isinstance(told, int | float):
            raise NotApplicable
        value = schedule(step, 100)
        near = math.isclose(value, told, rel_tol=1e-9, abs_tol=1e-12)
        require(near, f"is {value} at step {step} of 100, and {name} is {told}")


@SCHEDULE("depend on step / total")
def scales_with_the_run(case: ScheduleCase) -> None:
    """A run of twice the steps should see the same course, twice as slowly."""
    schedule = case.fresh()
    low, high = min(case.curve(schedule, 1000)), max(case.curve(schedule, 1000))
    for share in (0.25, 0.5, 0.75):
        short, long = schedule(int(share * 1000), 1000), schedule(int(share * 4000), 4000)
        require(
            abs(short - long) <= 0.02 * max(high - low, abs(high), 1e-12),
            f"is {short} after {share:.0%} of 1000 steps and {long} of 4000",
        )


@SCHEDULE("keep no lambdas, open files or generators in attributes")
def copies(case: ScheduleCase) -> None:
    """The host copies graphs, and sends schedules to other processes."""
    schedule = case.fresh()
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        require(case.curve(other, 10) == case.curve(schedule, 10), "a copy gives other values")


@SCHEDULE("use it in forward, or remove it")
def options_matter(case: ScheduleCase) -> None:
    """An option that does nothing is a typo or a lost line, and users will tune it."""
    from mmkd.testing.module import idle_options

    idle = idle_options(case)
    require(not idle, f"nothing changes with option {', '.join(idle)}")


def check_schedule(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a schedule everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class or an instance.
        options: options of the class; numbers without a default are filled in.
        inputs: values by port, for one that reads values; its `example()` otherwise.
        inert: options that need not change anything.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    title = f"schedule {specimen.cls.__name__}"
    if ports(specimen.cls) or (not specimen.lacking and any(True for _ in specimen.fresh().parameters())):
        case = WeightingCase(specimen, inputs, reference=None, divergence=False, constant=(), shared=(), inert=inert)
        return ask(title, case, PROBES)
    return ask(title, ScheduleCase(specimen, inert), SCHEDULE)
