"""Headers of tar archives: where each file lies, without extracting any.

Plain archives of the formats ustar, GNU and pax, of regular files and folders under relative names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from mmkd.errors import DataError

BLOCK = 512
LONGEST = 1 << 16
"""Bytes of the longest name or pax header that is read."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
FILE, FOLDER, LONG_NAME, PAX, PAX_GLOBAL = b"0\0" + b"7", b"5", b"L", b"x", b"g"
REFUSED = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


class Member(NamedTuple):
    """A regular file: its name, and where its bytes lie in the archive."""

    name: str
    offset: int
    size: int


class Header(NamedTuple):
    """One block of a header: name, kind of file, bytes that follow."""

    name: bytes
    kind: bytes
    size: int


def members(descriptor: int, where: str) -> Iterator[Member]:
    """The regular files of an open archive, in their order.

    Raises:
        DataError: it is no plain archive, is cut short or damaged, or holds a link, a device, or a name that leaves
            the folder it would be extracted to; names the archive and the file in it.
    """
    length = os.fstat(descriptor).st_size
    offset, name, size = 0, None, None
    while True:
        block = os.pread(descriptor, BLOCK, offset)
        if offset == 0:
            _check_beginning(block, where)
        if block == bytes(BLOCK):
            return
        header = parse(block)
        if header is None:
            cut = f"is cut short: its closing block is missing at byte {offset}"
            what = cut if len(block) < BLOCK else f"is damaged: there is no header at byte {offset}"
            raise DataError(what if offset else "is no tar archive", where=where)
        start, held = offset + BLOCK, header.size
        if header.kind in FILE and size is not None:
            held = size
        if start + held > length:
            shown = (name or header.name).decode(errors="replace")
            what = f"'{shown}' has {held} bytes, of which the archive holds {length - start}"
            raise DataError(what, where=where, next="it was cut short, or is damaged")
        offset = start + -(-held // BLOCK) * BLOCK
        if header.kind in (LONG_NAME, PAX, PAX_GLOBAL):
            if held > LONGEST:
                raise DataError(f"has a header of {held} bytes, above {LONGEST}", where=where)
            data = os.pread(descriptor, held, start)
            if header.kind == LONG_NAME:
                name = data.rstrip(b"\0")
            elif header.kind == PAX:
                records = _pax(data, where)
                name = records.get(b"path", name)
                size = _count(records[b"size"], where) if b"size" in records else size
            continue
        if header.kind in FILE:
            yield Member(_safe(name or header.name, where), start, held)
        elif header.kind != FOLDER:
            shown = (name or header.name).decode(errors="replace")
            kind = REFUSED.get(header.kind, f"of type {header.kind!r}")
            raise DataError(f"'{shown}' is {kind}, no regular file", where=where)
        name = size = None


def parse(block: bytes) -> Header | None:
    """A header block taken apart; None where its checksum is wrong or it is none."""
    try:
        checksum = int(block[148:156].strip(b" \0") or b"0", 8)
        binary = block[124:125] == b"\x80"
        size = int.from_bytes(block[125:136], "big") if binary else int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if len(block) < BLOCK or size < 0 or sum(block) - sum(block[148:156]) + 8 * ord(" ") != checksum:
        return None
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return Header(name, block[156:157], size)


def _check_beginning(block: bytes, where: str) -> None:
    if not block:
        raise DataError("is empty", where=where)
    for magic, name in COMPRESSED.items():
        if block.startswith(magic):
            raise DataError(f"is compressed with {name}", where=where, next="unpack it to a plain .tar")


def _pax(data: bytes, where: str) -> dict[bytes, bytes]:
    """Records `<length> <keyword>=<value>\\n`."""
    records, place, end = {}, 0, len(data.rstrip(b"\0"))
    while place < end:
        digits = data[place : place + 20].partition(b" ")[0]
        stop = place + _count(digits, where)
        keyword, equals, value = data[place + len(digits) + 1 : stop].partition(b"=")
        if stop > end or not equals or not value.endswith(b"\n"):
            raise DataError("has a damaged pax header", where=where)
        if keyword.startswith(b"GNU.sparse"):
            raise DataError("holds a sparse file, no regular file", where=where)
        records[keyword], place = value[:-1], stop
    return records


def _count(digits: bytes, where: str) -> int:
    if not (digits.isdigit() and len(digits) < 20):
        raise DataError(f"has a damaged pax header: {digits[:20]!r} is no number", where=where)
    return int(digits)


def _safe(raw: bytes, where: str) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise DataError(f"has a file name that is not UTF-8: {raw[:80]!r}", where=where) from None
    name = name.removeprefix("./")
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"'{name}' is no name within a folder", where=where)
    return name
