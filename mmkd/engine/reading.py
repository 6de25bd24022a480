"""All values of a training set at once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.engine.data import eval_batches
from mmkd.engine.stream import Stream
from mmkd.graph.collate import Collator, to_device
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import parse


class Reading:
    """Values of every sample of a stream, in the order of its dataset, unchanged by curators; networks evaluate."""

    def __init__(self, graph: TrainingGraph, stream: Stream) -> None:
        self._graph, self._stream = graph, stream

    def __call__(self, addresses: Sequence[str]) -> dict[str, Tensor]:
        """The values by address, with one row for every sample."""
        graph, stream = self._graph, self._stream
        training = graph.training
        graph.eval()
        plan = graph.reading(addresses)
        collator = Collator(plan.nodes, wanted=plan.wanted)
        try:
            with contextlib.closing(plan), torch.no_grad():
                parts = [
                    plan.run(to_device(batch, graph.device))
                    for batch in eval_batches(stream.dataset, collator, stream.batch, skip=stream.skip)
                ]
        finally:
            graph.train(training)
        return {address: torch.cat([part[parse(address).key] for part in parts]) for address in addresses}
