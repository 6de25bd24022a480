"""Blocks of a few rows, so that a small cache has several."""

import pytest

from mmkd.engine.cache import layout


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ROWS", 8)
