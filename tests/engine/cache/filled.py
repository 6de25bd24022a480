"""A small cache with columns of every kind, whose true rows are known."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmkd.engine.cache import Cache, Column, DiskTable, Key, Store

SAMPLES = [f"s{index}" for index in range(30)]
REPLICAS = 2
ROWS = len(SAMPLES) * REPLICAS
BATCH = 8
ABSENT = (3, 40)

_random = torch.Generator().manual_seed(0)
EMBEDDING = torch.randn(ROWS, 5, generator=_random)
TOKENS = torch.randn(ROWS, 4, 3, generator=_random)
LENGTHS = torch.randint(0, 5, (ROWS,), generator=_random)
TOKENS[torch.arange(4) >= LENGTHS.unsqueeze(1)] = 0
LOGITS = torch.randn(ROWS, 9, generator=_random)

COLUMNS = {
    "teacher.embedding": Column.of(EMBEDDING),
    "teacher/blocks.2": Column.of(TOKENS, ragged=True),
    "teacher.logits": Column.of(LOGITS, "top_k", k=4),
}
KEY = Key(
    {
        "weights": "0a1b", "network": {"use": "toy.teacher", "depth": 3}, "transform": "77", "values": sorted(COLUMNS),
        "dtype": "fp32", "draws": {"seed": 0, "replicas": REPLICAS}, "dataset": "d0", "plugins": {"mmkd": "0.1.0"},
    }
)  # fmt: skip


def opened(root: Path, **given: Path) -> Cache:
    return Store(root).open(KEY, COLUMNS, SAMPLES, REPLICAS, batch=BATCH, **given)


def values(rows: list[int]) -> Mapping[str, Tensor]:
    parts = zip(COLUMNS, (EMBEDDING, TOKENS, LOGITS), strict=True)
    return {address: tensor[rows] for address, tensor in parts}


def fill(cache: Cache, each: Callable[[range], object] = lambda rows: None) -> list[range]:
    """Write what is missing, in batches smaller than a block; the ranges that were claimed."""
    claimed = []
    for block in cache.missing():
        claimed.append(block)
        each(block)
        for start in range(block.start, block.stop, 5):
            rows = range(start, min(start + 5, block.stop))
            there = [row for row in rows if row not in ABSENT]
            absent = [row for row in rows if row in ABSENT]
            cache.write(rows, values(there), lengths={"teacher/blocks.2": LENGTHS[there]}, absent=absent)
    return claimed


def agrees(table: DiskTable, rows: list[int]) -> bool:
    """Whether the rows are the true ones; top-k logits to the precision of fp16."""
    read, true = table.read(torch.tensor(rows)), values(rows)
    tokens = true["teacher/blocks.2"][:, : int(LENGTHS[rows].max())]
    logs, best = true["teacher.logits"].log_softmax(-1), true["teacher.logits"].topk(4).indices
    return (
        torch.equal(read["teacher.embedding"], true["teacher.embedding"])
        and torch.equal(read["teacher/blocks.2"], tokens)
        and bool((read["teacher.logits"] - logs).gather(-1, best).abs().max() < 5e-3)
    )


def whole(table: DiskTable) -> list[int]:
    """The rows that it gives out."""
    return [row for row in range(ROWS) if table._known[row] == 1]


def child(does: Callable[[], object]) -> int:
    """Fork, run and end without any clean-up, as a killed process does; the id of the child."""
    process = os.fork()
    if not process:
        try:
            does()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(1)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
