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
    registry.encoder("transformers", f"{home}.transformers:DualEncoder", paper="CLIP, SigLIP")
    registry.encoder("dual_tower", f"{home}.dual_tower:DualTower", paper="CLIP", url="https://arxiv.org/abs/2103.00020")
    registry.dataset("emoji", f"{home}.emoji_dataset:EmojiDataset")
    registry.dataset("image_text", f"{home}.image_text:ImageTextDataset")
    registry.dataset("webdataset", f"{home}.webdataset:WebDataset", url="https://github.com/webdataset/webdataset")
    registry.dataset("class_prompts", f"{home}.class_prompts:ClassPrompts")
    registry.metric("zero_shot", f"{home}.zero_shot:ZeroShot", paper="CLIP", url="https://arxiv.org/abs/2103.00020")
    registry.recipe("clip_kd", f"{home}:recipes/clip_kd.yaml", paper="CLIP-KD", url="https://arxiv.org/abs/2307.12732")
    registry.recipe("emoji", f"{home}:recipes/emoji.yaml")
    registry.recipe("emoji_two_teachers", f"{home}:recipes/emoji_two_teachers.yaml")
    registry.recipe("emoji_composed", f"{home}:recipes/emoji_composed.yaml")


@mmkd.hookimpl
def mmkd_cli(app: typer.Typer) -> None:
    from mmkd_vision_language.search import search

    app.command()(search)
