"""The plugin, by the kit that strangers use."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmkd.testing import check_plugin

from .conftest import WriteTar, encoded

CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "face", "cat", "heart", "with", "grinning"]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CLASSES = [f"class {i}" for i in range(200)]
DUAL = transformers.CLIPConfig(
    text_config={
        **SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    },
    vision_config={**SIZE, "patch_size": 16, "image_size": 32},
    projection_dim=8,
)  # fmt: skip


def tiny_open_clip(folder: Path) -> str:
    folder.mkdir()
    model = open_clip.CLIP(**CLIP)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def tiny_transformers(folder: Path) -> str:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    size: dict[str, Any] = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    transformers.CLIPModel(DUAL).save_pretrained(folder)
    return str(folder)


@pytest.mark.usefixtures("tmp_path")
def test_plugin(tmp_path: Path, write_tar: WriteTar) -> None:
    torch.manual_seed(0)
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("image,text\na.png,red\na.png,a red page\n")
    files = {f"{i}.{kind}": data for i in range(3) for kind, data in (("png", encoded("red")), ("txt", b"red"))}
    towers = {
        "image": {"use": "vision.convnet", "widths": [8, 8]},
        "text": {"use": "language.transformer", "dim": 16, "layers": 1},
    }
    cases: dict[str, Any] = {
        "encoder.open_clip": {"options": {"model": tiny_open_clip(tmp_path / "clip")}},
        "encoder.transformers": {"options": {"pretrained": tiny_transformers(tmp_path / "dual")}},
        "encoder.dual_tower": [{"options": towers}, {"options": {**towers, "dim": 6}}],
        "dataset.image_text": {"options": {"path": str(tmp_path / "captions.csv")}},
        "dataset.webdataset": {"options": {"shards": str(write_tar(tmp_path / "shard.tar", files))}},
        "dataset.class_prompts": {
            "options": {"dataset": {"use": "vision_language.emoji", "split": "fit"}, "classes": CLASSES}
        },
    }
    check_plugin("vision_language", cases)
