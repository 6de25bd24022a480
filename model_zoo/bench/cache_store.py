"""What the cache of teacher outputs costs on disk: reading, size and writing, against plain tensors and `np.save`.

A read is a batch of 256 random rows, page cache warm, against the same `index_select` from RAM; what is stored in fewer
bits is compared before it is turned back into floats, which any way of storing it has to do. The size is that of
everything in the folder over that of the bare arrays. Writing is compared with `np.save` twice: as wall time with both
on disk for good (`fsync`), which is what a cache that survives a crash has to do, and as processor time without it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmkd.engine.cache import Cache, Column, DiskTable, Key, Store, Weighted
from model_zoo.bench.measure import Row, Spread, turns

GROUP = "Teacher cache on disk"
BATCH = 256
READ, SIZE, WRITE = 1.1, 1.01, 1.5


def rows(short: bool) -> Iterator[Row]:
    """Reading, size and writing of three kinds of values."""
    rounds = 7 if short else 21
    share = 4 if short else 1
    random = torch.Generator().manual_seed(0)
    embedding = torch.randn(50_000 // share, 512, generator=random).half()
    tokens = torch.randn(4_000 // share, 50, 384, generator=random).half()
    ids = torch.rand(4_000 // share, 64, 50, generator=random).mul(32_000).to(torch.int16)
    logs, rest = -torch.rand(ids.shape, generator=random).half(), -torch.rand(ids.shape[:2], generator=random).half()
    kinds: dict[str, tuple[Column, Tensor | Weighted]] = {
        f"embedding [{len(embedding):,}, 512] fp16": (Column.of(embedding), embedding),
        f"tokens [{len(tokens):,}, 50, 384] fp16": (Column.of(tokens), tokens),
        f"tokens, ragged [{len(tokens):,}, 50, 384] fp16": (Column.of(tokens, ragged=True), tokens),
        f"top 50 of 32,000 [{len(ids):,}, 64, 50]": (
            Column((64, 32_000), stored="top_k", k=50), Weighted(ids, logs, rest),
        ),
    }  # fmt: skip
    for name, (column, values) in kinds.items():
        yield from _measured(name, column, values, rounds)


def _measured(name: str, column: Column, values: Tensor | Weighted, rounds: int) -> Iterator[Row]:
    arrays: list[Tensor] = [values] if isinstance(values, Tensor) else [*values]
    raw = sum(array.nbytes for array in arrays)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def write() -> Cache:
            shutil.rmtree(folder / "store", ignore_errors=True)
            return _written(folder / "store", column, values)

        cache = write()
        table = cache.table()
        yield Row(GROUP, f"{name}: read", _read(table, column, arrays, rounds), READ, note="index_select from RAM")
        size = sum(file.stat().st_size for file in cache.folder.rglob("*")) / raw
        bytes = {"bytes": raw, "stored": column.describe()}
        yield Row(GROUP, f"{name}: size", Spread(size, size, size), SIZE, numbers=bytes, note="bare arrays")
        cache.close()
        del table, cache

        def plain(sync: bool) -> Callable[[], None]:
            def save() -> None:
                shutil.rmtree(folder / f"plain-{sync}", ignore_errors=True)
                for number, array in enumerate(arrays):
                    _saved(folder / f"plain-{sync}" / f"{number}.npy", array, sync)

            return save

        taken = turns({"cache": write, "synced": plain(True), "plain": plain(False)}, max(3, rounds // 3), warmup=1)
        numbers = {
            "mib_per_s": raw / 2**20 / float(np.median(taken.walls["cache"])),
            "busy_over_synced_np_save": taken.ratio("cache", "synced").median,
            "busy_over_np_save": taken.ratio("cache", "plain").median,
            "wall_over_np_save": taken.ratio("cache", "plain", wall=True).median,
        }
        note = "wall time of np.save and fsync; every block is checked (crc32) and synced of its own, np.save once"
        yield Row(GROUP, f"{name}: write", taken.ratio("cache", "synced", wall=True), WRITE, numbers=numbers, note=note)


def _written(root: Path, column: Column, values: Tensor | Weighted) -> Cache:
    count = len(values if isinstance(values, Tensor) else values.ids)
    cache = Store(root).open(Key({}), {"teacher.value": column}, [str(index) for index in range(count)], batch=BATCH)
    for block in cache.missing():
        part = slice(block.start, block.stop)
        some = values[part] if isinstance(values, Tensor) else Weighted(*(each[part] for each in values))
        cache.write(block, {"teacher.value": some})
    return cache


def _saved(path: Path, array: Tensor, sync: bool) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.save(file, array.numpy())
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _read(table: DiskTable, column: Column, arrays: list[Tensor], rounds: int) -> Spread:
    """A turn is 20 batches; a column that has to be decoded is read up to there."""
    random = torch.Generator().manual_seed(1)
    batches = [torch.randint(table.layout.rows, (BATCH,), generator=random) for _ in range(20)]
    mapped = list(table._parts["teacher.value"].values()) if column.stored == "top_k" else []

    def disk() -> None:
        for some in batches:
            if mapped:
                gathered(mapped, some)
            else:
                table.read(some)

    def memory() -> None:
        for some in batches:
            gathered(arrays, some)

    return turns({"disk": disk, "memory": memory}, rounds).ratio("disk", "memory")


def gathered(arrays: list[Tensor], some: Tensor) -> list[Tensor]:
    return [array.index_select(0, some) for array in arrays]
