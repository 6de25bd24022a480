"""Tables of captions: CSV, JSONL and Parquet, one entry at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkd.errors import DataError

SUFFIXES = (".csv", ".jsonl", ".parquet")
NAMES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in SUFFIXES)

Entry = Mapping[str, Any]


def find_table(path: Path) -> Path:
    """The table that a path names, or the first of `NAMES` in the folder that it names."""
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


def entries(table: Path) -> Iterator[tuple[str, Entry]]:
    """Entries of a CSV or JSONL table, each with its place (`captions.csv:3`).

    Raises:
        DataError: the table is not UTF-8, or an entry cannot be read.
    """
    lines = _csv if table.suffix == ".csv" else _jsonl
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for line, entry in lines(file, table):
                place = f"{table}:{line}"
                if any(isinstance(value, str) and "\0" in value for value in entry.values()):
                    raise DataError("holds a NUL character", where=place, next="save the table as UTF-8")
                yield place, entry
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot be read: {error}", where=str(table), next="save the table as UTF-8") from error


def _csv(file: Iterator[str], table: Path) -> Iterator[tuple[int, Entry]]:
    reader = csv.DictReader(file)
    try:
        for entry in reader:
            if None in entry:
                raise DataError("has more cells than the header", where=f"{table}:{reader.line_num}")
            yield reader.line_num, entry
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}", where=f"{table}:{reader.line_num + 1}") from error


def _jsonl(file: Iterator[str], table: Path) -> Iterator[tuple[int, Entry]]:
    for line, text in enumerate(file, 1):
        if text.strip():
            try:
                entry = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"is not JSON: {error}", where=f"{table}:{line}") from error
            if not isinstance(entry, dict):
                raise DataError(f"is {type(entry).__name__}, not an object", where=f"{table}:{line}")
            yield line, entry
