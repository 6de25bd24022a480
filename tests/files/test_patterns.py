"""Names of shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkd.errors import DataError
from mmkd.files.patterns import expand, find_shards


def test_patterns(folder: Path, pattern: str) -> None:
    names = [f"pad-{i:03}.tar" for i in range(3)]
    assert [p.name for p in find_shards(pattern)] == names
    assert [p.name for p in find_shards(str(folder / "*.tar"))] == names
    assert [p.name for p in find_shards([str(folder / names[2]), str(folder / "pad-{001,000}.tar")])] == names[::-1]
    assert expand("{a,b}/{8..10}") == ["a/8", "a/9", "a/10", "b/8", "b/9", "b/10"]
    assert expand("{08..10}") == ["08", "09", "10"]


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("pad-{000..003}.tar", "pad-003.tar: does not exist"),
        ("blue-*.tar", "matches no file"),
        (["pad-000.tar", "pad-*.tar"], "pad-000.tar: is named twice"),
        ("{pad-000.tar", "do not pair up"),
        ("{0..999999999}.tar", "more than 100,000 shards"),
        ("{0..999}{0..999}.tar", "more than 100,000 shards"),
        ("{5..3}.tar", "counts down"),
        ("https://example.org/a.tar", "local files"),
        ("pipe:cat pad-000.tar", "local files"),
        (".", "is no file"),
        ([], "no shards"),
    ],
)
def test_pattern_errors(folder: Path, shards: str | list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=message):
        find_shards(shards)
