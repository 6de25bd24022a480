"""The store: a folder of caches, each in a folder named by the digest of its key."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmkd.engine.cache import document, integrity
from mmkd.engine.cache.column import Column
from mmkd.engine.cache.integrity import Damage
from mmkd.engine.cache.key import Key
from mmkd.engine.cache.layout import Layout, block_size
from mmkd.engine.cache.lock import Lock
from mmkd.engine.cache.record import recorded
from mmkd.engine.cache.writer import Cache
from mmkd.errors import CacheError

NAME = 16
"""Digits of a digest that name a folder."""
ABANDONED = 60.0
"""Seconds after which what is half made, and locked by nobody, is left over."""


@dataclass(frozen=True)
class Entry:
    """What `list` says of a cache."""

    name: str
    folder: Path
    network: str
    """What it holds the outputs of, or what is wrong with it."""
    done: int
    rows: int
    bytes: int
    """On disk; rows that are not written yet may take none."""
    created: float
    """Seconds since the epoch, as `used`."""
    used: float
    locked: bool
    """Whether a process has it open."""

    @property
    def complete(self) -> bool:
        return self.done == self.rows > 0


class Store:
    """Caches below one folder.

    Args:
        root: the folder; made when the first cache is. `Store.home()` is the user's own.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or self.home()

    @staticmethod
    def home() -> Path:
        """`$MMKD_CACHE`, else `$XDG_CACHE_HOME/mmkd`, else `~/.cache/mmkd`."""
        if own := os.environ.get("MMKD_CACHE"):
            return Path(own).expanduser()
        shared = os.environ.get("XDG_CACHE_HOME")
        return (Path(shared) if shared else Path.home() / ".cache") / "mmkd"

    def open(
        self,
        key: Key,
        columns: Mapping[str, Column],
        samples: Sequence[str],
        replicas: int = 1,
        *,
        batch: int = 64,
        folder: Path | None = None,
    ) -> Cache:
        """The cache of this key, as far as it was written; made empty where there is none.

        Args:
            columns: by address.
            samples: keys of the samples in the order of the dataset.
            batch: blocks are multiples of it.
            folder: the cache itself is to lie there, whatever its name.

        Raises:
            CacheError: `folder` holds the cache of another key (the fields that differ are named); what is there is
                damaged, or was written for other samples or columns; two samples have one key; the disk is too small.
        """
        target = folder or self.root / key.digest[:NAME]
        index = dict(zip(samples, range(len(samples)), strict=True))
        if len(index) < len(samples):
            twice = next(sample for number, sample in enumerate(samples) if index[sample] != number)
            raise CacheError(f"two samples have the key '{twice}'", next="give each sample a key of its own")
        wanted = Layout(
            columns, len(samples), document.digest(list(samples)), replicas,
            block_size(columns, len(samples) * replicas, batch), time.time(),
        )  # fmt: skip
        lock = Lock(target / "lock")
        while True:  # another process may make it or remove it between two of these lines
            if not (target / "key.json").exists():
                _make(target, key, wanted)
            try:
                lock.acquire(shared=True, wait=True)
                break
            except FileNotFoundError:
                continue
        layout = _agreed(target, key, wanted)
        if os.access(target, os.W_OK):
            (target / "used").touch()
        return Cache(target, layout, index, lock)

    def find(self, key: Key) -> Path | None:
        """The folder of the cache of this key, complete or not."""
        folder = self.root / key.digest[:NAME]
        return folder if (folder / "key.json").exists() else None

    def nearest(self, key: Key) -> tuple[str, Sequence[str]] | None:
        """The name of the cache that shares most fields with this key, and the names of the fields that differ.

        None where no cache shares any. `Store.key(name)` gives its key, for `Key.difference`.
        """
        found = [(folder.name, key.differs(other)) for folder in self._folders() if (other := _key(folder))]
        near = [(name, differs) for name, differs in found if len(set(differs) & key.fields.keys()) < len(key.fields)]
        return min(near, key=lambda one: len(one[1]), default=None)

    def key(self, name: str) -> Key:
        """The key of a cache, by the name of its folder.

        Raises:
            CacheError: there is no such cache, or its key is damaged.
        """
        return Key(document.read(self._folder(name) / "key.json")["fields"])

    def list(self) -> Sequence[Entry]:
        """All caches, the last used first; one whose files are damaged says so in place of the network."""
        return sorted((_entry(folder) for folder in self._folders()), key=lambda entry: -entry.used)

    def verify(self, name: str, *, mend: bool = False) -> Sequence[Damage]:
        """Read all bytes of a cache; each damage, as text with file, range of bytes and rows. Empty where it is whole.

        Args:
            name: of the folder, or the beginning of it, or a path.
            mend: drop the blocks that are damaged, so that the next writer writes them again.

        Raises:
            CacheError: there is no such cache; it is in use, or beyond mending, where it is to be mended.
        """
        folder = self._folder(name)
        lock = Lock(folder / "lock")
        if not lock.acquire(shared=not mend, wait=not mend):
            raise CacheError("is in use, so that it cannot be mended now", where=str(folder))
        try:
            found = list(integrity.damages(folder))
            if mend and found:
                integrity.mend(folder, found)
            return found
        finally:
            lock.release()

    def gc(
        self,
        *,
        incomplete: bool = True,
        older_than: float | None = None,
        beyond: int | None = None,
        dry_run: bool = False,
    ) -> Sequence[tuple[Entry, str]]:
        """Remove caches that no process has open; those removed, with the reason.

        Args:
            incomplete: those that were not written to the end.
            older_than: those last used longer ago than so many seconds.
            beyond: the longest unused, until what stays has at most so many bytes.
            dry_run: remove nothing, only tell.
        """
        entries, removed = self.list(), []
        total = sum(entry.bytes for entry in entries)
        now = time.time()
        for entry in reversed(entries):
            if incomplete and not entry.complete:
                reason = f"{entry.done:,} of {entry.rows:,} rows written"
            elif older_than is not None and now - entry.used > older_than:
                reason = f"not used for {(now - entry.used) / 86400:.1f} days"
            elif beyond is not None and total > beyond:
                reason = f"all take {total:,} bytes, more than {beyond:,}"
            else:
                continue
            if not entry.locked and (dry_run or _removed(entry.folder)):
                removed.append((entry, reason))
                total -= entry.bytes
        if not dry_run:
            for left in self.root.glob(".*.part"):  # of processes that were killed while they made or removed it
                if now - left.stat().st_mtime > ABANDONED:
                    _removed(left)
        return removed

    def _folders(self) -> Sequence[Path]:
        found = sorted(self.root.iterdir()) if self.root.is_dir() else []
        return [folder for folder in found if folder.name[0] != "." and (folder / "layout.json").exists()]

    def _folder(self, name: str) -> Path:
        folders = self._folders()
        if os.sep in name and (Path(name) / "layout.json").exists():
            return Path(name)
        found = [folder for folder in folders if folder.name.startswith(name)]
        if len(found) != 1:
            what = f"{'several caches begin' if found else 'no cache begins'} with '{name}'"
            raise CacheError(
                what, where=str(self.root), name=name,
                exists=[folder.name for folder in found or folders], next="mmkd cache list",
            )  # fmt: skip
        return found[0]


def _make(target: Path, key: Key, layout: Layout) -> None:
    """Make an empty cache aside and move it to its place, unless another process was there first."""
    if target.is_dir() and any(target.iterdir()) and not (target / "key.json").exists():
        raise CacheError("is not a cache, and holds other files", where=str(target), next="name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    needed, free = sum(layout.size(part) for part in layout.files), shutil.disk_usage(target.parent).free
    if needed > free:
        raise CacheError(
            f"the cache takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free", where=str(target),
            next="a smaller dtype or top_k, or another place: MMKD_CACHE=FOLDER",
        )  # fmt: skip
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    aside.mkdir()
    lock = Lock(aside / "lock")
    lock.acquire(shared=True)
    for name in ("blocks", "claims"):
        (aside / name).mkdir()
    for part in layout.files:
        with (aside / part.file).open("wb") as file:
            file.truncate(layout.size(part))
            os.fsync(file.fileno())
    document.write(aside / "layout.json", layout.document())
    document.write(aside / "key.json", {"digest": key.digest, "fields": key.fields})
    for name in ("layout.json", "key.json", "."):
        document.settle(aside / name)
    try:
        aside.rename(target)
    except OSError:
        if not (target / "key.json").exists():
            raise
        shutil.rmtree(aside)
    document.settle(target.parent)
    lock.release()


def _agreed(folder: Path, key: Key, wanted: Layout) -> Layout:
    """The layout that is there, where it is that of the key, columns and samples wanted."""
    there = Key(document.read(folder / "key.json")["fields"])
    if differs := key.differs(there):
        raise CacheError(
            f"holds another cache: {', '.join(differs)} differ{'s' * (len(differs) == 1)}\n  "
            + "\n  ".join(there.difference(key)),
            where=str(folder), next="name another folder, or none: caches are then found by their key",
        )  # fmt: skip
    layout = Layout.from_document(document.read(folder / "layout.json"))
    same = {
        "samples": (layout.samples, layout.keys) == (wanted.samples, wanted.keys),
        "replicas": layout.replicas == wanted.replicas,
        **{
            f"column '{address}'": layout.columns.get(address) == wanted.columns.get(address)
            for address in {**layout.columns, **wanted.columns}
        },
    }
    if others := [name for name, equal in same.items() if not equal]:
        raise CacheError(
            f"was written under the same key with another {' and '.join(others)}", where=str(folder),
            next="remove the folder",
        )  # fmt: skip
    return layout


def _key(folder: Path) -> Key | None:
    """The key of a cache, or None where it cannot be read; `list` says so."""
    try:
        return Key(document.read(folder / "key.json")["fields"])
    except (FileNotFoundError, CacheError):
        return None


def _entry(folder: Path) -> Entry:
    size = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    done = rows = 0
    used = created = (folder / "layout.json").stat().st_mtime
    try:
        layout = Layout.from_document(document.read(folder / "layout.json"))
        network = _kind(document.read(folder / "key.json")["fields"].get("network"))
        rows, created = layout.rows, layout.created
        done = sum(len(layout.block_rows(block)) for block in recorded(folder))
    except (FileNotFoundError, CacheError) as error:
        network = str(error)
    if (folder / "used").exists():
        used = (folder / "used").stat().st_mtime
    return Entry(folder.name, folder, network, done, rows, size, created, used, _locked(folder))


def _kind(network: object) -> str:
    """A network in a word: its id or class where it is told apart by several things."""
    if isinstance(network, Mapping):
        named = [network[name] for name in ("use", "id", "class") if name in network]
        network = next(iter([*named, *network.values()]), "")
    return str(network)


def _locked(folder: Path) -> bool:
    lock = Lock(folder / "lock")
    free = lock.acquire()
    lock.release()
    return not free


def _removed(folder: Path) -> bool:
    """Whether it could be removed: not where a process has it open."""
    lock = Lock(folder / "lock")
    if not lock.acquire():
        return False
    aside = folder if folder.suffix == ".part" else folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    folder.rename(aside)
    shutil.rmtree(aside)
    lock.release()
    return True
