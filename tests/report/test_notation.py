from __future__ import annotations

import pytest

from mmkd.report.notation import count, counted, some


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_412, "9,412"),
        (12_345, "12.3 k"),
        (150_200, "150 k"),
        (999_999, "1.00 M"),
        (86_567_656, "86.6 M"),
        (1_240_000_000, "1.24 G"),
    ],
)
def test_count(number: int, text: str) -> None:
    assert count(number) == text


def test_nouns_and_lists() -> None:
    assert [counted(1, "loss"), counted(2, "loss"), counted(0, "phase")] == ["1 loss", "2 losses", "0 phases"]
    assert some(["a", "b"], 2) == "a, b"
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
