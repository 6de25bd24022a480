"""A cache in memory, for one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmkd.engine.cache.column import Column
from mmkd.engine.cache.encoding import Parts
from mmkd.errors import CacheError, GraphError


class Memory:
    """Takes rows as a cache on disk does.

    Args:
        columns: by address.
        samples: how many.
        replicas: rows of each sample.
    """

    def __init__(self, columns: Mapping[str, Column], samples: int, replicas: int) -> None:
        self.columns, self.rows, self._replicas = columns, samples * replicas, replicas
        self._parts: dict[str, list[Parts]] = {address: [] for address in columns}
        self._lengths: dict[str, list[Tensor]] = {address: [] for address, c in columns.items() if c.ragged}
        self._absent: set[int] = set()
        self._done = 0

    @property
    def done(self) -> int:
        return self._done

    def missing(self) -> Iterator[range]:
        """Ranges of rows to write; all of them, once."""
        if self._done < self.rows:
            yield range(self._done, self.rows)

    def write(
        self,
        rows: range,
        values: Mapping[str, Tensor],
        *,
        lengths: Mapping[str, Tensor] | None = None,
        absent: Sequence[int] = (),
    ) -> None:
        """Take the next rows; those `absent` have no values."""
        self._done = rows.stop
        self._absent.update(absent)
        for address, column in self.columns.items() if len(absent) < len(rows) else ():
            value = values[address]
            if column.ragged:
                taken = (lengths or {})[address].cpu().long()
                self._lengths[address].append(taken)
                value = value[(torch.arange(value.shape[1]) < taken.unsqueeze(1)).to(value.device)]
            elif tuple(value.shape[1:]) != column.shape:
                raise CacheError(f"values of shape {list(value.shape[1:])} follow {list(column.shape)}").at(address)
            try:
                parts = column.encoding.encode(value)
            except CacheError as error:
                raise error.at(address) from None
            self._parts[address].append({name: part.clone() for name, part in parts.items()})

    def table(self, samples: Sequence[str], device: torch.device | str = "cpu") -> MemoryTable:
        """What has been written, on a device; `samples` are the keys in the order of the dataset."""
        kept = {}
        for address, written in self._parts.items():
            empty = self.columns[address].encoding.parts().items()
            kept[address] = {
                name: torch.cat([parts[name] for parts in written]).to(device)
                if written else torch.empty(0, *shape, dtype=dtype, device=device)
                for name, (dtype, shape) in empty
            }  # fmt: skip
        lengths = {address: torch.cat([torch.zeros(0).long(), *own]) for address, own in self._lengths.items()}
        return MemoryTable(self.columns, kept, lengths, samples, self._replicas, self._absent)


class MemoryTable:
    """Serves `mmkd.graph.table.Table`; made by `Memory.table`, or `MemoryTable.of` values.

    Args:
        columns: by address.
        parts: by address, what the column's encoding makes of the rows that are there, one after the other.
        lengths: by address of a ragged column, of these rows.
        samples: keys of the samples.
        replicas: rows of each sample.
        absent: rows that are not there.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        parts: Mapping[str, Parts],
        lengths: Mapping[str, Tensor],
        samples: Sequence[str],
        replicas: int = 1,
        absent: set[int] | None = None,
    ) -> None:
        self.columns, self.parts, self.replicas = columns, parts, replicas
        self._lengths, self._absent, self._count = lengths, absent or set(), len(samples)
        self._begins = {address: own.cumsum(0) - own for address, own in lengths.items()}
        self._index = {key: number for number, key in enumerate(samples)}
        present = [row for row in range(len(samples) * replicas) if row not in self._absent]
        self._places = {row: place for place, row in enumerate(present)} if self._absent else None

    @classmethod
    def of(cls, samples: Sequence[str], values: Mapping[str, Tensor]) -> MemoryTable:
        """A table of these values `[N, ...]` of as many samples."""
        columns = {address: Column.of(value) for address, value in values.items()}
        return cls(columns, {address: {"values": value} for address, value in values.items()}, {}, samples)

    @property
    def bytes(self) -> int:
        """What it takes."""
        return sum(part.nbytes for parts in self.parts.values() for part in parts.values())

    def row(self, key: str, replica: int = 0) -> int:
        """The place of a row among those that are there.

        Raises:
            GraphError: no such sample, or it could not be read.
        """
        index = self._index.get(key)
        if index is None:
            raise GraphError(f"sample '{key}' is not among the {self._count} remembered ones")
        row = replica * self._count + index
        if self._places is None:
            return row
        if row in self._absent:
            raise GraphError(f"sample '{key}' could not be read when the outputs were remembered")
        return self._places[row]

    def read(self, rows: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """The values by address, ragged ones padded with zeros to the longest of these rows."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return {address: self._column(address, column, index) for address, column in self.columns.items()}

    def _column(self, address: str, column: Column, rows: Tensor) -> Tensor:
        parts = self.parts[address]
        if not column.ragged:
            return column.encoding.decode({name: _at(part, rows) for name, part in parts.items()})
        lengths, begins = (own[address].index_select(0, rows.cpu()) for own in (self._lengths, self._begins))
        longest = int(lengths.max()) if len(lengths) else 0
        steps = torch.arange(longest)
        real = steps < lengths.unsqueeze(1)
        tokens = (begins.unsqueeze(1) + steps)[real]
        values = column.encoding.decode({name: _at(part, tokens) for name, part in parts.items()})
        padded = values.new_zeros(len(rows), longest, *values.shape[1:])
        padded[real.to(values.device)] = values
        return padded


def _at(part: Tensor, rows: Tensor) -> Tensor:
    wide = part.dtype in (torch.uint16, torch.uint32)  # torch gathers none of these
    signed = part.view(torch.int16 if part.dtype is torch.uint16 else torch.int32) if wide else part
    return signed.index_select(0, rows.to(part.device))
