"""Every form of model that open_clip builds, tiny and offline."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from mmkd_vision_language.emoji_dataset import EmojiDataset
from mmkd_vision_language.open_clip import OpenCLIPEncoder
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import mmkd
from mmkd.errors import MmkdError

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "cat", "face", "smile"]
VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
TEXT: dict[str, Any] = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
OWN = {"vocab_size": len(WORDS), "hf_tokenizer_name": "org/words", "tokenizer_kwargs": {"clean": "canonicalize"}}
SIGLIP = {**TEXT, **OWN, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
POOLED = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
MODELS: dict[str, Any] = {
    "clip": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 8, "text_cfg": TEXT,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None},
    },
    "custom": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True},
    "siglip": {"embed_dim": 64, "vision_cfg": TIMM, "text_cfg": SIGLIP, "custom_text": True, "init_logit_bias": -10},
    "convnext": {
        "embed_dim": 8, "text_cfg": TEXT,
        "vision_cfg": {**TIMM, "timm_model_name": "test_convnext", "timm_pool": "avg"},
    },
    "bert": {
        "embed_dim": 8, "vision_cfg": VISION, "custom_text": True,
        "text_cfg": {"hf_model_name": "", "hf_tokenizer_name": "org/words", "hf_pooler_type": "mean_pooler",
                     "hf_proj_type": "linear", "context_length": 12, "vocab_size": len(WORDS)},
    },
    "coca": {
        "embed_dim": 16, "vision_cfg": POOLED, "custom_text": True,
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    },
}  # fmt: skip
STATES = {"resnet": (5, 4), "siglip": (7, 4), "convnext": (5, 4), "bert": (3, 3)}
"""Hidden values of image and text, where they are not those of `clip`."""
EMOJI = EmojiDataset(split="held_out")
SAMPLES = [EMOJI[i] for i in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models in the layout of `local-dir:`, tokenizers of their own beside them."""
    root = tmp_path_factory.mktemp("open_clip")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertConfig(**size, vocab_size=len(WORDS)).save_pretrained(root / "tower")
    MODELS["bert"]["text_cfg"]["hf_model_name"] = str(root / "tower")
    for name, config in MODELS.items():
        folder = root / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        open_clip.add_model_config(_file(root, name, config))
        torch.manual_seed(0)
        model = open_clip.create_model(f"tiny-{name}", pretrained_text=False)
        state = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        if "hf_tokenizer_name" in config["text_cfg"]:
            words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
            words.pre_tokenizer = pre_tokenizers.Whitespace()
            marks = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
            transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    return {name: root / name for name in MODELS}


def _file(root: Path, name: str, config: Any) -> Path:
    path = root / f"tiny-{name}.json"
    path.write_text(json.dumps(config))
    return path


def load(folders: dict[str, Path], name: str) -> OpenCLIPEncoder:
    return OpenCLIPEncoder(f"local-dir:{folders[name]}").eval()


def read(encoder: OpenCLIPEncoder, names: list[str]) -> dict[str, torch.Tensor]:
    """What the host reads."""
    value = "student.text.embedding"
    recipe = {"student": {}, "losses": {"a": {"use": "core.mse", "student": value, "teacher": f"detach({value})"}}}
    example = encoder.collate([encoder.transform(sample) for sample in SAMPLES])
    graph = mmkd.build(recipe, nodes={"student": encoder}, example={"student": example}).eval()
    addresses = [f"student.{name}" for name in names]
    values = graph.values(graph.collate(SAMPLES, addresses), addresses)
    return {name.removeprefix("student."): value.detach() for name, value in values.items()}


@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_open_clip(folders: dict[str, Path], name: str) -> None:
    encoder = load(folders, name)
    values = read(encoder, encoder.values())
    model = open_clip.create_model(f"local-dir:{folders[name]}").eval()
    tokenize, config = open_clip.get_tokenizer(f"local-dir:{folders[name]}"), model.visual.preprocess_cfg
    pages = [Image.alpha_composite(Image.new("RGBA", s["image"].size, "white"), s["image"]) for s in SAMPLES]
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    images = torch.stack([transform(page.convert("RGB")) for page in pages])
    texts = tokenize([sample["text"] for sample in SAMPLES])
    with torch.no_grad():
        torch.testing.assert_close(values["image.embedding"], model.encode_image(images, normalize=True))
        torch.testing.assert_close(values["text.embedding"], model.encode_text(texts, normalize=True))
        if name == "coca":
            torch.testing.assert_close(values["logits"], model(images, texts)["logits"])
            assert values["logits"].shape == (3, 11, 49408)
        if name not in ("resnet", "convnext", "bert"):
            middle = model.forward_intermediates(image=images, text=texts, image_output_fmt="NLC",
                                                 image_output_extra_tokens=True)  # fmt: skip
            for i, state in enumerate(middle["image_intermediates"], 1):
                torch.testing.assert_close(values[f"image.hidden.{i}"][:, 1:], state)
            for i, state in enumerate(middle["text_intermediates"], 1):
                torch.testing.assert_close(values[f"text.hidden.{i}"][:, : state.shape[1]], state)
    states = [[v for v in values if v.startswith(f"{side}.hidden")] for side in ("image", "text")]
    assert tuple(map(len, states)) == STATES.get(name, (3, 4))


def test_tokens_lie_after_the_final_norm(folders: dict[str, Path]) -> None:
    clip: Any = load(folders, "clip")
    values = read(clip, ["image.tokens", "image.hidden.-1", "text.tokens", "text.hidden.-1", "logit_scale"])
    with torch.no_grad():
        torch.testing.assert_close(values["image.tokens"], clip.network.visual.ln_post(values["image.hidden.-1"]))
        torch.testing.assert_close(values["text.tokens"], clip.network.ln_final(values["text.hidden.-1"]))
        trunk = load(folders, "siglip").network.visual.trunk  # type: ignore[union-attr]
    values = read(load(folders, "siglip"), ["image.tokens", "image.hidden.-1"])
    torch.testing.assert_close(values["image.tokens"], trunk.norm(values["image.hidden.-1"]).detach())  # type: ignore
    assert "image.tokens" not in load(folders, "coca").values()  # it pools first
    assert read(load(folders, "bert"), ["text.tokens"])["text.tokens"].shape == (3, 12, 16)


def test_convolutional_towers_give_maps(folders: dict[str, Path]) -> None:
    values = read(load(folders, "resnet"), ["image.hidden.0", "image.hidden.4"])
    assert values["image.hidden.0"].shape == (3, 8, 8, 8) and values["image.hidden.4"].shape == (3, 256, 1, 1)
    assert read(load(folders, "convnext"), ["image.hidden.4"])["image.hidden.4"].shape[2:] == (5, 5)


def test_a_model_brings_its_own_tokenizer(folders: dict[str, Path]) -> None:
    encoder = load(folders, "siglip")
    assert encoder.vocabulary() == {word: i for i, word in enumerate(WORDS)}
    assert encoder.transform({"text": "A cat!"})["text"].tolist() == [4, 5, *[0] * 10]  # canonical, then padded
    usual = load(folders, "clip")
    assert len(usual.vocabulary() or ()) == 49408
    assert usual.transform({"text": "a cat"})["text"][0] == (usual.vocabulary() or {})["<start_of_text>"]


def test_a_tokenizer_out_of_reach_is_missed_only_by_texts(folders: dict[str, Path], monkeypatch: Any) -> None:
    def offline(self: Any, name: str, *args: Any, **options: Any) -> None:
        raise OSError(f"cannot reach the hub for {name}")

    monkeypatch.setattr(open_clip.tokenizer.HFTokenizer, "__init__", offline)
    encoder = OpenCLIPEncoder("tiny-siglip").eval()
    assert encoder.transform({"image": SAMPLES[0]["image"]})["image"].shape == (3, 160, 160)
    with pytest.raises(MmkdError, match=r"tokenizer of 'tiny-siglip' .* cannot reach the hub for org/words"):
        encoder.transform({"text": "a cat"})
