"""Does a network in a form of its own (`precision`, `layout`, `compile`) pay, and still say what it says in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding

MOST = 0.05
"""Relative error of a value above which it is doubtful."""


def check(exam: Examination) -> Iterator[Finding]:
    for name, drift in exam.graph.drift.items():
        form = exam.graph.roles[name].form
        if form is not None and form.imitated:
            what = f"'{name}' runs as {form}, several times slower than in fp32: this processor has no such arithmetic"
            yield Finding("warning", what, f"{exam.place(name)}.precision", "remove `precision`, or use a GPU")
        for key, error in drift.items():
            where, fix = exam.place(name), "precision: bf16, which has the range of fp32; or remove `precision`"
            if not math.isfinite(error):
                yield Finding("error", f"{key} is not finite where '{name}' runs as {form}", where, fix)
            elif error > MOST:
                what = f"{key} is {100 * error:.2g}% away from float32 where '{name}' runs as {form}"
                yield Finding("warning", what, where, "remove `precision`")
