"""Does a network in another form than its own (`precision`, `layout`, `compile`) still say what it says in float32."""

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
        for key, error in drift.items():
            where, fix = exam.place(name), "precision: bf16, which has the range of fp32; or remove `precision`"
            if not math.isfinite(error):
                yield Finding("error", f"{key} is not finite where '{name}' runs as {form}", where, fix)
            elif error > MOST:
                what = f"{key} is {100 * error:.2g}% away from float32 where '{name}' runs as {form}"
                yield Finding("warning", what, where, "remove `precision`")
