"""What of a graph may be cached, and under which draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.components import Curator, Encoder, Sample
from mmkd.engine.stream import Stream, read
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.training_graph import TrainingGraph


@dataclass(frozen=True)
class Cacheable:
    """A pass of a constant network over one view of the data, whose outputs are a function of sample and replica."""

    node: Node
    run: NodeRun
    stream: Stream
    drawn: bool
    """Whether curators change what it reads."""

    @property
    def replicas(self) -> int:
        """Rows of each sample."""
        return (self.stream.replicas or 1) if self.drawn else 1

    def sample(self, row: int) -> Sample:
        """The sample of a row; rows go through all samples, replica by replica.

        Raises:
            MmkdError: the sample is bad.
        """
        replica, index = divmod(row, len(self.stream.dataset))
        return self.stream.drawn(index, self.run.view, replica) if self.drawn else read(self.stream.dataset, index)


def cacheable(graph: TrainingGraph, name: str, streams: Sequence[Stream], *, fixed: bool) -> list[Cacheable]:
    """The passes of a network that the losses read.

    Args:
        fixed: the network sees every sample as it is, while the others see it changed (the "fixed teacher" of Beyer
            et al., 2022); mixing samples is refused even then, since a mixed sample has no output among those kept.

    Raises:
        RecipeError: its outputs change from step to step, or from draw to draw; says what changes them.
    """
    node = graph.roles[name]
    if not node.constant:
        changes = "trained" if node.trained else "the average of one that is"
        raise RecipeError(f"only a constant node can be cached; this one is {changes}", where=f"{name}.cache")
    return [_pass(graph, node, run, streams, fixed) for run in graph.plan.runs if run.node is node and run.makes]


def _pass(graph: TrainingGraph, node: Node, run: NodeRun, streams: Sequence[Stream], fixed: bool) -> Cacheable:
    stream = next(stream for stream in streams if run.view in stream.views)
    with node.encoder.reading(graph.plan.wanted.get(node.name)):
        reads = _fields_read(stream, node.encoder, node.inputs)
    where, on = f"{node.name}.cache", f" on '{run.view}'" if run.view else ""
    if batchwise := _changed(graph.curators, reads):
        raise RecipeError(
            f"curators change {batchwise} of whole batches, anew at every step, and '{node.name}' reads it{on}",
            where=where, next="remove `cache` or the curator",
        )  # fmt: skip
    own = stream.views[run.view]
    if fixed:
        if mixed := _changed([curator for curator in own if curator.partners], reads):
            what = f"curators mix {mixed}, which '{node.name}' reads{on}"
            raise RecipeError(what, where=where, next="remove `cache` or the curator")
        return Cacheable(node, run, stream, drawn=False)
    changed = _changed(own, reads)
    if changed and stream.replicas is None:
        raise RecipeError(
            f"curators change {changed}, which '{node.name}' reads{on}, anew in every epoch", where=where,
            next="data.replicas=4, so that each sample has so many draws; `fixed`, which shows samples as they are; "
            "or no `cache`",
        )  # fmt: skip
    return Cacheable(node, run, stream, drawn=bool(changed))


def _changed(curators: Sequence[Curator], reads: set[str]) -> list[str]:
    return sorted({field for curator in curators for field in curator.fields & reads})


def _fields_read(stream: Stream, encoder: Encoder, inputs: Mapping[str, str]) -> set[str]:
    """Which fields of the first sample a transform looks at; of the first good one where bad ones are skipped."""
    for index in range(len(stream.dataset)):
        try:
            return _looked_at(read(stream.dataset, index), encoder, inputs)
        except Exception as error:
            if not stream.skip:
                raise
            last = error
    raise GraphError(f"every sample is bad; the last one: {last}", where=stream.where)


def _looked_at(sample: Sample, encoder: Encoder, inputs: Mapping[str, str]) -> set[str]:
    """Which fields of a sample a transform looks at (all of them where it has none of its own)."""
    noted = _Noted({**sample, **{own: sample[field] for own, field in inputs.items() if field in sample}})
    made = encoder.transform(noted)
    return {inputs.get(name, name) for name in noted.read} if made else set(sample)


class _Noted(Mapping[str, Any]):
    """A sample that notes which of its fields are read."""

    def __init__(self, sample: Mapping[str, Any]) -> None:
        self._sample, self.read = sample, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._sample[name]

    def __iter__(self) -> Iterator[str]:
        self.read.update(self._sample)
        return iter(self._sample)

    def __len__(self) -> int:
        return len(self._sample)
