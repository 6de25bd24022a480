"""Are ports called `student` and `teacher` bound to students and teachers, not the other way round."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding, Severity
from mmkd.graph.term import Term
from mmkd.graph.value import Address


def check(exam: Examination) -> Iterator[Finding]:
    for term in exam.graph.terms:
        ports = term.binding.ports
        if "student" not in ports or "teacher" not in ports:
            continue
        student, teacher = (_trained(exam, ports[name]) for name in ("student", "teacher"))
        if teacher and not student:
            what = f"loss '{term.name}' is reversed: its port 'teacher' reads a student, 'student' reads no student"
            severity: Severity = "note" if _symmetric(exam, term) else "error"
            yield Finding(severity, what, term.binding.where, "swap the values of 'student' and 'teacher'")


def _symmetric(exam: Examination, term: Term) -> bool:
    """Whether the loss is the same with the two ports swapped."""
    if term.name not in exam.losses:
        return False
    given = term.binding.arguments(exam.values, float32=True, detached=True)
    swapped = {**given, "student": given["teacher"], "teacher": given["student"]}
    with torch.no_grad():
        return torch.allclose(term.loss(**given), term.loss(**swapped), rtol=1e-4)


def _trained(exam: Examination, bound: Address | list[Address]) -> bool:
    """Whether some network behind the values is trained through them."""
    origins = set().union(*(exam.origins(a) for a in (bound if isinstance(bound, list) else [bound])))
    return any(exam.graph.roles[name].trained for name in origins)
