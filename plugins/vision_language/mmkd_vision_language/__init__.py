"""Plugin `vision_language`: image-text encoders, captioned pictures, and search with words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mmkd

if TYPE_CHECKING:
    import typer


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    home = "mmkd_vision_language"
    registry.encoder("open_clip", f"{home}.open_clip:OpenCLIPEncoder", url="https://github.com/mlfoundations/open_clip")
    registry.encoder("dual_tower", f"{home}.dual_tower:DualTower", paper="CLIP", url="https://arxiv.org/abs/2103.00020")
    registry.dataset("emoji", f"{home}.emoji_dataset:EmojiDataset")
    registry.dataset("image_text", f"{home}.image_text:ImageTextDataset")
    registry.recipe("emoji", f"{home}:recipes/emoji.yaml")


@mmkd.hookimpl
def mmkd_cli(app: typer.Typer) -> None:
    from mmkd_vision_language.search import search

    app.command()(search)
