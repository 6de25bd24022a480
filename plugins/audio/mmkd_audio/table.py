"""Tables of texts and file names: CSV and JSONL, one entry at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkd.errors import DataError

SUFFIXES = (".csv", ".jsonl")


def entries(table: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Entries of a table, each with its place (`captions.csv:3`).

    Raises:
        DataError: there is no such table, it is not UTF-8, or an entry cannot be read.
    """
    if table.suffix not in SUFFIXES or not table.is_file():
        raise DataError("is no table that is there", where=str(table), exists=SUFFIXES)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for line, entry in (_csv if table.suffix == ".csv" else _jsonl)(file, table):
                yield f"{table}:{line}", entry
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot be read: {error}", where=str(table), next="save the table as UTF-8") from error


def _csv(file: Iterator[str], table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(file)
    try:
        for entry in reader:
            if None in entry or None in entry.values():
                raise DataError("has not as many cells as the header", where=f"{table}:{reader.line_num}")
            yield reader.line_num, entry
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}", where=f"{table}:{reader.line_num + 1}") from error


def _jsonl(file: Iterator[str], table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(file, 1):
        if text.strip():
            try:
                entry = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"is not JSON: {error}", where=f"{table}:{line}") from error
            if not isinstance(entry, dict):
                raise DataError(f"is {type(entry).__name__}, not an object", where=f"{table}:{line}")
            yield line, entry
