"""Corrupt and hostile archives: each gives its samples, or one error that names the shard; none is slow or large."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from files.tars import notes, tar

from mmkd.errors import DataError

PAIR = (("a.note", b"n" * 300), ("a.txt", b"red"))


def resized(size: bytes) -> bytes:
    """A tar whose second header claims another size, its checksum put right."""
    data = bytearray(tar(*PAIR))
    at = 1024
    data[at + 124 : at + 136] = size.ljust(12, b"\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"0" * (1 << 24))
    return stream.getvalue()


# bytes of the shard, and either the error or the keys
SHARDS: dict[str, tuple[bytes, Any]] = {
    "healthy": (tar(*PAIR), ["s/a"]),
    "symbolic link": (tar(*PAIR, ("b.note", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"), r"s.tar: 'b.note' is a link"),
    "hard link": (tar(*PAIR, ("b.note", b""), type=tarfile.LNKTYPE, linkname="a.note"), r"s.tar: 'b.note' is a link"),
    "device": (tar(*PAIR, ("b.note", b""), type=tarfile.CHRTYPE), r"s.tar: 'b.note' is a device"),
    "pipe": (tar(*PAIR, ("b.note", b""), type=tarfile.FIFOTYPE), r"s.tar: 'b.note' is a pipe"),
    "absolute name": (tar(("/etc/a.note", b"x")), r"s.tar: '/etc/a.note' is no name within a folder"),
    "name that climbs": (tar(("x/../../a.note", b"x")), r"s.tar: 'x/../../a.note' is no name within a folder"),
    "name that is not UTF-8": (tar(("\udcff.note", b"x")), r"s.tar: has a file name that is not UTF-8"),
    "same name twice": (tar(*PAIR, PAIR[0]), r"s.tar: 'a.note' is in it twice"),
    "two cases of a name": (tar(*PAIR, ("a.NOTE", b"x")), r"s.tar: 'a.NOTE' is in it twice"),
    "huge size": (resized(b"77777777777"), r"s.tar: 'a.txt' has 8589934591 bytes, of which the archive holds"),
    "size beyond 64 bits": (resized(b"\x80" + b"\xff" * 11), r"s.tar: 'a.txt' has \d+ bytes, of which"),
    "negative size": (resized(b"\xff" * 12), r"s.tar: is damaged: there is no header at byte"),
    "no size": (resized(b"12x"), r"s.tar: is damaged: there is no header at byte"),
    "cut within a file": (tar(*PAIR)[:600], r"s.tar: 'a.note' has \d+ bytes, of which the archive holds 88"),
    "cut between files": (tar(PAIR[0])[:1024], r"s.tar: is cut short: its closing block is missing at byte 1024"),
    "bit flipped in a header": (tar(*PAIR)[:1030] + b"\x01" + tar(*PAIR)[1031:], r"s.tar: is damaged: .* at byte 1024"),
    "not a tar": (b"no tar " * 500, r"s.tar: is no tar archive"),
    "zip bomb": (zipped(), r"s.tar: is no tar archive"),
    "gz bomb": (gzip.compress(bytes(1 << 24)), r"s.tar: is compressed with gzip[^$]*unpack it"),
    "no bytes": (b"", r"s.tar: is empty"),
    "no files": (tar(), r"s.tar: holds no samples"),
    "no samples": (tar(("README", b"x"), (".hidden.note", b"x")), r"s.tar: holds no samples"),
    "pickles": (tar(*PAIR, ("a.pickle", b"cos\nabort\n(tR."), ("a.pyd", b"x"), ("a.pth", b"x")), ["s/a"]),
    "pax header without end": (tar(("é" * 200 + ".note", b"x"), format=tarfile.PAX_FORMAT).replace(b" path=", b" path "), r"s.tar: has a damaged pax header"),
    "pax record that stands still": (tar(("é" * 200 + ".note", b"x"), format=tarfile.PAX_FORMAT).replace(b"415 path", b"000 path"), r"s.tar: has a damaged pax header"),
    "endless name": (tar(("n" * 100_000 + ".note", b"x"), format=tarfile.GNU_FORMAT), r"s.tar: has a header of 100006 bytes, above 65536"),
    "sparse file": (tar(*PAIR, ("b.note", b""), format=tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.size": "99999999999"}), r"s.tar: holds a sparse file"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARDS)
def test_shards(case: str, tmp_path: Path) -> None:
    data, expected = SHARDS[case]
    (tmp_path / "s.tar").write_bytes(data)

    def keys() -> list[str]:
        samples = notes(tmp_path / "s.tar")
        return [samples[i]["key"] for i in range(len(samples))]

    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            keys()
    else:
        assert keys() == expected
    assert {path.name for path in tmp_path.iterdir()} <= {"s.tar", "s.tar.index.json"}


def test_a_sparse_giant_is_refused_at_once(tmp_path: Path) -> None:
    with (tmp_path / "s.tar").open("wb") as file:
        file.write(tar(*PAIR)[:2048])
        file.truncate(1 << 36)
    started = time.perf_counter()
    assert len(notes(tmp_path / "s.tar")) == 1  # zeros close an archive
    assert time.perf_counter() - started < 1


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.tar")
    for shards in (tmp_path / "s.tar", tmp_path / "*.tar"):
        with pytest.raises(DataError, match=r"s.tar: is no file"):
            notes(shards)
