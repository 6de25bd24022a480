"""Samples in shards: fields, keys, order, manifest, what is read."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from files.tars import PER_SHARD, notes, write
from numpy.random import default_rng

from mmkd.errors import DataError
from mmkd.files import web_samples


def test_samples(pattern: str) -> None:
    samples = notes(pattern)
    assert len(samples) == 30
    assert samples[17] == {
        "key": "pad-001/017", "note": "note 17", "text": "text 17", "label": 2, "json": {"caption": "said 17"}
    }  # fmt: skip
    assert len({samples[i]["key"] for i in range(30)}) == 30
    for beyond in (30, -1):
        with pytest.raises(IndexError):
            samples[beyond]
    with pytest.raises(DataError, match="window: is at least 1, not 0"):
        notes(pattern, window=0)


def test_caption_from_json_or_none(pattern: str) -> None:
    assert notes(pattern, caption_key="caption")[3]["text"] == "said 3"
    assert "text" not in notes(pattern, captions=False)[3]
    assert "text" not in notes(pattern, captions=False, caption_key="captoin")[3]
    with pytest.raises(DataError, match=r"000.json: has no text under 'captoin'; did you mean 'caption'"):
        notes(pattern, caption_key="captoin")[0]


def test_files_of_a_sample_need_not_be_neighbours(tmp_path: Path) -> None:
    files = {
        "x/a.NOTE": b"1", "x/b.note": b"2", "x/b.txt": b"b", "x/a.txt": b"a", "x/a.seg.note": b"?",
        "README": b"no sample", "x/._a.note": b"a Mac's", "./y/a.note": b"3", "y/a.txt": b"c",
    }  # fmt: skip
    samples = notes(write(tmp_path / "s.tar", files))
    assert [tuple(samples[i].values()) for i in range(3)] == [
        ("s/x/a", "1", "a"), ("s/x/b", "2", "b"), ("s/y/a", "3", "c")
    ]  # fmt: skip


def test_the_first_of_several_files_of_the_medium_is_it(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", {"a.note": b"note", "a.memo": b"memo", "a.txt": b"a"})
    assert notes(path)[0]["note"] == "memo"
    with notes(path).opened(0) as (file, where):
        assert (file.read(), where) == (b"memo", f"{path}: a.memo")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_and_long_names(tmp_path: Path, format: int) -> None:
    name = "folder/" * 12 + "n" * 60 + ("" if format == tarfile.USTAR_FORMAT else "é" * 90)
    with tarfile.open(tmp_path / "s.tar", "w", format=format) as tar:
        tar.addfile(_info("folder", 0, tarfile.DIRTYPE))
        for suffix, data in ((".note", b"9"), (".txt", b"nine")):
            tar.addfile(_info(name + suffix, len(data)), io.BytesIO(data))
    assert notes(tmp_path / "s.tar")[0] == {"key": f"s/{name}", "note": "9", "text": "nine"}


def _info(name: str, size: int, type: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    return info


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"x", "a.txt": b"t"}, r"s.tar: 'a' has no note: no file .memo or .note\n  there is: .png, .txt"),
        ({"a.note": b"x"}, r"s.tar: 'a' has no caption: no file .txt[^$]*captions: false"),
        ({"a.note": b"\xff", "a.txt": b"t"}, r"s.tar: a.note: is illegible"),
        ({"a.note": b"x", "a.txt": b" \n"}, r"s.tar: a.txt: is empty"),
        ({"a.note": b"x", "a.txt": b"\xff"}, r"s.tar: a.txt: is no UTF-8"),
        ({"a.note": b"x", "a.txt": b"t", "a.json": b"[1]"}, r"s.tar: a.json: is list, not an object"),
        ({"a.note": b"x", "a.txt": b"t", "a.json": b'{"a": '}, r"s.tar: a.json: is not JSON"),
        ({"a.note": b"x", "a.txt": b"t", "a.json": b"[" * 200_000}, r"s.tar: a.json: is not JSON"),
        ({"a.note": b"x", "a.txt": b"t", "a.cls": b"cat"}, r"s.tar: a.cls: label 'cat' is no integer"),
    ],
)
def test_bad_samples_are_errors_that_name_shard_and_file(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    samples = notes(write(tmp_path / "s.tar", files))
    with pytest.raises(DataError, match=message):
        samples[0]


def test_files_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = notes(write(tmp_path / "s.tar", {"a.note": b"n" * 20, "a.txt": b"t" * 9}))
    monkeypatch.setattr(web_samples, "LARGEST_MEDIUM", 20)
    monkeypatch.setattr(web_samples, "LARGEST_TEXT", 8)
    with pytest.raises(DataError, match=r"s.tar: a.txt: has 9 bytes, above 8"):
        samples[0]
    monkeypatch.setattr(web_samples, "LARGEST_TEXT", 9)
    assert samples[0]["text"] == "t" * 9
    monkeypatch.setattr(web_samples, "LARGEST_MEDIUM", 19)
    with pytest.raises(DataError, match=r"s.tar: a.note: has 20 bytes, above 19"):
        samples[0]


def test_order_is_a_permutation_that_moves_within_windows(pattern: str) -> None:
    samples = notes(pattern, window=5)
    order = samples.order(default_rng(0))
    assert sorted(order) == list(range(30)) and order.dtype == np.int64
    assert order.tolist() == samples.order(default_rng(0)).tolist() != samples.order(default_rng(1)).tolist()
    shards = [int(i) // PER_SHARD for i in order]
    for start in range(0, 30, PER_SHARD):
        assert len(set(shards[start : start + PER_SHARD])) == 1
    for start in range(0, 30, 5):
        part = sorted(order[start : start + 5].tolist())
        assert part == list(range(part[0], part[0] + 5))
    firsts = {tuple(int(i) // PER_SHARD for i in samples.order(default_rng(s))[::PER_SHARD]) for s in range(40)}
    assert len(firsts) == 6
    wide = notes(pattern, window=30).order(default_rng(0))
    assert len({int(i) // PER_SHARD for i in wide[:10]}) > 1


def test_no_file_stays_open(pattern: str) -> None:
    samples = notes(pattern)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for i in range(30):
        samples[i]
        with samples.opened(i):
            pass
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
    assert pickle.loads(pickle.dumps(samples))[4] == samples[4]


def test_the_manifest_follows_what_lies_in_the_shards(folder: Path, pattern: str) -> None:
    samples = notes(pattern)
    before = samples.manifest()
    assert [key for key, _ in before] == [samples[i]["key"] for i in range(30)]
    moved = folder / "moved"
    moved.mkdir()
    for tar in folder.glob("*.tar"):
        tar.rename(moved / tar.name)
    pattern = str(moved / "pad-{000..002}.tar")
    assert notes(pattern).manifest() == before
    assert notes(pattern, captions=False).manifest() != before
    content = (moved / "pad-001.tar").read_bytes()
    (moved / "pad-001.tar").write_bytes(content.replace(b"text 13\n", b"text 31\n"))
    changed = notes(pattern).manifest()
    assert [i for i, (a, b) in enumerate(zip(before, changed, strict=True)) if a != b] == [13]


def test_the_manifest_tells_which_text_of_several_is_read(tmp_path: Path) -> None:
    more = json.dumps({"short": "a dog", "long": "a dog that barks"}).encode()
    path = write(tmp_path / "s.tar", {"a.note": b"n", "a.txt": b"dog", "a.json": more})
    options = ({}, {"captions": False}, {"caption_key": "short"}, {"caption_key": "long"})
    manifests = [notes(path, **given).manifest() for given in options]
    assert all(a != b for i, a in enumerate(manifests) for b in manifests[:i])


def test_a_sample_that_cannot_be_read_stays_in_the_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", {"a.note": b"n", "a.txt": b"t", "b.note": b"n"})
    (first, content), second = notes(path).manifest()
    assert (first, set(content), second) == ("s/a", {"note", "txt"}, ("s/b", {}))
