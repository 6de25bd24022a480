"""Records: the word that a block is whole, with its checksums; a block without one does not exist."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmkd.engine.cache import document
from mmkd.engine.cache.layout import CHUNK
from mmkd.errors import CacheError


@dataclass(frozen=True)
class Extent:
    """The bytes of a block in one file, and the crc32 of each chunk of them."""

    start: int
    size: int
    sums: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + self.size

    def chunks(self) -> Iterable[tuple[int, int, int]]:
        """Begin and end in the file, and crc32."""
        for number, value in enumerate(self.sums):
            begin = self.start + number * CHUNK
            yield begin, min(self.end, begin + CHUNK), value


@dataclass(frozen=True)
class Record:
    """What is known of a whole block."""

    block: int
    absent: tuple[int, ...]
    """Rows that hold nothing."""
    extents: Mapping[str, Extent]
    """By name of a file."""

    def write(self, folder: Path) -> None:
        """Nobody waits for it to reach the disk: where it is lost with the power, the block is written again."""
        extents = {file: [e.start, e.size, _packed(e.sums)] for file, e in self.extents.items()}
        document.write(place(folder, self.block), {"absent": list(self.absent), "extents": extents})

    @classmethod
    def read(cls, folder: Path, block: int) -> Record | None:
        """The record of a block, or None: there is none, or its bytes are not those written."""
        try:
            found = document.read(place(folder, block))
        except (FileNotFoundError, CacheError):
            return None
        extents = {file: Extent(start, size, _unpacked(sums)) for file, (start, size, sums) in found["extents"].items()}
        return cls(block, tuple(found["absent"]), extents)


def checksums(pieces: Iterable[memoryview]) -> tuple[int, ...]:
    """crc32 of each chunk of the bytes that the pieces make up together."""
    found, value, filled = [], 0, 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            taken = piece[at : at + CHUNK - filled]
            value = zlib.crc32(taken, value)
            filled, at = filled + len(taken), at + len(taken)
            if filled == CHUNK:
                found.append(value)
                value, filled = 0, 0
    return (*found, value) if filled else tuple(found)


def place(folder: Path, block: int) -> Path:
    """The file of a record."""
    return folder / "blocks" / f"{block:08d}.json"


def recorded(folder: Path) -> set[int]:
    """The blocks that have a file for a record, damaged or not."""
    return {int(path.stem) for path in (folder / "blocks").glob("[0-9]*.json")}


def _packed(sums: Iterable[int]) -> str:
    return "".join(f"{value:08x}" for value in sums)


def _unpacked(text: str) -> tuple[int, ...]:
    return tuple(int(text[at : at + 8], 16) for at in range(0, len(text), 8))
