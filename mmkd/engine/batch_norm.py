"""BatchNorm statistics of averaged weights, taken anew over training batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd.engine.data import batches
from mmkd.engine.stream import Stream
from mmkd.graph.collate import Collator, to_device
from mmkd.graph.node import Node
from mmkd.graph.training_graph import TrainingGraph


def stale(graph: TrainingGraph) -> list[Node]:
    """Averaged networks whose statistics are to be refreshed: `average: {of: ..., batch_norm: refresh}`."""
    averaged = [node for node in graph.roles.values() if node.average is not None]
    return [node for node in averaged if node.average and node.average.batch_norm == "refresh" and _norms(node)]


def refresh(graph: TrainingGraph, stream: Stream) -> None:
    """Give averaged networks the statistics that their own activations have on the first batches of the stream.

    The statistics of averaged weights are no average of statistics (Izmailov et al., 2018, algorithm 1). Each is the
    mean over batches of the batch's mean, or of its unbiased variance; only the BatchNorm layers are in training mode,
    so that nothing is dropped. One pass over the data at most is made. No random generator moves.
    """
    for node in stale(graph):
        assert node.average is not None
        _accumulate(graph, node, stream, node.average.refresh_batches)


@contextlib.contextmanager
def refreshed(graph: TrainingGraph, stream: Stream) -> Iterator[None]:
    """Inside, averaged networks are refreshed; afterwards they are as before, so that training goes on unmoved."""
    norms = [norm for node in stale(graph) for norm in _norms(node)]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    refresh(graph, stream)
    try:
        yield
    finally:
        for norm, before in zip(norms, kept, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(before[name])


def _norms(node: Node) -> list[_BatchNorm]:
    return [m for m in node.encoder.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _accumulate(graph: TrainingGraph, node: Node, stream: Stream, count: int) -> None:
    plan = graph.reading([f"{node.name}.{value}" for value in node.encoder.values()])
    (run,) = plan.runs
    collator = Collator(plan.nodes, wanted=plan.wanted)
    count = min(count, max(1, len(stream.dataset) // stream.batch))
    with contextlib.closing(plan), torch.no_grad(), _cumulative(_norms(node)):
        for batch in batches([stream], collator, 0, count):
            with node.encoder.reading(run.wanted):  # a whole pass: a plan would stop at its deepest tap
                node.encoder(**run.given(to_device(batch, graph.device)))


@contextlib.contextmanager
def _cumulative(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Inside, these layers start anew and average all batches alike."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
