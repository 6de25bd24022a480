"""Tables of texts and file names: CSV and JSONL, one entry at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkd.errors import DataError

SUFFIXES = (".csv", ".jsonl")

Entry = Mapping[str, Any]
"""A line of a table by column: text in CSV, any JSON in JSONL."""


def entries(table: Path) -> Iterator[tuple[str, Entry]]:
    """Entries of a CSV or JSONL table, each with its place (`captions.csv:3`).

    Raises:
        DataError: there is no such table, it is not UTF-8, or an entry cannot be read; names file and line.
    """
    if table.suffix not in SUFFIXES or not table.is_file():
        raise DataError("is no table that is there", where=str(table), exists=SUFFIXES)
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
            place = f"{table}:{reader.line_num}"
            if None in entry:
                raise DataError("has more cells than the header", where=place)
            if (empty := next((column for column, cell in entry.items() if cell is None), None)) is not None:
                raise DataError(f"column '{empty}' is empty: the line has fewer cells than the header", where=place)
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
