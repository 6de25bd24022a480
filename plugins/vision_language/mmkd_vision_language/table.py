"""Tables of captions: where the one of a folder lies."""

from __future__ import annotations

from pathlib import Path

from mmkd.errors import DataError

SUFFIXES = (".csv", ".jsonl", ".parquet")
NAMES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in SUFFIXES)


def find_table(path: Path) -> Path:
    """The table that a path names, or the first of `NAMES` in the folder that it names.

    Raises:
        DataError: it names no table, or the folder has none.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError("is no table", where=str(path), exists=SUFFIXES)
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise DataError(
        "has no table of captions", where=str(path), exists=NAMES, next="captions: false takes the pictures alone"
    )
