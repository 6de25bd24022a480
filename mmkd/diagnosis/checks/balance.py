"""Do the losses pull the students equally hard: gradient norms within a factor of a hundred."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding

APART = 100.0


def check(exam: Examination) -> Iterator[Finding]:
    students = {node.name for node in exam.students()}
    mine = [name.startswith("nodes.") and name.split(".")[1] in students for name in exam.parameters]
    pulls: dict[str, float] = {}
    for term in exam.graph.terms:
        own = [g for g, keep in zip(exam.gradients.get(term.name, []), mine, strict=False) if keep and g is not None]
        norm = abs(exam.weight(term)) * float(torch.nn.utils.get_total_norm(own)) if own else 0.0
        if 0 < norm < float("inf"):
            pulls[term.name] = norm
    if len(pulls) < 2:
        return
    middle = statistics.median_low(pulls.values()) if len(pulls) > 2 else min(pulls.values())
    for term in exam.graph.terms:
        ratio = pulls.get(term.name, middle) / middle
        if 1 / APART < ratio < APART:
            continue
        other = min((name for name in pulls if name != term.name), key=lambda name: abs(pulls[name] - middle))
        what = (
            f"loss '{term.name}' pulls the students {_factor(ratio)} than '{other}' "
            f"(gradient norms {pulls[term.name]:.2g} and {pulls[other]:.2g})"
        )
        where = f"{term.binding.where}.weight"
        better = exam.weight(term) / ratio
        if not isinstance(term.weight, float):
            fix = f"multiply its weight by {1 / ratio:.1g}"
        else:
            fix = f"{where}={better:.1g}"
        yield Finding("warning", what, where, fix)


def _factor(ratio: float) -> str:
    times, word = (ratio, "harder") if ratio > 1 else (1 / ratio, "more softly")
    return f"{times:.0f} times {word}"
