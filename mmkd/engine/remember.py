"""Constant networks are run once over the training set; their outputs are kept and looked up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.engine.cacheable import Cacheable, cacheable
from mmkd.engine.filling import Filling, Outputs
from mmkd.engine.fingerprint import key_of, told
from mmkd.engine.manifest import Manifest
from mmkd.engine.memory import Memory, MemoryTable
from mmkd.engine.stream import Stream
from mmkd.errors import CacheError, RecipeError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import Recipe
from mmkd.spec import Cache as Spec

if TYPE_CHECKING:
    from mmkd.engine.cache import Cache, Column, DiskTable, Key

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Kept:
    """The outputs of one pass of a network, ready to be looked up."""

    name: str
    """Node, and view where it is another than the training set itself."""
    stream: str
    place: str
    """`memory`, or a folder."""
    bytes: int
    rows: int
    written: int
    """Rows that were not there before."""
    seconds: float
    """What getting ready took."""
    live: float
    """Seconds that preparing and running one sample takes."""

    def describe(self) -> str:
        """What is kept where, and whether it was there before."""
        size = f"{self.name}: {self.rows:,} outputs in {self.place} ({self.bytes / 1e6:,.1f} MB)"
        if not self.written:
            return f"{size}, all of them found there"
        part = "" if self.written == self.rows else f"{self.written:,} of them "
        return f"{size}, {part}written in {_time(self.seconds)}"

    def saved(self, lookups: int) -> float:
        """Seconds that so many look-ups have saved, what filling took already taken off."""
        return self.live * lookups - self.seconds

    def to_dict(self, lookups: int) -> dict[str, Any]:
        """As `results.json` has it."""
        return {
            "place": "memory" if self.place == "memory" else "disk", "bytes": self.bytes, "rows": self.rows,
            "written": self.written, "lookups": lookups, "seconds": round(self.seconds, 2),
            "saved_seconds": round(self.saved(lookups), 2),
        }  # fmt: skip

    def tell(self, lookups: int) -> str:
        """What the cache was good for."""
        seconds = self.saved(lookups)
        came = f"saved about {_time(seconds)}" if seconds >= 0 else f"took {_time(-seconds)} more than it saved"
        return f"{self.name} ran on {self.written:,} samples in place of {lookups:,}: the cache {came}"


def _time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def remember(
    graph: TrainingGraph,
    recipe: Recipe,
    streams: Sequence[Stream],
    progress: Progress = lambda what, done, total: None,
    say: Say = lambda text: None,
    *,
    only: Sequence[str] | None = None,
) -> list[Kept]:
    """Run every network that has a `cache` over its data, or find what was kept of it; from then on its rows are looked
    up where a batch holds rows (`graph.collator(remembered=True)`).

    Args:
        graph: one that has been set up.
        recipe: its recipe.
        streams: what a step draws from.
        progress: called with a title and how much of how much is done.
        say: called with what was kept, and why a cache that is there could not be used.
        only: these networks; all of them unless given.

    Raises:
        RecipeError: the outputs of a network depend on more than sample and replica.
        CacheError: `folder` holds another cache, naming the fields that differ; or a cache is damaged.
    """
    found, manifests = [], dict[str, Manifest]()
    for name, node in {**recipe.student_nodes(), **recipe.teacher_nodes()}.items():
        if node.cache is not None and (only is None or name in only):
            spec = Spec.of(node.cache)
            for one in cacheable(graph, name, streams, fixed=spec.fixed):
                found.append(_remember(graph, recipe, one, spec, manifests, progress, say))
                say(f"cache: {found[-1].describe()}")
    return found


def _remember(
    graph: TrainingGraph, recipe: Recipe, kept: Cacheable, spec: Spec, manifests: dict[str, Manifest],
    progress: Progress, say: Say,
) -> Kept:  # fmt: skip
    where = f"{recipe.place(kept.node.name)}.cache"
    started = time.monotonic()
    filling = Filling(graph, kept, recipe.data.workers)
    columns = _columns(filling.first(), spec, where)
    reported = _Reported(progress, f"caching {kept.run.id}", filling)
    table: MemoryTable | DiskTable
    try:
        if spec.store == "memory":
            memory = Memory(columns, len(kept.stream.dataset), kept.replicas)
            keys = reported.fill(memory)
            table, place = memory.table(_distinct(keys, kept.stream), graph.device), "memory"
            size = table.bytes
        else:
            manifest = _manifest(kept.stream, manifests, progress)
            key = key_of(recipe, graph, kept, columns, manifest)
            cache = _opened(key, columns, manifest, kept, spec, filling.batch, say)
            reported.fill(cache)
            table, place = cache.table(graph.device), str(cache.folder)
            size = sum(file.stat().st_size for file in cache.folder.iterdir())
            cache.close()
    except CacheError as error:
        raise error.at(where) from None
    kept.node.tables[kept.run.view] = table
    seconds = time.monotonic() - started
    return Kept(kept.run.id, kept.stream.name, place, size, filling.rows, reported.done, seconds, filling.live())


class _Reported:
    """Fills a cache, telling how far it is."""

    def __init__(self, progress: Progress, title: str, filling: Filling) -> None:
        self._progress, self._title, self._filling = progress, title, filling
        self.done = 0

    def fill(self, cache: Memory | Cache) -> list[str]:
        """Write what is missing; the keys of the samples that were read, in the order of the dataset."""
        total, keys = self._filling.rows, dict[int, str]()
        samples = self._filling.samples
        for rows in cache.missing():
            for outputs in self._filling(rows):
                cache.write(outputs.rows, outputs.values, lengths=outputs.lengths, absent=outputs.absent)
                keys |= {row % samples: key for row, key in outputs.keys.items()}
                self.done += len(outputs.rows)
                self._progress(self._title, min(total, cache.done), total)
        return [keys.get(index, f"\0{index}") for index in range(samples)]


def _columns(first: Outputs, spec: Spec, where: str) -> dict[str, Column]:
    """What is kept of each value, and how."""
    from mmkd.engine.cache import Column

    logits = [name for name in first.values if name.endswith("logits")]
    if spec.top_k is not None and not logits:
        raise RecipeError(
            "keeps classes of logits, and no loss reads any of this network", where=f"{where}.top_k",
            exists=list(first.values), next="remove `top_k`",
        )  # fmt: skip
    columns = {}
    for name, value in first.values.items():
        ragged = name in first.lengths
        try:
            if spec.top_k is not None and name in logits:
                columns[name] = Column.of(value, "top_k", ragged=ragged, k=spec.top_k)
            elif value.is_floating_point() and not (spec.dtype == "int8" and value.dim() < 2):
                columns[name] = Column.of(value, spec.dtype or "same", ragged=ragged)
            else:
                columns[name] = Column.of(value, ragged=ragged)
            assert columns[name].encoding
        except CacheError as error:
            raise error.at(f"{where}: {name}") from None
    return columns


def _manifest(stream: Stream, known: dict[str, Manifest], progress: Progress) -> Manifest:
    """Of the dataset of a stream, which is read once however many caches stand on it."""
    if stream.name not in known:

        def read(done: int, total: int) -> None:
            progress(f"reading the samples of {stream.where} for the keys of caches", done, total)

        known[stream.name] = Manifest.of(stream.dataset, skip=stream.skip, where=stream.where, progress=read)
    return known[stream.name]


def _opened(
    key: Key, columns: Mapping[str, Column], manifest: Manifest, kept: Cacheable, spec: Spec, batch: int, say: Say
) -> Cache:
    from mmkd.engine.cache import Store

    store = Store()
    folder = Path(spec.folder).expanduser() if spec.folder is not None else None
    if folder is None and store.find(key) is None and (near := store.nearest(key)):
        name, differs = near
        other = store.key(name)
        if other.fields["network"] == key.fields["network"]:
            say(f"cache: {kept.run.id}: the nearest is {name}, and it has another {' and '.join(told(differs))}")
    return store.open(key, columns, manifest.keys, kept.replicas, batch=batch, folder=folder)


def _distinct(keys: Sequence[str], stream: Stream) -> Sequence[str]:
    seen = set[str]()
    for key in keys:
        if key in seen:
            raise RecipeError(f"two samples have the key '{key}'", where=stream.where)
        seen.add(key)
    return keys
