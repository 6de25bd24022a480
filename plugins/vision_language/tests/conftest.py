"""Tar shards for the tests."""

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

WriteTar = Callable[..., Path]
CACHES = tempfile.TemporaryDirectory(prefix="mmkd-tests-")  # the user's own are left alone
os.environ["MMKD_CACHE"] = CACHES.name


@pytest.fixture
def write_tar() -> WriteTar:
    """Writes files by name, or ready `TarInfo`s without content, into a plain tar."""

    def write(
        path: Path, files: Mapping[str, bytes] | None = None, extra: tuple[tarfile.TarInfo, ...] = (), mode: str = "w"
    ) -> Path:
        with tarfile.open(path, mode) as tar:
            for name, data in (files or {}).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for info in extra:
                tar.addfile(info)
        return path

    return write


@pytest.fixture
def png() -> bytes:
    return encoded("red")


def encoded(colour: str | int, size: tuple[int, int] = (6, 4)) -> bytes:
    """A PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()
