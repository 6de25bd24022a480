"""Is every temperature above zero, from the first step to the last, and of a usual size."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding


def check(exam: Examination) -> Iterator[Finding]:
    total = exam.graph.total_steps
    for term in exam.graph.terms:
        for name, value in vars(term.loss).items():
            if "temperature" not in name:
                continue
            schedules = [s.schedule for s in exam.graph.scheduled if s.module is term.loss and s.option == name]
            values = [s(step, total) for s in schedules for step in (0, total // 2, total - 1, total)] or [value]
            numbers = [v for v in values if isinstance(v, int | float)]
            where = f"{term.binding.where}.{name}"
            if numbers and min(numbers) <= 0:
                when = " in the course of its schedule" if schedules else ""
                what = f"the temperature of loss '{term.name}' is {min(numbers):g}{when}"
                yield Finding("error", what, where, f"{where}=1.0, or a schedule that ends above 0")
            elif numbers and (max(numbers) > 100 or min(numbers) < 1e-3):
                odd = max(numbers) if max(numbers) > 100 else min(numbers)
                what = f"the temperature of loss '{term.name}' is {odd:g}"
                yield Finding("warning", what, where, "0.01 to 20 is usual")
