"""CSV and JSONL, one entry at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmkd.errors import DataError
from mmkd.files import entries

GOOD: dict[str, tuple[str, bytes, list[tuple[int, Any]]]] = {
    "csv": ("t.csv", b"a,b\n1,x\n2,\n", [(2, {"a": "1", "b": "x"}), (3, {"a": "2", "b": ""})]),
    "byte-order mark": ("t.csv", b"\xef\xbb\xbfa\r\nred\r\n", [(2, {"a": "red"})]),
    "line end in a cell": ("t.csv", b'a\n"two\r\nlines"\n', [(3, {"a": "two\r\nlines"})]),
    "empty lines": ("t.csv", b"a\n\nred\n", [(3, {"a": "red"})]),
    "jsonl": ("t.jsonl", b'{"a": 1}\n\n{"b": [null]}\n', [(1, {"a": 1}), (3, {"b": [None]})]),
    "nothing": ("t.csv", b"", []),
}


@pytest.mark.parametrize("case", GOOD)
def test_entries_with_their_lines(case: str, tmp_path: Path) -> None:
    name, data, expected = GOOD[case]
    (tmp_path / name).write_bytes(data)
    assert list(entries(tmp_path / name)) == [(f"{tmp_path / name}:{line}", entry) for line, entry in expected]


BAD = {
    "utf-16": ("t.csv", "a\nred\n".encode("utf-16"), r"t.csv: cannot be read: 'utf-8' codec[^$]*save the table as UTF-8"),
    "long line": ("t.csv", b"a,b\n1,2,3\n", r"t.csv:2: has more cells than the header"),
    "short line": ("t.csv", b"a,b\n1,2\n3\n", r"t.csv:3: column 'b' is empty: the line has fewer cells than the header"),
    "NUL in a cell": ("t.csv", b"a\nr\0d\n", r"t.csv:2: (holds a NUL|is not CSV: line contains NUL)"),
    "NUL in JSON": ("t.jsonl", b'{"a": "\\u0000"}', r"t.jsonl:1: holds a NUL character"),
    "endless cell": ("t.csv", b"a\n" + b"x" * 200_000, r"t.csv:2: is not CSV: field larger than"),
    "broken JSON": ("t.jsonl", b'{"a": 1}\n{"a":\n', r"t.jsonl:2: is not JSON"),
    "list for an object": ("t.jsonl", b"[1]\n", r"t.jsonl:1: is list, not an object"),
    "deep nesting": ("t.jsonl", b"[" * 200_000, r"t.jsonl:1: is not JSON"),
    "another suffix": ("t.tsv", b"a\nred\n", r"t.tsv: is no table that is there\n  there is: .csv, .jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_errors_that_name_the_line(case: str, tmp_path: Path) -> None:
    name, data, message = BAD[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(entries(tmp_path / name))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t.csv: is no table that is there"):
        list(entries(tmp_path / "t.csv"))


def test_import_is_light() -> None:
    code = "import sys, mmkd.files; sys.exit(bool({'torch', 'pydantic', 'PIL', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
