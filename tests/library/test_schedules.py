from __future__ import annotations

import math
from typing import Any

import pytest

from mmkd.errors import RecipeError
from mmkd.library.schedules.cosine import CosineSchedule
from mmkd.library.schedules.linear import LinearSchedule

BOTH = pytest.mark.parametrize("cls", [LinearSchedule, CosineSchedule])


@BOTH
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.1), (0.0, 4.0)])
def test_goes_from_start_to_end_without_turning_back(cls: Any, start: float, end: float) -> None:
    path = [cls(start, end)(step, 100) for step in range(120)]
    assert path[0] == start
    assert path[100:] == [end] * 20
    assert path[50] == pytest.approx((start + end) / 2)
    assert path == sorted(path, reverse=start > end)


@BOTH
def test_holds_outside_its_window(cls: Any) -> None:
    schedule = cls(1.0, 0.0, begin=0.2, until=0.6)
    assert [schedule(step, 100) for step in (0, 10, 20)] == [1.0] * 3
    assert schedule(40, 100) == pytest.approx(0.5)
    assert [schedule(step, 100) for step in (60, 80, 100, 101)] == [0.0] * 4


@BOTH
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_empty_window_is_a_jump(cls: Any, at: float) -> None:
    path = [cls(1.0, 0.0, begin=at, until=at)(step, 10) for step in range(11)]
    assert path == [1.0 if step < 10 * at else 0.0 for step in range(11)]


def test_quarter_way() -> None:
    assert LinearSchedule(0.0, 1.0)(25, 100) == pytest.approx(0.25)
    assert CosineSchedule(0.0, 1.0)(25, 100) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)


@BOTH
def test_one_step_and_none(cls: Any) -> None:
    schedule = cls(1.0, 0.0)
    assert schedule(0, 1) == 1.0
    assert schedule(1, 1) == 0.0
    assert schedule(0, 0) == 0.0


@BOTH
@pytest.mark.parametrize(("begin", "until"), [(0.6, 0.4), (-0.1, 1.0), (0.0, 1.1)])
def test_window_must_be_one(cls: Any, begin: float, until: float) -> None:
    with pytest.raises(RecipeError, match="begin <= until"):
        cls(1.0, 0.0, begin=begin, until=until)
