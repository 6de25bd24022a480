"""From streams of samples to batches: what makes up a step is a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from mmkd.components import Dataset, Sample
from mmkd.engine.bad_samples import BadSamples
from mmkd.engine.stream import BadSample, Place, Stream, read
from mmkd.errors import MmkdError
from mmkd.graph import ranks
from mmkd.graph.collate import Collator, Prepared

__all__ = ["Batches", "Order", "batches", "eval_batches", "first_batch", "read"]


class Order(Sampler[dict[str, list[Place]]]):
    """The places of every stream for each step, from any step on.

    Args:
        streams: what a step draws from.
        start, stop: batches to yield, counted from the beginning of the run.
        shared: give this rank its part of each batch.
    """

    def __init__(self, streams: Sequence[Stream], start: int, stop: int, *, shared: bool = False) -> None:
        self._streams, self._start, self._stop, self._shared = streams, start, stop, shared

    def __len__(self) -> int:
        return max(0, self._stop - self._start)

    def __iter__(self) -> Iterator[dict[str, list[Place]]]:
        for step in range(self._start, self._stop):
            whole = {stream.name: stream.places(step) for stream in self._streams}
            yield {name: own[ranks.part(len(own))] for name, own in whole.items()} if self._shared else whole


class Batches(torch.utils.data.Dataset[tuple[Any, list[BadSample]]]):
    """A batch by its places, with the bad samples met on the way; an error is a value, so that workers can send it."""

    def __init__(self, streams: Sequence[Stream], collator: Collator) -> None:
        self.streams, self.collator = {stream.name: stream for stream in streams}, collator

    def __getitem__(self, places: Mapping[str, Sequence[Place]]) -> tuple[dict[str, Any] | MmkdError, list[BadSample]]:
        made: dict[str, Any] | MmkdError
        try:
            made = self.batch(places)
        except MmkdError as error:
            made = error
        bad = [sample for stream in self.streams.values() for sample in stream.bad]
        for stream in self.streams.values():
            stream.bad = []
        return made, bad

    def batch(self, places: Mapping[str, Sequence[Place]]) -> dict[str, Any]:
        """Samples read, curated and transformed one by one, then stacked."""
        columns: dict[str, list[Prepared]] = {}
        for name, column in places.items():
            stream = self.streams[name]
            for place in column:
                prepare = partial(self._prepared, stream.replica(place))
                for view, prepared in stream.fetch(place, prepare).items():
                    columns.setdefault(view, []).append(prepared)
        return self.collator.stack(columns)

    def _prepared(self, replica: int, views: Mapping[str, Sample]) -> dict[str, Prepared]:
        return {view: self.collator.prepare(sample, view, replica) for view, sample in views.items()}


def batches(
    streams: Sequence[Stream],
    collator: Collator,
    start: int,
    stop: int,
    *,
    workers: int = 0,
    pin: bool = False,
    bad: BadSamples | None = None,
    shared: bool = False,
) -> Iterator[dict[str, Any]]:
    """Batches `start` to `stop` of the run, or this rank's part of each; they do not depend on the number of workers.

    Raises:
        MmkdError: a sample is bad, or more of them than `bad` allows.
    """
    loader: DataLoader[Any] = DataLoader(
        Batches(streams, collator),
        sampler=Order(streams, start, stop, shared=shared),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(streams[0].seed),  # leaves the global generator to the networks
        multiprocessing_context="fork" if workers else None,
    )
    for made, met in loader:
        if bad is not None:
            bad.add(met)
        if isinstance(made, MmkdError):
            raise made
        yield made


def first_batch(streams: Sequence[Stream], collator: Collator, size: int) -> dict[str, Any]:
    """A batch of the first samples of each stream, to infer shapes from."""
    places = {s.name: [(0, i % len(s.dataset)) for i in range(min(size, len(s.dataset)))] for s in streams}
    return Batches(streams, collator).batch(places)


def eval_batches(dataset: Dataset, collator: Collator, batch: int, *, skip: bool = False) -> Iterator[dict[str, Any]]:
    """The whole dataset in order, unchanged by curators; without bad samples where `skip`."""
    for start in range(0, len(dataset), batch):
        indices = range(start, min(start + batch, len(dataset)))
        if prepared := list(_prepared(dataset, collator, indices, skip)):
            yield collator.stack({"": prepared})


def _prepared(dataset: Dataset, collator: Collator, indices: Iterable[int], skip: bool) -> Iterator[Prepared]:
    for index in indices:
        try:
            yield collator.prepare(read(dataset, index))
        except MmkdError:
            if not skip:
                raise


def _as_it_is(item: Any) -> Any:
    return item
