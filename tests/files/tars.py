"""Archives for the tests, and samples whose medium is a note."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd.errors import DataError
from mmkd.files import Medium, WebSamples

SHARDS, PER_SHARD = 3, 10
"""Of the fixture `pattern`."""


def tar(*files: tuple[str, bytes], format: int = tarfile.USTAR_FORMAT, **info: Any) -> bytes:
    """A tar of some files; `info` changes what the header of the last one says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for i, (name, data) in enumerate(files):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if i == len(files) - 1:
                for field, value in info.items():
                    setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return stream.getvalue()


def write(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar(*files.items()))
    return path


def read_note(data: bytes, where: str) -> str:
    if data.startswith(b"\xff"):
        raise DataError("is illegible", where=where)
    return data.decode()


NOTE = Medium("note", "note", ("memo", "note"), read_note)


def notes(shards: str | Path | list[str], **options: Any) -> WebSamples:
    return WebSamples(NOTE, shards if isinstance(shards, list) else str(shards), **options)
