"""Writers: killed anywhere, two at once, one after the other; a reader beside them sees true rows or none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.cache.filled import ABSENT, BATCH, ROWS, SAMPLES, agrees, child, ended, fill, opened, values, whole

from mmkd.engine.cache import DiskTable, Store
from mmkd.engine.cache.lock import Lock
from mmkd.errors import CacheError, GraphError

CALLS = ("pwrite", "fsync", "replace", "rename", "truncate", "unlink")


def _counted(at: int, log: list[int]) -> None:
    """From now on die in the `at`-th call that changes the disk; half of what was to be written may be there."""
    for name in CALLS:
        real: Callable[..., Any] = getattr(os, name)

        def call(*given: Any, real: Callable[..., Any] = real, name: str = name) -> Any:
            log.append(1)
            if len(log) == at:
                if name == "pwrite":
                    handle, data, place = given
                    real(handle, data[: len(data) // 2], place)
                os._exit(9)
            return real(*given)

        setattr(os, name, call)


def _calls(root: Path) -> int:
    """How many calls filling takes."""
    read, write = os.pipe()

    def run() -> None:
        log: list[int] = []
        _counted(0, log)
        fill(opened(root))
        os.write(write, str(len(log)).encode())

    assert ended(child(run)) == 0
    return int(os.read(read, 20))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> int:
    return _calls(tmp_path_factory.mktemp("counted"))


@pytest.mark.parametrize("point", range(24))
def test_killed_anywhere_no_row_is_wrong_and_the_next_writer_goes_on(tmp_path: Path, calls: int, point: int) -> None:
    at = 1 + point * (calls - 1) // 23

    def run() -> None:
        _counted(at, [])
        fill(opened(tmp_path))

    assert ended(child(run)) == 9
    cache = opened(tmp_path)
    table = cache.table()
    assert agrees(table, there) if (there := whole(table)) else cache.done in (0, BATCH)
    done = cache.done
    claimed = fill(cache)
    assert sum(len(rows) for rows in claimed) == ROWS - done, "what was whole is written again"
    assert agrees(cache.table(), sorted(set(range(ROWS)) - set(ABSENT)))
    assert Store(tmp_path).verify(cache.folder.name) == []


def test_two_writers_divide_the_blocks_and_a_third_has_nothing_to_do(tmp_path: Path) -> None:
    opened(tmp_path).close()
    logs = [tmp_path / "one", tmp_path / "two"]

    def run(log: Path) -> None:
        with log.open("w") as file:
            fill(opened(tmp_path), lambda rows: (file.write(f"{rows.start}\n"), time.sleep(0.02)))

    assert [ended(process) for process in [child(lambda log=log: run(log)) for log in logs]] == [0, 0]
    starts = [log.read_text().split() for log in logs]
    assert all(starts), "one of them did everything"
    assert sorted(map(int, [*starts[0], *starts[1]])) == list(range(0, ROWS, BATCH))
    third = opened(tmp_path)
    assert fill(third) == [] and agrees(third.table(), [0, 1, 59])


def test_many_who_make_the_same_cache_make_one(tmp_path: Path) -> None:
    processes = [child(lambda: fill(opened(tmp_path))) for _ in range(6)]
    assert [ended(process) for process in processes] == [0] * 6
    assert [path.name for path in tmp_path.iterdir()] == [opened(tmp_path).folder.name]
    assert Store(tmp_path).list()[0].complete and Store(tmp_path).verify("") == []


def test_a_block_that_another_holds_is_waited_for_or_left(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    ranges = first.missing()
    assert next(ranges) == range(BATCH)
    assert all(0 not in rows for rows in _written(second, second.missing(wait=False)))
    assert second.done == ROWS - BATCH
    ranges.close()
    assert fill(second) == [range(BATCH)]


def _written(cache: Any, ranges: Any) -> list[range]:
    seen = []
    for rows in ranges:
        cache.write(rows, values(list(rows)))
        seen.append(rows)
    return seen


def test_the_block_of_a_writer_that_dies_is_taken_over(tmp_path: Path) -> None:
    read, write = os.pipe()

    def dies() -> None:
        for _ in opened(tmp_path).missing():
            os.write(write, b"x")
            time.sleep(0.3)
            os._exit(9)

    process = child(dies)
    os.read(read, 1)
    claimed = fill(opened(tmp_path))
    assert ended(process) == 9 and sorted(rows.start for rows in claimed) == list(range(0, ROWS, BATCH))
    assert claimed[-1].start == 0, "it was not waited for"


def test_a_forked_worker_keeps_no_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    read, write = os.pipe()
    worker = child(lambda: (os.write(write, b"x"), time.sleep(0.5)))
    os.read(read, 1)
    lock.release()
    assert Lock(lock.path).acquire()
    assert ended(worker) == 0


def test_a_reader_beside_a_writer_sees_whole_blocks_only(tmp_path: Path) -> None:
    cache, tables = opened(tmp_path), list[DiskTable]()
    fill(cache, lambda rows: tables.append(opened(tmp_path).table()))
    assert [table.done for table in tables] == list(range(0, ROWS, BATCH))
    assert all(agrees(table, whole(table)) for table in tables[1:])
    with pytest.raises(GraphError, match=r"sample 's20' .*replica 0.* is not written yet"):
        tables[1].row("s20")


def test_rows_are_told_apart(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache)
    table = cache.table()
    assert table.row("s4") == 4 and table.row("s4", 1) == len(SAMPLES) + 4 and cache.absent == len(ABSENT)
    for key, replica, says in [
        ("s3", 0, "'s3' .* could not be read when"),
        ("other", 0, "'other' is not among the 30"),
        ("s4", 2, "for 2 replicas"),
    ]:
        with pytest.raises(GraphError, match=says):
            table.row(key, replica)
    with pytest.raises(GraphError, match="row 40 holds no values"):
        table.read(torch.tensor([1, 40]))


def test_rows_are_written_in_order_and_to_the_end(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    with pytest.raises(CacheError, match="not claimed"):
        cache.write(range(2), values([0, 1]))
    ranges = cache.missing()
    next(ranges)
    with pytest.raises(CacheError, match="0 to 8 are next"):
        cache.write(range(2, 4), values([2, 3]))
    with pytest.raises(CacheError, match=r"no values of 'teacher\.logits'"):
        cache.write(
            range(1),
            {
                "teacher.embedding": values([0])["teacher.embedding"],
                "teacher/blocks.2": values([0])["teacher/blocks.2"],
            },
        )
    with pytest.raises(CacheError, match="lengths"):
        cache.write(range(1), values([0]), lengths={"teacher/blocks.2": torch.tensor([9])})
    cache.write(range(2), values([0, 1]))
    with pytest.raises(CacheError, match="rows 2 to 8 were claimed and not written"):
        next(ranges)
    assert cache.done == 0
