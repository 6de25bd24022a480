"""Image-text networks of transformers, offline: tiny random ones of several families in folders of the test's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mmkd_vision_language.emoji_dataset import EmojiDataset
from mmkd_vision_language.transformers import DualEncoder
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import mmkd
from mmkd.errors import DataError, GraphError, MmkdError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "face", "cat", "heart", "with", "sad", ":", ",", "grinning", "eyes"]
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT |= {"vocab_size": len(WORDS), "max_position_embeddings": 12}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 16,
}
SQUARE = {**VISION, "image_size": 32}
BLIP = transformers.BlipConfig(
    text_config={**TEXT, "encoder_hidden_size": 16, "projection_dim": 8}, vision_config=SQUARE, projection_dim=8,
    image_text_hidden_size=8,
)  # fmt: skip
EFFICIENT = {
    "image_size": 32, "hidden_dim": 16, "in_channels": [32, 16], "out_channels": [16, 16], "kernel_sizes": [3, 3],
    "depthwise_padding": [], "strides": [1, 2], "num_block_repeats": [1, 1], "expand_ratios": [1, 6],
}  # fmt: skip
CUT: dict[str, Any] = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
WHOLE: dict[str, Any] = {"size": {"height": 32, "width": 32}}
T = transformers
FAMILIES: dict[str, tuple[Any, Any]] = {
    "clip": (
        T.CLIPConfig(text_config={**TEXT, **MARKS}, vision_config=SQUARE, projection_dim=8),
        T.CLIPImageProcessor(**CUT),
    ),
    "siglip": (T.SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=SQUARE),
               T.SiglipImageProcessor(**WHOLE)),
    "siglip2": (T.Siglip2Config(text_config={**TEXT, "projection_size": 16},
                                vision_config={**VISION, "num_patches": 16}),
                T.Siglip2ImageProcessor(patch_size=16, max_num_patches=9)),
    "blip": (BLIP, T.BlipImageProcessor(**WHOLE)),
    "chinese_clip": (T.ChineseCLIPConfig(text_config=TEXT, vision_config=SQUARE, projection_dim=8),
                     T.ChineseCLIPImageProcessor(**CUT)),
    "align": (T.AlignConfig(text_config=TEXT, vision_config=EFFICIENT, projection_dim=16),
              T.EfficientNetImageProcessor(**CUT)),
}  # fmt: skip
EMOJI = EmojiDataset(split="held_out")
SAMPLES = [EMOJI[i] for i in range(3)]


def save(network: Any, processor: Any, folder: Path) -> str:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    T.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    processor.save_pretrained(folder)
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("duals")
    torch.manual_seed(0)
    return {
        name: save(T.AutoModel.from_config(config), processor, root / name)
        for name, (config, processor) in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def clip(folders: dict[str, str]) -> DualEncoder:
    return DualEncoder(folders["clip"]).eval()


def batch(encoder: DualEncoder) -> dict[str, Any]:
    return encoder.collate([encoder.transform(sample) for sample in SAMPLES])


def graph(encoder: DualEncoder, *names: str) -> mmkd.TrainingGraph:
    losses = {
        f"loss{i}": {"use": "core.mse", "student": f"student.{name}", "teacher": f"detach(student.{name})"}
        for i, name in enumerate(names)
    }
    example = {"student": batch(encoder)}
    return mmkd.build({"student": {}, "losses": losses}, nodes={"student": encoder}, example=example)


def read(encoder: DualEncoder, names: list[str]) -> dict[str, torch.Tensor]:
    """What the host reads."""
    made = graph(encoder, "image.embedding", "text.embedding").eval()
    values = made.values(made.collate(SAMPLES), [f"student.{name}" for name in names])
    return {name.removeprefix("student."): value for name, value in values.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_transformers_on_raw_samples(folders: dict[str, str], family: str) -> None:
    folder = folders[family]
    model = T.AutoModel.from_pretrained(folder).eval()
    tokenizer, processor = T.AutoTokenizer.from_pretrained(folder), T.AutoImageProcessor.from_pretrained(folder)
    padding: dict[str, Any] = {"padding": True, "max_length": 12}
    if family.startswith("siglip"):
        padding = {"padding": "max_length", "max_length": 12, "return_attention_mask": False}
    texts = tokenizer([s["text"] for s in SAMPLES], truncation=True, return_tensors="pt", **padding)
    texts.pop("token_type_ids", None)
    pages = [Image.alpha_composite(Image.new("RGBA", s["image"].size, "white"), s["image"]) for s in SAMPLES]
    images = processor(images=[page.convert("RGB") for page in pages], return_tensors="pt")
    with torch.no_grad():
        image = model.get_image_features(**images, output_hidden_states=True)
        text = model.get_text_features(**texts, output_hidden_states=True)
    encoder = DualEncoder(folder).eval()
    values = read(encoder, [name for name in encoder.values() if name != "logit_scale"])
    for side, expected in (("image", image), ("text", text)):
        torch.testing.assert_close(values[f"{side}.embedding"], expected.pooler_output, atol=1e-6, rtol=0)
        torch.testing.assert_close(values[f"{side}.tokens"], expected.last_hidden_state, atol=1e-6, rtol=0)
        states = [value for name, value in values.items() if name.startswith(f"{side}.hidden")]
        assert len(states) == (0 if (family, side) == ("align", "image") else {"image": 4, "text": 3}[side])
        for state, hidden in zip(states[:-1], expected.hidden_states, strict=False):
            torch.testing.assert_close(state, hidden, atol=1e-6, rtol=0)
    assert ("text.mask" in values) == ("attention_mask" in texts)


def test_the_last_hidden_value_comes_before_the_final_norm(clip: DualEncoder) -> None:
    values = read(clip, ["image.hidden.-1", "text.hidden.-1", "text.tokens", "image.tokens"])
    network: Any = clip.network
    torch.testing.assert_close(network.text_model.final_layer_norm(values["text.hidden.-1"]), values["text.tokens"])
    torch.testing.assert_close(values["image.hidden.-1"], values["image.tokens"])  # CLIP norms its class token alone


def test_the_scale_is_the_networks_own(clip: DualEncoder, folders: dict[str, str]) -> None:
    assert read(clip, ["logit_scale"])["logit_scale"].item() == pytest.approx(2.6592)
    assert "logit_scale" not in DualEncoder(folders["align"]).values()  # it has a temperature


def test_normalize_and_max_length(folders: dict[str, str]) -> None:
    encoder = DualEncoder(folders["clip"], normalize=True, max_length=4).eval()
    values = encoder(**batch(encoder))
    torch.testing.assert_close(values["image.embedding"].norm(dim=-1), torch.ones(3))
    assert values["text.tokens"].shape == (3, 4, 16)
    with pytest.raises(MmkdError, match="takes 12 tokens, not 77"):
        DualEncoder(folders["clip"], max_length=77)


@pytest.mark.parametrize(
    ("value", "ran"),
    [("image.embedding", "image"), ("text.tokens", "text"), ("image.hidden.1", "image"), ("text.hidden.0", "text")],
)
def test_only_the_tower_that_is_read_runs_and_sees_samples(clip: DualEncoder, value: str, ran: str) -> None:
    made, called = graph(clip, value), []
    network: Any = clip.network
    handles = [
        network.vision_model.register_forward_pre_hook(lambda *_: called.append("image")),
        network.text_model.register_forward_pre_hook(lambda *_: called.append("text")),
    ]
    fields = {"image": {"image"}, "text": {"input_ids", "attention_mask"}}[ran]
    other = {"image": "text", "text": "image"}[ran]
    samples = [{name: x for name, x in sample.items() if name != other} for sample in SAMPLES]
    collated = made.collate(samples)
    assert set(collated["student"]) == fields
    made(collated)
    for handle in handles:
        handle.remove()
    assert called == [ran]


def test_a_field_that_is_read_must_be_there(clip: DualEncoder) -> None:
    with pytest.raises(DataError, match="has no field 'text'"):
        graph(clip, "text.embedding").collate([{"key": "q", "image": SAMPLES[0]["image"]}])
    both = graph(clip, "text.embedding", "image.embedding")
    with pytest.raises(GraphError, match="no image"):
        both(both.collate([{"key": "q", "text": "a cat"}]))


def test_equal_transforms_of_different_towers_are_not_shared(folders: dict[str, str]) -> None:
    one, other = DualEncoder(folders["clip"]), DualEncoder(folders["clip"])
    recipe = {
        "student": {}, "teacher": {},
        "losses": {"a": {"use": "core.mse", "student": "student.image.embedding", "teacher": "teacher.text.embedding"}},
    }  # fmt: skip
    made = mmkd.build(
        recipe,
        nodes={"student": one, "teacher": other},
        example={"student": batch(one), "teacher": batch(other)},
    )
    collated = made.collate(SAMPLES)
    assert set(collated["student"]) == {"image"} and set(collated["teacher"]) == {"input_ids", "attention_mask"}
    recipe["losses"]["a"]["teacher"] = "teacher.image.embedding"  # type: ignore[index]
    made = mmkd.build(recipe, nodes={"student": one, "teacher": other}, example=collated | {"teacher": batch(other)})
    collated = made.collate(SAMPLES)
    assert collated["student"] is collated["teacher"]


def test_a_small_student_from_random_weights(folders: dict[str, str]) -> None:
    shallow = {"vision_config": {"num_hidden_layers": 1}, "text_config": {"num_hidden_layers": 1}}
    student = DualEncoder(model=folders["clip"], config=shallow)
    assert student.fingerprint() is None
    assert [v for v in student.values() if "hidden" in v] == [
        "image.hidden.0", "image.hidden.1", "text.hidden.0", "text.hidden.1",
    ]  # fmt: skip
    with pytest.raises(MmkdError, match=r"config.text_config: a CLIPTextConfig has no 'layers'"):
        DualEncoder(model=folders["clip"], config={"text_config": {"layers": 1}})


def test_blip_for_retrieval(tmp_path: Path) -> None:
    model = T.BlipForImageTextRetrieval(BLIP).eval()
    encoder = DualEncoder(save(model, FAMILIES["blip"][1], tmp_path), normalize=True).eval()
    fields = batch(encoder)
    with torch.no_grad():
        expected = model(
            fields["input_ids"], fields["image"], attention_mask=fields["attention_mask"], use_itm_head=False
        )
    values = read(encoder, ["image.embedding", "text.embedding", "image.hidden.3", "text.hidden.0"])
    torch.testing.assert_close(values["image.embedding"] @ values["text.embedding"].T, expected.itm_score)
    assert values["text.hidden.0"].shape == (3, fields["input_ids"].shape[1], 16)


def test_what_a_doctor_compares(clip: DualEncoder, folders: dict[str, str]) -> None:
    assert clip.vocabulary() == {word: i for i, word in enumerate(WORDS)}
    about = clip.preprocessing()
    assert about["size"] == [32, 32] and about["resize"] == 36 and about["interpolation"] == "bicubic"
    assert about["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073]) and about["channels"] == "RGB"
    assert DualEncoder(folders["siglip"]).preprocessing()["mean"] == [0.5] * 3
    assert "size" not in DualEncoder(folders["siglip2"]).preprocessing()  # any number of patches


def test_other_networks_are_refused(tmp_path: Path) -> None:
    bert = T.BertModel(T.BertConfig(**TEXT))
    with pytest.raises(MmkdError, match="is a BertModel, which has no features of image and text apart"):
        DualEncoder(save(bert, T.CLIPImageProcessor(), tmp_path))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_it_is_saved_as_transformers_does(
    folders: dict[str, str], family: str, tmp_path: Path, monkeypatch: Any
) -> None:
    encoder = DualEncoder(folders[family], normalize=True).eval()
    code = encoder.export(tmp_path, encoder.formats()[0])
    SAMPLES[0]["image"].save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    sample = {"image": SAMPLES[0]["image"], "text": "a sad cat"}
    expected = encoder(**encoder.collate([encoder.transform(sample)]))
    for name, value in names["values"].items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)


class TextsOnly(mmkd.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"key": str(index), "text": f"{WORDS[4 + index]} cat"}


def test_a_text_student_learns_from_a_dual_teacher_without_images(folders: dict[str, str], tmp_path: Path) -> None:
    recipe = {
        "teacher": {"use": "vision_language.transformers", "pretrained": folders["clip"], "cache": "memory"},
        "student": {"use": "language.transformer", "layers": 1, "dim": 8, "heads": 2},
        "losses": {"a": {"use": "core.cosine", "student": "student.embedding", "teacher": "teacher.text.embedding"}},
        "data": {"batch_size": 4},
        "train": {"steps": 2},
    }
    results = mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": TextsOnly()})
    assert results


def test_a_trained_dual_is_rebuilt_from_its_export(folders: dict[str, str], tmp_path: Path) -> None:
    dual = {"use": "vision_language.transformers", "pretrained": folders["siglip"], "model": folders["siglip"]}
    losses = {
        side: {"use": "core.mse", "student": f"student.{side}.embedding", "teacher": f"teacher.{side}.embedding"}
        for side in ("image", "text")
    }
    recipe = {
        "teacher": {**dual, "normalize": True}, "student": dual, "losses": losses,
        "data": {"batch_size": 4}, "train": {"steps": 1, "lr": 1e-12},
    }  # fmt: skip
    mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": EmojiDataset(split="held_out")})
    model = mmkd.from_pretrained(tmp_path / "run")
    got = model.values(model.collate(SAMPLES), ["student.image.embedding", "student.text.embedding"])
    encoder = DualEncoder(folders["siglip"]).eval()
    expected = encoder(**batch(encoder))
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name.removeprefix("student.")])
