"""Finds the pictures in a folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from mmkd.errors import DataError
from mmkd_vision.picture import SUFFIXES


def pictures(folder: Path) -> list[str]:
    """Paths of all pictures in a folder and below, relative to it with `/`, sorted.

    A picture is told by its suffix. Names that begin with a dot are left out. Links are followed.

    Raises:
        DataError: there is no such folder, a link leads nowhere or back to a folder above it, or a name is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError("is no folder" if folder.exists() else "does not exist", where=str(folder))
    found = []
    pending = [(str(folder), frozenset({os.path.realpath(folder)}))]
    while pending:
        directory, above = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                    real = os.path.realpath(entry.path)
                    if real in above:
                        raise DataError("is a link to a folder that it lies in", where=entry.path)
                    pending.append((entry.path, above | {real}))
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    found.append(_checked(entry))
    return sorted(PurePath(path).relative_to(folder).as_posix() for path in found)


def _checked(entry: os.DirEntry[str]) -> str:
    if not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
        raise DataError("is a link to nothing" if entry.is_symlink() else "is no file", where=entry.path)
    if any("\ud800" <= character <= "\udfff" for character in entry.name):
        raise DataError("has a name that is not UTF-8", where=repr(entry.path), next="rename it")
    return entry.path
