"""How much of a network's work its early stop leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from mmkd.graph.node import NodeRun
from mmkd.graph.plan import preserved
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report import facts


def skipped_work(graph: TrainingGraph, example: Mapping[str, Any]) -> dict[str, float]:
    """By pass that stops early: the share of a full pass's arithmetic (matrix products, convolutions, attention) that
    it leaves out, counted on an example batch. Passes in which there is none to count stay out."""
    found: dict[str, float] = {}
    for run in graph.plan.runs:
        if facts.stops(run) and not run.inner:
            whole, part = _operations(run, example, full=True), _operations(run, example, full=False)
            if whole:
                found[run.id] = 1 - part / whole
    return found


def _operations(run: NodeRun, example: Mapping[str, Any], *, full: bool) -> int:
    with preserved([run.node.encoder]), FlopCounterMode(display=False) as counter:
        if full:
            run.node.encoder(**run.given(example))
        else:
            NodeRun.once(run, example, {})
    return int(counter.get_total_flops())
