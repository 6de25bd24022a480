"""Is the learning rate of the size of the weights it moves."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.engine.optimizer import learning_rate

LARGE, SMALL = 0.5, 1e-4
"""Shares of a weight's typical size: moved by one step at the peak, moved by the whole run."""


def check(exam: Examination) -> Iterator[Finding]:
    train, total = exam.recipe.train, exam.graph.total_steps
    if train.steps is None and train.epochs is None:
        return
    shares = list(_shares(exam))
    if not shares:
        return
    share = statistics.median(shares)
    rates = [learning_rate(step, total, train) for step in range(0, total, max(1, total // 1000))]
    peak, mean = max(rates), sum(rates) / len(rates)
    usual = "1e-4 to 1e-2 is usual" if train.optimizer == "adamw" else "0.01 to 0.5 is usual"
    if peak * share > LARGE:
        what = f"a step at the peak rate of {peak:g} moves a typical weight by {peak * share:.2g} times its size"
        yield Finding("warning", what, "train.lr", f"train.lr={LARGE / 10 / share:.0e}, or so; {usual}")
    elif mean * share * total < SMALL:
        moved = mean * share * total
        what = f"all {total} steps at {train.lr:g} together move a typical weight by {moved:.0e} of its size"
        yield Finding("warning", what, "train.lr", f"train.lr={peak * 0.1 / moved:.0e}, or so; {usual}")


def _shares(exam: Examination) -> Iterator[float]:
    """Per weight matrix of the students: what a first step at rate 1 moves, as a share of the matrix."""
    train = exam.recipe.train
    sums: list[torch.Tensor | None] = [None] * len(exam.parameters)
    for term in exam.graph.terms:
        for i, g in enumerate(exam.gradients.get(term.name, [])):
            if g is not None:
                before = sums[i]
                sums[i] = g * exam.weight(term) if before is None else before + g * exam.weight(term)
    held = [g for g in sums if g is not None]
    norm = float(torch.nn.utils.get_total_norm(held)) if held else 0.0
    clip = min(1.0, train.max_grad_norm / norm) if train.max_grad_norm and norm else 1.0
    for (name, p), g in zip(exam.parameters.items(), sums, strict=True):
        size = float(p.detach().square().mean().sqrt())
        if not name.startswith("nodes.") or p.dim() < 2 or g is None or size == 0 or not g.any():
            continue
        moved = 1.0 if train.optimizer == "adamw" else clip * float(g.square().mean().sqrt())
        yield moved / size
