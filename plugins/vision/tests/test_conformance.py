"""The plugin, by the kit that strangers use."""

from pathlib import Path
from typing import Any

from PIL import Image

from mmkd.testing import check_plugin

CASES: dict[str, Any] = {
    "encoder.convnet": [{}, {"options": {"dim": 5, "num_classes": 3}}],
    "encoder.timm": [
        {"options": {"model": "resnet10t", "image_size": 32, "num_classes": 5}},
        {"options": {"model": "vit_tiny_patch16_224", "image_size": 32}},
    ],
}


def test_plugin(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/1", "cat/2", "dog/3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6 + i, 5), (40 * i, 0, 90)).save(tmp_path / f"{name}.png")
    check_plugin("vision", {**CASES, "dataset.image_folder": {"options": {"path": str(tmp_path)}}})
