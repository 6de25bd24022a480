"""A cache as its writers see it: blocks of rows are claimed, written, and trusted once they are recorded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmkd.engine.cache.column import Weighted
from mmkd.engine.cache.layout import Layout
from mmkd.engine.cache.lock import Lock
from mmkd.engine.cache.record import Record, recorded
from mmkd.engine.cache.shard import Shard
from mmkd.engine.cache.table import DiskTable, check
from mmkd.errors import CacheError

SOONEST, LATEST = 0.02, 0.5
"""Seconds between two looks at blocks that others hold."""


class Cache:
    """An open cache; `Store.open` makes it. While it or a table of it is open, no process can remove it.

    Args:
        samples: key of a sample to its index.
        lock: shared with whoever has the cache open.
    """

    def __init__(self, folder: Path, layout: Layout, samples: Mapping[str, int], lock: Lock) -> None:
        self.folder, self.layout = folder, layout
        self._samples, self._lock = samples, lock
        self._records: dict[int, Record] = {}
        self._shard: Shard | None = None
        check(folder, layout, self._refreshed())

    @property
    def rows(self) -> int:
        """Rows that it will hold: replicas times samples; row = replica * len(samples) + index."""
        return self.layout.rows

    @property
    def done(self) -> int:
        """Rows that are whole on disk, absent ones included."""
        return sum(len(self.layout.block_rows(block)) for block in self._refreshed())

    @property
    def absent(self) -> int:
        """Rows that are whole on disk and hold nothing, for bad samples."""
        return sum(len(record.absent) for record in self._refreshed().values())

    def missing(self, *, wait: bool = True) -> Iterator[range]:
        """Ranges of rows to write, each claimed for this process until the next one is asked for.

        A range is one block (a multiple of the `batch` given to `Store.open`, but for the last). All of it has to be
        written before the next is taken. When nothing is left but what other writers hold: with `wait`, waits until
        they are done and takes over what those that died left, so that the cache is whole when the loop ends; else
        the loop ends. Nobody waits while holding a block, so writers cannot wait for each other.

        Raises:
            CacheError: the range given before was not written to its end.
        """
        pause = SOONEST
        while left := sorted(set(range(self.layout.blocks)) - self._refreshed().keys()):
            mine = 0
            for block in left:
                with self._claimed(block) as shard:
                    if shard is None:
                        continue
                    mine += 1
                    yield shard.rows
                    if shard.at < shard.rows.stop:
                        what = f"rows {shard.at} to {shard.rows.stop} were claimed and not written"
                        raise CacheError(what, where=str(self.folder))
            if not mine:
                if not wait:
                    return
                time.sleep(pause)
                pause = min(LATEST, 2 * pause)

    @contextlib.contextmanager
    def _claimed(self, block: int) -> Iterator[Shard | None]:
        """The block to be written, or None where another has it or it is written already."""
        claim = Lock(self.folder / "claims" / f"{block:08d}.lock")
        if not claim.acquire():
            yield None
            return
        try:
            if block not in self._refreshed():
                self._shard = Shard(self.folder, self.layout, block)
            yield self._shard
        finally:
            self._shard = None
            if block in self._records:
                claim.path.unlink(missing_ok=True)  # who waits for it looks for the record next
            claim.release()

    def write(
        self,
        rows: range,
        values: Mapping[str, Tensor | Weighted],
        *,
        lengths: Mapping[str, Tensor] | None = None,
        absent: Sequence[int] = (),
    ) -> None:
        """Write the next rows of the claimed range, in order; on disk as a whole once the range is complete.

        Args:
            rows: part of the claimed range, beginning where the last write ended.
            values: by address, `[N, ...]` on any device, where N counts `rows` without those `absent`; may be empty
                where all are.
            lengths: true length of each of the N values in dimension 1, by address of a ragged column; whole where
                it is not given.
            absent: those of `rows` that have no values (bad samples); reading one is an error that names its key.

        Raises:
            CacheError: the rows are not those that come next, or the values do not fit the columns.
        """
        if self._shard is None:
            raise CacheError(f"rows {rows.start} to {rows.stop} are not claimed", next="take a range of missing()")
        self._shard.add(rows, values, lengths or {}, absent)
        if self._shard.at == self._shard.rows.stop:
            self._records[self._shard.block] = self._shard.commit()

    def table(self, device: torch.device | str = "cpu") -> DiskTable:
        """The rows that are whole by now, read-only; safe beside writers, whose later blocks it does not see."""
        lock = Lock(self._lock.path)
        lock.acquire(shared=True, wait=True)
        records = self._refreshed()
        return DiskTable(self.folder, self.layout, self._samples, records, lock, torch.device(device))

    def _refreshed(self) -> dict[int, Record]:
        for block in sorted(recorded(self.folder) - self._records.keys()):
            if record := Record.read(self.folder, block):
                self._records[block] = record
        return dict(self._records)

    def describe(self) -> list[str]:
        """One line for each column: what is stored, and bytes per row or token."""
        return [f"{address}: {column.describe()}" for address, column in self.layout.columns.items()]

    def close(self) -> None:
        """Give up the share in the cache; tables stay open."""
        self._lock.release()
