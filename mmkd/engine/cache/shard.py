"""The block that a writer has claimed: kept in memory until it is complete, then put on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmkd.engine.cache.column import Column, Weighted
from mmkd.engine.cache.layout import Layout, Part
from mmkd.engine.cache.lock import Lock
from mmkd.engine.cache.record import Extent, Record, checksums
from mmkd.errors import CacheError

Value = Tensor | Weighted


class Shard:
    """Takes the rows of a block in order.

    On disk in this order: place in the files of tokens, bytes, their syncing, record. A writer that dies before the
    last leaves bytes that nobody trusts.
    """

    def __init__(self, folder: Path, layout: Layout, block: int) -> None:
        self._folder, self._layout, self.block = folder, layout, block
        self.rows = layout.block_rows(block)
        self.at = self.rows.start
        self._absent: list[int] = []
        self._pieces: dict[str, list[Tensor]] = {part.file: [] for part in layout.files if not _spans(part)}
        self._lengths: dict[str, list[Tensor]] = {a: [] for a, column in layout.columns.items() if column.ragged}

    def add(
        self, rows: range, values: Mapping[str, Value], lengths: Mapping[str, Tensor], absent: Sequence[int]
    ) -> None:
        """
        Raises:
            CacheError: these are not the next rows, or their values do not fit.
        """
        if rows.start != self.at or rows.step != 1 or rows.stop > self.rows.stop:
            raise CacheError(f"rows {rows.start} to {rows.stop} were given, but {self.at} to {self.rows.stop} are next")
        gone = set(absent)
        if outside := gone.difference(rows):
            raise CacheError(f"row {min(outside)} is absent, but not among rows {rows.start} to {rows.stop}")
        present = torch.ones(len(rows), dtype=torch.bool)
        present[[row - rows.start for row in gone]] = False
        encoded = {
            address: self._encoded(address, column, values, lengths.get(address), present)
            for address, column in self._layout.columns.items()
        }
        for address, (parts, taken) in encoded.items():
            for name, part in parts.items():
                self._pieces[self._layout.parts[address][name].file].append(part.contiguous())
            if taken is not None:
                self._lengths[address].append(taken)
        self._absent += sorted(gone)
        self.at = rows.stop

    @torch.no_grad()
    def _encoded(
        self, address: str, column: Column, values: Mapping[str, Value], lengths: Tensor | None, present: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Parts of all rows, zeros where they are absent, and their lengths where they are ragged."""
        count = int(present.sum())
        if not count:
            kept = {
                name: torch.zeros(0 if part.heap else len(present), *part.shape, dtype=part.mapped)
                for name, part in self._layout.parts[address].items()
                if not _spans(part)
            }
            return kept, torch.zeros(len(present), dtype=torch.int64) if column.ragged else None
        if address not in values:
            raise CacheError(f"no values of '{address}' were given", name=address, exists=values)
        value, spread = values[address], None
        try:
            _check(value, column, count)
            if column.ragged:
                value, lengths = _tokens(value, lengths, count)
                spread = torch.zeros(len(present), dtype=torch.int64)
                spread[present] = lengths
            files = self._layout.parts[address]
            parts = {name: part.cpu().view(files[name].mapped) for name, part in column.encoding.encode(value).items()}
        except CacheError as error:
            raise error.at(address) from None
        if not column.ragged and count < len(present):
            parts = {name: _filled(part, present) for name, part in parts.items()}
        return parts, spread

    def commit(self) -> Record:
        """Put the complete block on disk; checksums are taken while the disk is waited for."""
        extents: dict[str, Extent] = {}
        with ThreadPoolExecutor(1) as other, ExitStack() as stack:
            sums, files = {}, []
            for part, start, pieces in self._placed():
                buffers = [piece.reshape(-1).view(torch.uint8).numpy().data for piece in pieces]
                sums[part.file] = other.submit(checksums, buffers)
                files.append(stack.enter_context((self._folder / part.file).open("r+b", buffering=0)))
                extents[part.file] = Extent(start, _put(files[-1].fileno(), start, buffers), ())
            for file in files:
                os.fsync(file.fileno())
            extents = {name: replace(extent, sums=sums[name].result()) for name, extent in extents.items()}
        record = Record(self.block, tuple(self._absent), extents)
        record.write(self._folder)
        return record

    def _placed(self) -> Iterator[tuple[Part, int, Sequence[Tensor]]]:
        """Each part with its first byte in its file and what belongs there."""
        for address, parts in self._layout.parts.items():
            start = 0
            if address in self._lengths:
                lengths = torch.cat(self._lengths[address])
                start = self._allocate([part for part in parts.values() if part.heap], int(lengths.sum()))
                spans = torch.stack([start + lengths.cumsum(0) - lengths, lengths], 1)
            for part in parts.values():
                pieces = [spans] if _spans(part) else self._pieces[part.file]
                yield part, (start if part.heap else self.rows.start) * part.width, pieces

    def _allocate(self, parts: Sequence[Part], tokens: int) -> int:
        """A place for so many tokens behind all others, the same in each file; what a dead writer took is lost."""
        paths = [self._folder / part.file for part in parts]
        with Lock(self._folder / "heap.lock"):
            start = max((-(-path.stat().st_size // max(1, p.width)) for p, path in zip(parts, paths, strict=True)))
            for part, path in zip(parts, paths, strict=True):
                os.truncate(path, (start + tokens) * part.width)
        return start


def _put(file: int, start: int, buffers: Sequence[memoryview]) -> int:
    """Write them one after the other; how many bytes it took."""
    at = start
    for buffer in buffers:
        while buffer:
            written = os.pwrite(file, buffer, at)
            buffer, at = buffer[written:], at + written
    return at - start


def _spans(part: Part) -> bool:
    return part.file.endswith(".spans.int64")


def _check(value: Value, column: Column, count: int) -> None:
    """Whether there are so many values, and of the column's shape."""
    if not isinstance(value, Tensor) and column.stored != "top_k":
        raise CacheError("weighted classes belong to a column stored as top_k", next="Column(..., stored='top_k')")
    tensor, shape = (value, column.shape) if isinstance(value, Tensor) else (value.ids, (*column.shape[:-1], column.k))
    skipped = 2 if column.ragged else 1
    if tensor.shape[:1] != (count,) or tuple(tensor.shape[skipped:]) != shape[skipped - 1 :]:
        wanted = [count, *("L" if column.ragged and not i else size for i, size in enumerate(shape))]
        raise CacheError(f"values of shape {list(tensor.shape)} were given, not {wanted}".replace("'", ""))


def _tokens(value: Value, lengths: Tensor | None, count: int) -> tuple[Value, Tensor]:
    """The tokens of all rows one after the other, without padding, and how many each row has."""
    first = value if isinstance(value, Tensor) else value.ids
    longest = first.shape[1]
    taken = torch.full((count,), longest) if lengths is None else lengths.cpu().long()
    if taken.shape != (count,) or bool((taken < 0).any()) or bool((taken > longest).any()):
        raise CacheError(f"lengths {taken.tolist()[:8]} do not fit {count} rows of at most {longest}")
    real = (torch.arange(longest) < taken.unsqueeze(1)).to(first.device)
    full = bool((taken == longest).all())
    parts = [part.flatten(0, 1) if full else part[real] for part in ([value] if isinstance(value, Tensor) else value)]
    return parts[0] if isinstance(value, Tensor) else Weighted(*parts), taken


def _filled(part: Tensor, present: Tensor) -> Tensor:
    whole = torch.zeros(len(present), *part.shape[1:], dtype=part.dtype)
    whole[present] = part
    return whole
