"""Shards of notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files.tars import PER_SHARD, SHARDS, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of ten samples; a note says its place."""
    for shard in range(SHARDS):
        files: dict[str, bytes] = {}
        for i in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
            files |= {
                f"{i:03}.note": f"note {i}".encode(), f"{i:03}.txt": f"text {i}\n".encode(),
                f"{i:03}.cls": str(i % 3).encode(), f"{i:03}.json": json.dumps({"caption": f"said {i}"}).encode(),
                f"{i:03}.pickle": b"cos\nsystem\n",
            }  # fmt: skip
        write(tmp_path / f"pad-{shard:03}.tar", files)
    return tmp_path


@pytest.fixture
def pattern(folder: Path) -> str:
    return str(folder / "pad-{000..002}.tar")
