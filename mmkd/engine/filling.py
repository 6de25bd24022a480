"""Passes of a constant network over rows of its data, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmkd.engine.cacheable import Cacheable
from mmkd.errors import GraphError, MmkdError
from mmkd.graph.collate import Collator, Prepared, to_device
from mmkd.graph.training_graph import TrainingGraph

BATCH = 64
"""Rows of a pass, at most; never more than a batch of training."""


class Outputs(NamedTuple):
    """What a network makes of some rows."""

    rows: range
    absent: list[int]
    """Rows whose samples are bad."""
    keys: dict[int, str]
    """By row, of the others."""
    values: dict[str, Tensor]
    """By address without node and view, of the others."""
    lengths: dict[str, Tensor]
    """Of values that are padded, without their padding."""


class Filling:
    """Runs a pass over rows.

    Args:
        graph: the network's.
        kept: the pass.
        workers: processes that prepare samples; 0 prepares them here.
    """

    def __init__(self, graph: TrainingGraph, kept: Cacheable, workers: int = 0) -> None:
        self._graph, self._kept, self._workers = graph, kept, workers
        self.batch = min(BATCH, kept.stream.batch)
        self._first: Outputs | None = None
        self._seconds, self._samples = 0.0, 0

    @property
    def samples(self) -> int:
        return len(self._kept.stream.dataset)

    @property
    def rows(self) -> int:
        """Replica by replica, all samples."""
        return self.samples * self._kept.replicas

    def first(self) -> Outputs:
        """The outputs of the first batch that holds a good sample; it is not computed again with the others."""
        for part in self._parts(range(self.rows)):
            [outputs] = self._computed([part], 0)
            if outputs.values:
                self._first = outputs
                return outputs
        raise GraphError("every sample is bad", where=self._kept.stream.where)

    def __call__(self, rows: range) -> Iterator[Outputs]:
        """The outputs of these rows, in order.

        Raises:
            MmkdError: a sample is bad, where bad ones are not skipped.
        """
        parts, first = self._parts(rows), self._first
        computed = self._computed([part for part in parts if first is None or part != first.rows], self._workers)
        for part in parts:
            since = time.perf_counter()
            if first is not None and part == first.rows:
                yield first
            else:
                outputs = next(computed)
                self._seconds, self._samples = self._seconds + time.perf_counter() - since, self._samples + len(part)
                yield outputs

    def live(self) -> float:
        """Seconds that preparing and running one sample takes."""
        if not self._samples:
            since, part = time.perf_counter(), self._parts(range(self.rows))[0]
            list(self._computed([part], 0))
            self._seconds, self._samples = time.perf_counter() - since, len(part)
        return self._seconds / self._samples

    def _parts(self, rows: range) -> list[range]:
        return [rows[at : at + self.batch] for at in range(0, len(rows), self.batch)]

    def _computed(self, parts: Sequence[range], workers: int) -> Iterator[Outputs]:
        loader: DataLoader[Any] = DataLoader(
            _Batches(self._kept, self._graph.plan.wanted, parts), batch_size=None, collate_fn=_as_it_is,
            num_workers=workers, multiprocessing_context="fork" if workers else None, generator=torch.Generator(),
        )  # fmt: skip
        for part, absent, keys, batch in loader:
            if isinstance(batch, MmkdError):
                raise batch
            yield Outputs(part, absent, keys, *(self._run(batch) if keys else ({}, {})))

    def _run(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        run, node = self._kept.run, self._kept.node
        made: dict[str, Tensor] = {}
        moved = to_device(batch, self._graph.device)
        with torch.no_grad(), self._graph._autocast():
            run(moved, made)
            lengths = node.encoder.lengths(**run.given(moved))
        names = {key.removeprefix(run.id): made[key] for key in sorted(run.makes)}
        known = {name: node.published(name[1:], "") for name in names if name.startswith(".")}
        return names, {name: lengths[known[name]] for name in known if known[name] in lengths}


class _Batches(Dataset[Any]):
    """Prepared batches of rows; an error is a value, so that workers can send it."""

    def __init__(self, kept: Cacheable, wanted: Mapping[str, frozenset[str]], parts: Sequence[range]) -> None:
        self._kept, self._parts, self._view = kept, parts, kept.run.view
        self._collator = Collator({self._view: [kept.node]}, wanted=wanted)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> tuple[range, list[int], dict[int, str], Any]:
        part = self._parts[number]
        absent, keys, column = list[int](), dict[int, str](), list[Prepared]()
        for row in part:
            try:
                sample = self._kept.sample(row)
                column.append(self._collator.prepare(sample, self._view))
                keys[row] = sample["key"]
            except MmkdError as error:
                if not self._kept.stream.skip:
                    return part, absent, keys, error
                absent.append(row)
        columns = {"": [], self._view: column} if self._view else {"": column}
        try:
            return part, absent, keys, self._collator.stack(columns) if column else {}
        except MmkdError as error:
            return part, absent, keys, error


def _as_it_is(item: Any) -> Any:
    return item
