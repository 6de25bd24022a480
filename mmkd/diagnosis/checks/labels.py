"""Are labels class indices from 0 to one less than the number of logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.diagnosis.reading import peek
from mmkd.graph.term import Term
from mmkd.graph.value import Address


def check(exam: Examination) -> Iterator[Finding]:
    for term in exam.graph.terms:
        bound = term.binding.ports.get("label")
        classes = _classes(exam, term)
        if not isinstance(bound, Address) or classes is None:
            continue
        seen = _seen(exam, bound)
        ignored = getattr(term.loss, "ignore_index", None)
        seen = seen[seen != ignored] if ignored is not None else seen
        if not seen.numel():
            continue
        low, high, where = int(seen.min()), int(seen.max()), f"{term.binding.where}.label"
        if low < 0:
            what = f"{bound} has labels down to {low}, and classes are counted from 0"
            yield Finding("error", what, where, "drop these samples, or label them with the loss's ignore_index")
        elif high >= classes:
            off = "; labels seem to be counted from 1" if low == 1 and high == classes else ""
            what = f"{bound} goes up to {high}, and there are {classes} logits, classes 0 to {classes - 1}{off}"
            fix = "subtract 1 from the labels" if off else f"num_classes: {high + 1}, or check the labels"
            yield Finding("error", what, where, fix)


def _classes(exam: Examination, term: Term) -> int | None:
    """Width of the one value of floats that the loss compares with its label."""
    widths = {
        value.shape[-1]
        for port, address in term.binding.ports.items()
        if port != "label" and isinstance(address, Address)
        if (value := exam.values.get(address.key)) is not None and value.is_floating_point() and value.dim() > 1
    }
    return widths.pop() if len(widths) == 1 else None


def _seen(exam: Examination, address: Address) -> Tensor:
    """Labels of the batch, and of more samples where they are plain numbers."""
    value = exam.values.get(address.key)
    if value is None or value.is_floating_point():
        return torch.empty(0)
    more = [s.get(address.name) for s in peek(exam.train, exam.patience)] if address.node == "batch" else []
    numbers = torch.tensor([int(x) for x in more if x is not None and np.ndim(x) == 0], dtype=torch.long)
    return torch.cat([value.flatten().cpu().long(), numbers])
