"""A cache as training reads it: mapped files, one gather per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmkd.engine.cache.column import Column
from mmkd.engine.cache.layout import Layout, Part, mapped
from mmkd.engine.cache.lock import Lock
from mmkd.engine.cache.record import Record
from mmkd.errors import CacheError, GraphError

_MISSING, _WHOLE, _ABSENT = 0, 1, 2


class DiskTable:
    """Serves `mmkd.graph.table.Table`; made by `Cache.table`.

    Args:
        samples: key of a sample to its index.
        records: of the blocks that are whole.
        lock: keeps the cache from being removed as long as the table lives.
        device: where values are wanted.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        samples: Mapping[str, int],
        records: Mapping[int, Record],
        lock: Lock,
        device: torch.device,
    ) -> None:
        self.folder, self.layout, self.device = folder, layout, device
        self._samples, self._lock = samples, lock
        self._here = device.type == "cpu"
        self._state = torch.zeros(layout.rows, dtype=torch.uint8)
        for block, record in records.items():
            rows = layout.block_rows(block)
            self._state[rows.start : rows.stop] = _WHOLE
            self._state[list(record.absent)] = _ABSENT
        self._known = self._state.numpy().data
        self._whole = bool((self._state == _WHOLE).all())
        sizes = check(folder, layout, records)
        self._parts = {
            address: {
                name: mapped(str(folder / part.file), part, sizes[part.file] // max(1, part.width))
                for name, part in parts.items()
            }
            for address, parts in layout.parts.items()
        }

    @property
    def replicas(self) -> int:
        return self.layout.replicas

    @property
    def done(self) -> int:
        """Rows that it can tell something of."""
        return int((self._state != _MISSING).sum())

    def row(self, key: str, replica: int = 0) -> int:
        """`replica * len(samples) + index`.

        Raises:
            GraphError: no such sample or replica; its row is not written yet; it is absent (a bad sample).
        """
        index = self._samples.get(key)
        if index is None:
            what = f"sample '{key}' is not among the {len(self._samples)} cached ones"
            raise GraphError(what, where=str(self.folder))
        if not 0 <= replica < self.layout.replicas:
            what = f"sample '{key}' is cached for {self.layout.replicas} replicas of its draws, not for {replica}"
            raise GraphError(what, where=str(self.folder))
        row = replica * self.layout.samples + index
        if self._known[row] != _WHOLE:
            absent = self._known[row] == _ABSENT
            what = "could not be read when the cache was written" if absent else "is not written yet"
            of = f" (replica {replica})" if self.layout.replicas > 1 else ""
            raise GraphError(f"sample '{key}'{of} {what}", where=str(self.folder))
        return row

    def read(self, rows: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """Values by address, in the dtype of the network, on the device of the table.

        Rows that are not on the device keep it from being waited for.

        Raises:
            GraphError: one of the rows is not whole; `row` says why.
        """
        rows = torch.as_tensor(rows, dtype=torch.int64, device="cpu")
        if not self._whole and not (whole := self._state.index_select(0, rows) == _WHOLE).all():
            raise GraphError(f"row {int(rows[~whole][0])} holds no values", where=str(self.folder))
        return {address: self._column(address, column, rows) for address, column in self.layout.columns.items()}

    def _column(self, address: str, column: Column, rows: Tensor) -> Tensor:
        parts = self._parts[address]
        if not column.ragged:
            return column.encoding.decode({n: self._moved(_gathered(part, rows)) for n, part in parts.items()})
        begins, lengths = parts["spans"].index_select(0, rows).unbind(1)
        shortest, longest = map(int, lengths.aminmax()) if len(rows) else (0, 0)
        names = [name for name in parts if name != "spans"]
        tokens = {name: self._moved(_windows(parts[name], begins, longest)) for name in names}
        values = column.encoding.decode({name: part.flatten(0, 1) for name, part in tokens.items()})
        values = values.view(len(rows), longest, *values.shape[1:])
        if shortest < longest:
            values[self._moved(torch.arange(longest) >= lengths.unsqueeze(1))] = 0
        return values

    def _moved(self, part: Tensor) -> Tensor:
        return part if self._here else part.to(self.device, non_blocking=True)


def _gathered(part: Tensor, index: Tensor) -> Tensor:
    """One gather; torch has none from what is empty."""
    return part.index_select(0, index) if part.numel() else part.new_empty(len(index), *part.shape[1:])


def _windows(heap: Tensor, begins: Tensor, length: int) -> Tensor:
    """So many entries from each beginning on, `[B, length, ...]`; a short row goes over into what follows."""
    entries, shape = len(heap), (len(begins), length, *heap.shape[1:])
    if not heap.numel() or not length:
        return heap.new_zeros(shape)
    if bool((begins <= entries - length).all()):  # one copy for each row, not one for each entry
        width = heap[0].numel()
        return heap.as_strided((entries - length + 1, length * width), (width, 1)).index_select(0, begins).view(shape)
    index = (begins.unsqueeze(1) + torch.arange(length)).clamp_(max=entries - 1)
    return heap.index_select(0, index.view(-1)).view(shape)


def check(folder: Path, layout: Layout, records: Mapping[int, Record]) -> dict[str, int]:
    """Bytes of each file that may be read.

    Raises:
        CacheError: a file is missing or shorter than what was written.
    """
    sizes = {}
    for part in layout.files:
        needed = _needed(part, layout, records)
        path = folder / part.file
        there = path.stat().st_size if path.is_file() else None
        if there is None or there < needed:
            what = "is missing" if there is None else f"has {there:,} bytes, not {needed:,}: it was cut short"
            raise CacheError(what, where=str(path), next=f"mmkd cache verify {folder.name}")
        sizes[part.file] = needed
    return sizes


def _needed(part: Part, layout: Layout, records: Mapping[int, Record]) -> int:
    if not part.heap:
        return layout.size(part)
    return max((record.extents[part.file].end for record in records.values()), default=0)
