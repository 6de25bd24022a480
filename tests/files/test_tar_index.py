"""Indices of shards: made once, kept, refused where they do not fit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from files.tars import notes, write

from mmkd.errors import DataError
from mmkd.files import tar_index
from mmkd.files.tar_index import open_shard


def test_index_is_kept_and_used(folder: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = notes(pattern)
    kept = sorted(p.name for p in folder.glob("*.json"))
    assert kept == [f"pad-{i:03}.tar.index.json" for i in range(3)]
    monkeypatch.setattr(tar_index, "scan", None)
    again = notes(pattern)
    assert [again[i] for i in range(30)] == [first[i] for i in range(30)]


def test_index_elsewhere(folder: Path, pattern: str, tmp_path: Path) -> None:
    notes(pattern, index=str(tmp_path / "deep/cache"))
    assert len(list((tmp_path / "deep/cache").glob("pad-*.index.json"))) == 3
    assert not list(folder.glob("*.index.json"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/.*cannot be written"):
        notes(pattern, index=str(tmp_path / "file"))


def test_a_changed_tar_is_indexed_anew(folder: Path) -> None:
    tar = folder / "pad-000.tar"
    old = notes(tar)
    write(tar, {"z.note": b"seven", "z.txt": b"new"})
    assert notes(tar)[0]["text"] == "new"
    with pytest.raises(DataError, match=r"pad-000.tar: has changed since it was indexed"):
        old[0]
    with pytest.raises(DataError, match=r"pad-000.tar: has changed since it was indexed"), old.opened(0):
        pass


def test_a_shard_that_is_gone(folder: Path) -> None:
    old = notes(folder / "pad-000.tar")
    (folder / "pad-000.tar").unlink()
    with pytest.raises(DataError, match=r"pad-000.tar: cannot be read: No such file"):
        old[0]


def spoiled(facts: dict[str, Any]) -> dict[str, object]:
    """Indices that contradict themselves or the tar."""
    size = facts["size"]
    return {
        "garbage": "{", "no object": [], "no columns": {k: facts[k] for k in ("format", "size", "mtime_ns")},
        "beyond the end": {**facts, "offsets": [size // 512 * 512] * len(facts["offsets"])},
        "before the beginning": {**facts, "offsets": [-512] * len(facts["offsets"])},
        "huge": {**facts, "sizes": [1 << 62] * len(facts["sizes"])},
        "beyond int64": {**facts, "sizes": [1 << 99] * len(facts["sizes"])},
        "lists in lists": {**facts, "counts": [facts["counts"]]},
        "too few": {**facts, "counts": facts["counts"][:-1]},
        "no such kind": {**facts, "kinds": [99] * len(facts["kinds"])},
        "twice": {**facts, "keys": [facts["keys"][0]] * len(facts["keys"])},
        "numbers for names": {**facts, "keys": list(range(len(facts["keys"])))},
        "old": {**facts, "mtime_ns": 1}, "older format": {**facts, "format": 0},
    }  # fmt: skip


def test_an_index_is_never_trusted_blindly(folder: Path) -> None:
    tar = folder / "pad-000.tar"
    samples = notes(tar)
    home = folder / "pad-000.tar.index.json"
    facts = json.loads(home.read_text())
    for name, bad in spoiled(facts).items():
        home.write_text(bad if isinstance(bad, str) else json.dumps(bad))
        again = notes(tar)
        assert [again[i] for i in range(10)] == [samples[i] for i in range(10)], name
        assert json.loads(home.read_text()) == facts, name
    moved = {**facts, "offsets": [offset + 512 for offset in facts["offsets"]]}
    home.write_text(json.dumps(moved))
    wrong = r"pad-000.tar: holds no file of \d+ bytes at byte \d+, where its index says"
    with pytest.raises(DataError, match=wrong):
        notes(tar)[0]
    with pytest.raises(DataError, match=wrong), notes(tar).opened(0):
        pass


def test_a_folder_that_cannot_be_written(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tar_index, "_write", refuse)
    assert len(notes(pattern)) == 30


def test_a_file_is_read_in_part(tmp_path: Path) -> None:
    """As a file of its own: what lies beside it in the archive cannot be reached."""
    inside = bytes(range(256)) * 5
    shard = open_shard(write(tmp_path / "s.tar", {"a.memo": b"before", "a.note": inside, "a.txt": b"after"}))
    _, extents = shard.sample(0)
    with shard.opened(extents["note"]) as file, shard.opened(extents["note"]) as other:
        assert file.readable() and file.seekable() and not file.writable()
        assert file.read(3) == inside[:3] and file.tell() == 3
        assert file.seek(-2, os.SEEK_CUR) == 1 and file.read(2) == inside[1:3]
        assert file.seek(-4, os.SEEK_END) == len(inside) - 4 and file.read(100) == inside[-4:]
        assert file.read(1) == b"" and file.seek(5000) == 5000 and file.read() == b""
        assert file.seek(-9) == 0 and file.read() == inside == other.read()
    with shard.opened(extents["memo"]) as file:
        assert file.read() == b"before"
