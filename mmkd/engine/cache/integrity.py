"""Integrity of a cache: every byte against its checksum, and what can be mended."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmkd.engine.cache import document
from mmkd.engine.cache.layout import Layout
from mmkd.engine.cache.record import Extent, Record, place, recorded
from mmkd.errors import CacheError


@dataclass(frozen=True)
class Damage:
    """Bytes `start` to `end` of a file are not those written; they belong to a block of rows, where it is known."""

    file: str
    what: str
    start: int = 0
    end: int = 0
    block: int | None = None
    rows: range = range(0)

    def __str__(self) -> str:
        at = f", bytes {self.start} to {self.end}" if self.end else ""
        of = f" (block {self.block}, rows {self.rows.start} to {self.rows.stop})" if self.block is not None else ""
        return f"{self.file}{at}{of}: {self.what}"


def damages(folder: Path) -> Iterator[Damage]:
    """Read everything; what is not as it was written."""
    documents = {}
    for name in ("key.json", "layout.json"):
        try:
            documents[name] = document.read(folder / name)
        except (FileNotFoundError, CacheError) as error:
            yield Damage(name, "is missing" if isinstance(error, FileNotFoundError) else "its checksum does not fit")
    if "layout.json" not in documents:
        return
    layout = Layout.from_document(documents["layout.json"])
    for part in layout.files:
        path = folder / part.file
        if not path.is_file():
            yield Damage(part.file, "is missing")
        elif path.stat().st_size < layout.size(part):
            yield Damage(part.file, "is cut short", path.stat().st_size, layout.size(part))
    for block in sorted(recorded(folder)):
        rows = layout.block_rows(block)
        record = Record.read(folder, block)
        if record is None:
            yield Damage(f"blocks/{place(folder, block).name}", "its checksum does not fit", block=block, rows=rows)
            continue
        for file, extent in record.extents.items():
            for begin, end, what in _wrong(folder / file, extent):
                yield Damage(file, what, begin, end, block, rows)


def _wrong(path: Path, extent: Extent) -> Iterator[tuple[int, int, str]]:
    if not path.is_file():
        yield extent.start, extent.end, "the file is missing"
        return
    with path.open("rb") as file:
        file.seek(extent.start)
        for begin, end, value in extent.chunks():
            data = file.read(end - begin)
            if len(data) < end - begin:
                yield begin + len(data), extent.end, "the file ends before them"
                return
            if zlib.crc32(data) != value:
                yield begin, end, "their checksum does not fit"


def mend(folder: Path, found: list[Damage]) -> None:
    """Drop the damaged blocks, so that the next writer writes them again.

    Raises:
        CacheError: key or layout are damaged, without which nothing else can be understood.
    """
    if any(damage.file in ("key.json", "layout.json") for damage in found):
        raise CacheError("key or layout are damaged and cannot be mended", where=str(folder), next="remove the folder")
    for block in {damage.block for damage in found if damage.block is not None}:
        place(folder, block).unlink()
    document.settle(folder / "blocks")
    layout = Layout.from_document(document.read(folder / "layout.json"))
    records = [record for block in recorded(folder) if (record := Record.read(folder, block))]
    for part in layout.files:
        path = folder / part.file
        path.touch()
        needed = max([layout.size(part), *(r.extents[part.file].end for r in records)])
        if path.stat().st_size < needed:
            os.truncate(path, needed)
