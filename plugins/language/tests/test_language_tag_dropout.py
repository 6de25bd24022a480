"""Tags are left out by the draw alone; the title never is."""

from __future__ import annotations

import numpy as np
import pytest
from mmkd_language.tag_dropout import TagDropout

SAMPLE = {"key": "x", "text": "cat: face, pet, animal", "label": 1}


def test_rate_zero_is_the_identity_and_rate_one_leaves_the_title() -> None:
    draw = TagDropout().draw(np.random.default_rng(0))
    assert TagDropout(0.0).apply(SAMPLE, draw) == SAMPLE
    assert TagDropout(1.0).apply(SAMPLE, draw)["text"] == "cat"


@pytest.mark.parametrize("text", ["cat", ""])
def test_captions_without_tags_stay(text: str) -> None:
    curator = TagDropout(0.5)
    assert curator.apply({"text": text}, curator.draw(np.random.default_rng(0)))["text"] == text


def test_the_share_kept_is_one_minus_the_rate_and_the_order_stays() -> None:
    curator, generator = TagDropout(0.3), np.random.default_rng(0)
    tags = [f"t{i}" for i in range(50)]
    kept = []
    for _ in range(200):
        _, _, rest = curator.apply({"text": "x: " + ", ".join(tags)}, curator.draw(generator))["text"].partition(": ")
        found = rest.split(", ")
        assert found == [t for t in tags if t in set(found)]
        kept.append(len(found))
    assert np.mean(kept) / 50 == pytest.approx(0.7, abs=0.02)
