"""Index of a tar shard: which files make up each sample, and where they lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmkd.errors import DataError
from mmkd.files.part import Part
from mmkd.files.tar import BLOCK, FILE, members, parse

FORMAT = 1
COLUMNS = ("counts", "kinds", "offsets", "sizes")


class Extent(NamedTuple):
    """Where a file lies in its shard."""

    offset: int
    size: int


class Shard:
    """The samples of one tar file, by the names of their files up to the first dot; some 30 bytes a file in memory.

    Args:
        path: the tar file.
        facts: what the index holds: `size` and `mtime_ns` of the tar, `keys`, `extensions`, and one list for each of
            `COLUMNS`: files of each sample; extension, offset and size of each file.

    Raises:
        ValueError: the facts contradict each other or reach beyond the file.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.stamp = path, (facts["size"], facts["mtime_ns"])
        counts, kinds, offsets, sizes = (np.array(facts[name], dtype=np.int64) for name in COLUMNS)
        names, self.extensions = facts["keys"], tuple(facts["extensions"])
        if not all(isinstance(name, str) for name in (*names, *self.extensions)):
            raise ValueError("a name is no text")
        ends = np.cumsum(counts)
        if {counts.ndim, kinds.ndim, offsets.ndim, sizes.ndim} != {1}:
            raise ValueError("a column is no list of numbers")
        if not len(names) == len(set(names)) == len(counts) or not len(kinds) == len(offsets) == len(sizes):
            raise ValueError("columns differ in length")
        if (counts < 1).any() or (ends[-1] if len(ends) else 0) != len(kinds):
            raise ValueError("samples do not add up")
        if ((kinds < 0) | (kinds >= len(self.extensions))).any() or (offsets % BLOCK).any():
            raise ValueError("a file is no file of a tar")
        if ((offsets < BLOCK) | (sizes < 0) | (sizes > facts["size"]) | (offsets > facts["size"] - sizes)).any():
            raise ValueError("a file reaches beyond the tar")
        self._first = np.concatenate([[0], ends])
        self._kinds, self._offsets, self._sizes = kinds.astype(np.int32), offsets, sizes
        encoded = [name.encode() for name in names]
        self._names = b"".join(encoded)
        self._name_ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._first) - 1

    def sample(self, index: int) -> tuple[str, dict[str, Extent]]:
        """Name of a sample, and its files by extension."""
        name = self._names[self._name_ends[index] : self._name_ends[index + 1]].decode()
        places = range(self._first[index], self._first[index + 1])
        extents = (Extent(int(self._offsets[i]), int(self._sizes[i])) for i in places)
        return name, dict(zip((self.extensions[self._kinds[i]] for i in places), extents, strict=True))

    def read(self, extents: Mapping[str, Extent]) -> dict[str, bytes]:
        """The bytes of some files, by extension; no file stays open.

        Raises:
            DataError: the shard is gone or is not the one that was indexed.
        """
        with self._unchanged() as descriptor:
            return {name: self._beginning(descriptor, extent, extent.size) for name, extent in extents.items()}

    @contextlib.contextmanager
    def opened(self, extent: Extent) -> Iterator[Part]:
        """A file that is read in part, while the shard is open.

        Raises:
            DataError: as `read`.
        """
        with self._unchanged() as descriptor:
            self._beginning(descriptor, extent, 0)
            yield Part(descriptor, *extent)

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[int]:
        with _opened(self.path) as descriptor:
            if _stamp(descriptor) != self.stamp:
                raise DataError("has changed since it was indexed", where=str(self.path), next="start again")
            yield descriptor

    def _beginning(self, descriptor: int, extent: Extent, count: int) -> bytes:
        """The first bytes of a file whose header is the one that the index says."""
        data = os.pread(descriptor, BLOCK + count, extent.offset - BLOCK)
        header = parse(data[:BLOCK])
        known = header is not None and header.kind in FILE and header.size in (extent.size, 0)
        if not known or len(data) < BLOCK + count:
            raise DataError(
                f"holds no file of {extent.size} bytes at byte {extent.offset}, where its index says",
                where=str(self.path), next="delete its index",
            )  # fmt: skip
        return data[BLOCK:]


def open_shard(path: Path, folder: Path | None = None) -> Shard:
    """The shard with its index: read where one fits the size and time of the tar, else made anew and kept.

    An index lies beside its tar unless `folder` is given. Where the tar's own folder cannot be written, the index
    is made each time.
    """
    home = path.with_name(f"{path.name}.index.json") if folder is None else folder / _name(path)
    with _opened(path) as descriptor:
        size, mtime = _stamp(descriptor)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            facts = json.loads(home.read_bytes())
            if (facts["format"], facts["size"], facts["mtime_ns"]) == (FORMAT, size, mtime):
                return Shard(path, facts)
        facts = {"format": FORMAT, "size": size, "mtime_ns": mtime, **scan(descriptor, str(path))}
    try:
        _write(home, json.dumps(facts, separators=(",", ":"), ensure_ascii=False))
    except OSError as error:
        if folder is not None:
            raise DataError(f"cannot be written: {error.strerror}", where=str(home), next="index: FOLDER") from error
    return Shard(path, facts)


def scan(descriptor: int, where: str) -> dict[str, list[Any]]:
    """Group the files of a tar into samples: one for each name up to the first dot, in order of appearance.

    Files without an extension and hidden ones are left out.

    Raises:
        DataError: as `tar.members`, or a sample has two files of one extension.
    """
    samples: dict[str, dict[str, Extent]] = {}
    for member in members(descriptor, where):
        folder, slash, file = member.name.rpartition("/")
        stem, dot, extension = file.partition(".")
        if not stem or not dot or not extension:
            continue
        files = samples.setdefault(folder + slash + stem, {})
        if extension.lower() in files:
            raise DataError(f"'{member.name}' is in it twice", where=where, next="a sample has one file of a kind")
        files[extension.lower()] = Extent(member.offset, member.size)
    kinds = {extension: None for files in samples.values() for extension in files}
    place = {extension: i for i, extension in enumerate(kinds)}
    extents = [(place[name], *extent) for files in samples.values() for name, extent in files.items()]
    columns = [list(column) for column in zip(*extents, strict=True)] or [[], [], []]
    counts = [len(files) for files in samples.values()]
    return {"keys": list(samples), "extensions": list(kinds), **dict(zip(COLUMNS, [counts, *columns], strict=True))}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _name(path: Path) -> str:
    digest = hashlib.blake2b(str(path.absolute()).encode(), digest_size=6).hexdigest()
    return f"{path.stem}-{digest}.index.json"


def _write(path: Path, text: str) -> None:
    """Aside and renamed, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
