"""The store: finding, refusing, checking, listing and removing caches."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from engine.cache.filled import ABSENT, BATCH, COLUMNS, KEY, REPLICAS, ROWS, SAMPLES, agrees, fill, opened, values

from mmkd.engine.cache import Column, Key, Store
from mmkd.errors import CacheError

ALL = sorted(set(range(ROWS)) - set(ABSENT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete cache that nobody has open."""
    cache = opened(tmp_path)
    fill(cache)
    cache.close()
    return cache.folder


def test_moved_and_with_other_times_it_is_found(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / folder.name
    shutil.move(folder, moved)
    for file in moved.rglob("*"):
        os.utime(file, (1, 1))
    cache = opened(moved.parent)
    assert Store(moved.parent).find(KEY) == moved and fill(cache) == [] and agrees(cache.table(), ALL)
    named = opened(tmp_path, folder=moved)
    assert named.done == ROWS


@pytest.mark.parametrize("name", KEY.fields)
def test_each_part_of_the_key_alone_misses_with_its_name(folder: Path, name: str) -> None:
    other, store = Key({**KEY.fields, name: "another"}), Store(folder.parent)
    assert store.find(other) is None
    assert store.nearest(other) == (folder.name, [name])
    with pytest.raises(CacheError, match=f"holds another cache: {name} differs") as caught:
        store.open(other, COLUMNS, SAMPLES, REPLICAS, folder=folder)
    assert 'not "another"' in str(caught.value)


def test_nearest_is_the_one_with_most_equal_fields(folder: Path) -> None:
    store = Store(folder.parent)
    far = Key({**KEY.fields, "weights": "x", "dataset": "y"})
    store.open(far, COLUMNS, SAMPLES, REPLICAS).close()
    assert store.nearest(Key({**KEY.fields, "weights": "z"})) == (folder.name, ["weights"])
    assert store.nearest(Key({"nothing": "alike"})) is None
    assert store.key(folder.name) == KEY


@pytest.mark.parametrize(
    ("columns", "samples", "says"),
    [
        (COLUMNS, [*SAMPLES[:-1], "new"], "another samples"),
        ({**COLUMNS, "teacher.embedding": Column((6,))}, SAMPLES, "another column 'teacher.embedding'"),
        (COLUMNS, [*SAMPLES, "s0"], "two samples have the key 's0'"),
    ],
)
def test_the_same_key_for_something_else_is_refused(
    folder: Path, columns: dict[str, Column], samples: list[str], says: str
) -> None:
    with pytest.raises(CacheError, match=says):
        Store(folder.parent).open(KEY, columns, samples, REPLICAS)


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo").touch()
    with pytest.raises(CacheError, match="holds other files"):
        opened(tmp_path, folder=tmp_path / "mine")


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(CacheError, match=r"0.0 GiB are free"):
        opened(tmp_path)


# -- integrity ----------------------------------------------------------------------------------------------------


def _data(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("[0-9]*.*") if file.suffix != ".lock")


def _names(folder: Path) -> list[str]:
    return [file.name for file in _data(folder)]


def test_one_flipped_byte_in_any_file_is_found_and_named(folder: Path) -> None:
    store = Store(folder.parent)
    assert len(_data(folder)) == 6 and store.verify(folder.name) == []
    for file in _data(folder):
        whole = file.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            (found,) = store.verify(folder.name[:8])
            assert found.file == file.name and found.start <= at < found.end and found.block is not None
            assert re.fullmatch(
                rf"{file.name}, bytes \d+ to \d+ \(block \d, rows \d+ to \d+\): their checksum .*", str(found)
            )
        file.write_bytes(whole)
    assert store.verify(str(folder)) == []


def test_the_range_is_as_near_as_a_checksum_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmkd.engine.cache.layout.ROWS", 10**6)
    column = Column((1000,))
    cache = Store(tmp_path).open(KEY, {"t.v": column}, [str(n) for n in range(100)], batch=100)
    for rows in cache.missing():
        cache.write(rows, {"t.v": values([0])["teacher.embedding"].repeat(100, 200)})
    (file,) = _data(cache.folder)
    with file.open("r+b") as handle:
        handle.seek(200_000)
        handle.write(b"x")
    (found,) = Store(tmp_path).verify(cache.folder.name)
    assert (found.start, found.end) == (3 << 16, 4 << 16)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("missing", [False, True])
def test_cut_and_missing_files_are_told_on_opening_and_mended(folder: Path, number: int, missing: bool) -> None:
    file = _data(folder)[number]
    if missing:
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CacheError, match=f"{file.name}: {'is missing' if missing else 'has .* cut short'}"):
        opened(folder.parent)
    store = Store(folder.parent)
    found = store.verify(folder.name, mend=True)
    assert {damage.file for damage in found} == {file.name}
    cache = opened(folder.parent)
    assert ROWS - cache.done == sum(len(rows) for rows in fill(cache)) > 0
    assert agrees(cache.table(), ALL) and store.verify(folder.name) == []


@pytest.mark.parametrize("name", ["key.json", "layout.json", "blocks/00000002.json"])
def test_a_flipped_byte_in_what_is_known_of_it_is_told(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    digit = next(match.start() for match in re.finditer(r"\d", text))
    (folder / name).write_text(f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}")
    store = Store(folder.parent)
    (found,) = store.verify(folder.name)
    assert found.file == name
    if name.startswith("blocks"):
        cache = opened(folder.parent)
        assert fill(cache) == [range(2 * BATCH, 3 * BATCH)] and agrees(cache.table(), ALL)
    else:
        with pytest.raises(CacheError, match="damaged: its checksum does not fit"):
            opened(folder.parent)
        assert "damaged" in store.list()[0].network or name == "layout.json"
        with pytest.raises(CacheError, match="cannot be mended"):
            store.verify(folder.name, mend=True)


def test_one_in_use_is_not_mended(folder: Path) -> None:
    cache = opened(folder.parent)
    with pytest.raises(CacheError, match="in use"):
        Store(folder.parent).verify(folder.name, mend=True)
    assert cache.done == ROWS


# -- list and gc ----------------------------------------------------------------------------------------------------


def test_list_says_what_there_is(folder: Path) -> None:
    store, before = Store(folder.parent), time.time()
    other = store.open(Key({**KEY.fields, "network": "Net(4)"}), COLUMNS, SAMPLES, REPLICAS, batch=BATCH)
    first, second = store.list()
    assert (first.network, first.done, first.rows, first.locked, first.complete) == ("Net(4)", 0, ROWS, True, False)
    assert (second.name, second.network, second.done, second.locked) == (folder.name, "toy.teacher", ROWS, False)
    assert second.bytes > 0 and abs(second.created - before) < 60 and abs(second.used - before) < 60
    assert other.folder == first.folder
    with pytest.raises(CacheError, match="no cache begins with 'zz'"):
        store.verify("zz")


def test_gc_removes_what_is_incomplete_old_or_too_much_and_nothing_that_is_open(folder: Path) -> None:
    store = Store(folder.parent)
    half = store.open(Key({"half": 1}), COLUMNS, SAMPLES, REPLICAS, batch=BATCH)
    assert store.gc() == []
    half.close()
    assert [(entry.name, reason) for entry, reason in store.gc(dry_run=True)] == [
        (half.folder.name, "0 of 60 rows written")
    ]
    assert half.folder.exists() and store.gc(incomplete=False) == []
    assert len(store.gc()) == 1 and not half.folder.exists()
    assert store.gc(older_than=3600, beyond=10**9) == []
    os.utime(folder / "used", (1, 1))
    table = opened(folder.parent).table()
    assert store.gc(older_than=3600, beyond=0) == [], "a table of it is open"
    os.utime(folder / "used", (1, 1))
    del table
    ((_, reason),) = store.gc(older_than=3600)
    assert "days" in reason and not folder.exists()


def test_gc_keeps_the_last_used_within_the_bytes(tmp_path: Path) -> None:
    store, folders = Store(tmp_path), []
    for age in (30, 20, 10):
        cache = store.open(Key({"age": age}), COLUMNS, SAMPLES, REPLICAS, batch=BATCH)
        fill(cache)
        cache.close()
        os.utime(cache.folder / "used", (time.time() - age,) * 2)
        folders.append(cache.folder)
    removed = store.gc(beyond=2 * store.list()[0].bytes)
    assert [entry.folder for entry, _ in removed] == folders[:1]


def test_what_a_killed_process_left_half_made_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".0123.abcd.part"
    left.mkdir()
    assert Store(tmp_path).gc() == [] and left.exists(), "somebody may be making it"
    os.utime(left, (1, 1))
    Store(tmp_path).gc()
    assert not left.exists()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value, home in [
        ("HOME", tmp_path, tmp_path / ".cache" / "mmkd"), ("XDG_CACHE_HOME", tmp_path / "x", tmp_path / "x" / "mmkd"),
        ("MMKD_CACHE", tmp_path / "own", tmp_path / "own"),
    ]:  # fmt: skip
        if name == "HOME":
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
            monkeypatch.delenv("MMKD_CACHE", raising=False)
        monkeypatch.setenv(name, str(value))
        assert Store().root == home
