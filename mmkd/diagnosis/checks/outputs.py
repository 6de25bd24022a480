"""Is everything finite at step 0, and does each network tell its samples apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.graph.value import parse


def check(exam: Examination) -> Iterator[Finding]:
    broken = list(_inputs(exam.batch))
    for name in broken:
        yield Finding("error", f"the batch's {name} is not finite", "data.train", "drop or repair these samples")
    if not broken:
        yield from _values(exam)


def _inputs(batch: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in batch.items():
        if isinstance(value, Mapping):
            yield from _inputs(value, f"{name}.")
        elif isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            yield f"{prefix}{name}"


def _values(exam: Examination) -> Iterator[Finding]:
    finite = True
    for key, value in exam.addressed.items():
        node = exam.graph.roles.get(parse(key).node)
        bound = exam.graph.bound.get(key)
        where = exam.place(node.name) if node else bound.where if bound else "data.train"
        if not value.is_floating_point():
            continue
        if value.isnan().any() or (value == torch.inf).any():
            finite = False
            what = f"{key} is {'NaN' if value.isnan().any() else 'infinite'} at step 0"
            yield Finding(
                "error", what, where, "see to the weights and inputs of this network, or train.precision=fp32"
            )
        elif node and value.dim() > 1 and len(value) == exam.size > 1 and _constant(value):
            if value.any():
                fix = "see whether the network reads its input: mmkd explain RECIPE"
                yield Finding("warning", f"{key} is the same for every sample of the batch", where, fix)
            elif node.constant:
                yield Finding("warning", f"{key} is zero for every sample", where, "load the teacher's weights")
    for name, loss in exam.losses.items() if finite else ():
        where = f"losses.{name}"
        if not loss.isfinite():
            yield Finding("error", f"loss '{name}' is {loss.item()} at step 0", where, "look at what its ports read")
        elif not all(g.isfinite().all() for g in exam.gradients[name] if g is not None):
            what = f"the gradient of loss '{name}' is not finite at step 0, though its value is"
            yield Finding("error", what, where, "keep square roots, norms and logarithms away from 0")


def _constant(value: Tensor) -> bool:
    rows = value.detach().float().nan_to_num(neginf=0.0).flatten(1)
    return bool((rows - rows[:1]).abs().max() <= 1e-6 * rows.abs().max())
