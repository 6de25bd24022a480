"""Strict, safe YAML."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mmkd import yaml
from mmkd.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("20_000", 20_000),
        ("0x10", 16),
        ("012", 12),
        ("true", True),
        ("null", None),
        ("~", None),
        ("on", "on"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-3'", "1e-3"),
        ("hf-hub:a/b", "hf-hub:a/b"),
        ("{a: [1, x.y], b: {}}", {"a": [1, "x.y"], "b": {}}),
    ],
)
def test_values_mean_what_they_look_like(text: str, value: Any) -> None:
    read = yaml.parse(text, "here")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        "1e-3", "1e5", "yes", "no", "null", "~", "", "012", "0x10", "1_000", "12:30", "2024-01-01", "<<", "a: b", "# c",
        ".5", "ünïcode", "two\nlines", " padded ", "true", 1e-3, 1e-10, 1e300, 5.0, -3, True, False, None, [], {},
    ],
)  # fmt: skip
def test_what_is_dumped_reads_back(value: Any) -> None:
    data = {"key": value, "list": [value, [value]], "map": {"a": value}}
    read = yaml.parse(yaml.dump(data), "here")
    assert read == data
    assert type(read["key"]) is type(value)


def test_dump_is_block_style_in_the_order_given_without_aliases() -> None:
    shared = {"use": "a.b"}
    assert yaml.dump({"z": shared, "a": [shared, 1]}) == "z:\n  use: a.b\na:\n- use: a.b\n- 1\n"


def test_anchors_and_merge_keys_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n"
    assert yaml.parse(text, "here") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' is given twice, first in line 1"),
        ("x:\n  a: {b: 1,\n      b: 2}\n", 3, "key 'b' is given twice"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "cannot run code"),
        ("a: !!python/name:os.system\n", 1, "cannot run code"),
        ("a: !mine 1\n", 1, "'!mine' is refused"),
        ("a: !!binary aGk=\n", 1, "'!!binary' is refused"),
        ("a: 1\nb: &b [*b]\n", 2, "contains itself"),
        ("a: &a {x: {<<: *a}}\n", 1, "contains itself"),
        (BOMB, 5, "more than 100000 values"),
        (MERGE_BOMB, 6, "more than 100000 values"),
        ("a: " + "[" * 40 + "]" * 40, 1, "deeper than 32 levels"),
        ("a: " + "[" * 100_000, 1, "deeper than 32 levels"),
        ("a: 1\n\tb: 2\n", 2, "a tab cannot indent"),
        ("a:\n\tb: 2\n", 2, "a tab cannot indent"),
        ("a: [1, 2\nb: 3\n", 2, "flow sequence"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "document"),
        ("1: a\n", 1, "key '1' is not text"),
        ("null: a\n", 1, "key 'null' is not text"),
        ("[a]: b\n", 1, "key is not text"),
        ("a: !!int x\n", None, "cannot be read"),
        ("a: " + "9" * 5000, None, "cannot be read"),
        ("a: \x00\n", None, "not text"),
    ],
)
def test_bad_text_is_one_error_with_its_line(text: str, line: int | None, what: str) -> None:
    began = time.perf_counter()
    with pytest.raises(RecipeError) as caught:
        yaml.parse(text, "r.yaml")
    assert time.perf_counter() - began < 2
    assert what in caught.value.what
    assert caught.value.where == (f"r.yaml:{line}" if line else "r.yaml")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n\x00", "not UTF-8"),
        (b"GIF89a\x01\x00", "not text"),
        (b"a: " + b"x" * yaml.MAX_BYTES, "larger than"),
    ],
)
def test_files_that_are_no_yaml(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=what) as caught:
        yaml.read(path)
    assert caught.value.where == str(path)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "emoji.yaml").write_text("a: 1")
    with pytest.raises(RecipeError, match="no such file") as caught:
        yaml.read(tmp_path / "emojis.yaml")
    assert caught.value.nearest == str(tmp_path / "emoji.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        yaml.read(tmp_path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yaml.read(path) == {"a": 1}
