"""Every broken component is caught, by the probe that is about its fault; sound ones are left alone."""

from __future__ import annotations

from typing import Any

import pytest
from testing import broken

from mmkd.testing import ConformanceError


@pytest.mark.parametrize(
    ("check", "cls", "probe", "said"),
    broken.CASES,
    ids=[f"{cls.__name__}-{probe}" for _, cls, probe, _ in broken.CASES],
)
def test_caught(check: Any, cls: type, probe: str, said: dict[str, Any]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check(cls, **said)
    assert probe in [failure.probe for failure in caught.value.failures]
    assert cls.__name__ in str(caught.value)


@pytest.mark.parametrize(("check", "cls"), broken.SOUND, ids=lambda value: getattr(value, "__name__", ""))
def test_no_false_alarm(check: Any, cls: type) -> None:
    assert len(check(cls)) > 8


def test_most_mutants_fail_for_one_reason() -> None:
    counts = []
    for check, cls, _, said in broken.CASES:
        with pytest.raises(ConformanceError) as caught:
            check(cls, **said)
        counts.append(len(caught.value.failures))
    assert sum(count <= 2 for count in counts) > 0.7 * len(counts)
