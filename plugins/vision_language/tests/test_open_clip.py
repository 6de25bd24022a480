"""open_clip encoder, offline: a tiny model of the test's own."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from mmkd_vision_language.emoji_dataset import EmojiDataset
from mmkd_vision_language.open_clip import OpenCLIPEncoder
from PIL import Image
from safetensors.torch import save_file

import mmkd
from mmkd.compose import build
from mmkd.errors import GraphError, MmkdError

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
}
EMOJI = EmojiDataset(split="held_out")
SAMPLES = [EMOJI[i] for i in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the layout of `local-dir:`, with a preprocessing of its own."""
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenCLIPEncoder:
    return OpenCLIPEncoder(f"local-dir:{folder}").eval()


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("configs") / "tiny-clip.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return "tiny-clip"


def _graph(encoder: OpenCLIPEncoder, value: str) -> mmkd.TrainingGraph:
    recipe = {"student": {}, "losses": {"a": {"use": "core.mse", "student": value, "teacher": f"detach({value})"}}}
    example = encoder.collate([encoder.transform(s) for s in SAMPLES])
    return build(recipe, nodes={"student": encoder}, example={"student": example})


def test_embeddings_are_those_of_open_clip(encoder: OpenCLIPEncoder) -> None:
    batch = encoder.collate([encoder.transform(sample) for sample in SAMPLES])
    assert batch["text"].shape == (3, 12) and batch["image"].shape == (3, 3, 32, 32)
    values = encoder(**batch)
    image, text, _ = encoder.network(batch["image"], batch["text"])
    torch.testing.assert_close(values["image.embedding"], image)
    torch.testing.assert_close(values["text.embedding"], text)
    torch.testing.assert_close(values["text.embedding"].norm(dim=-1), torch.ones(3))


def test_transform_is_the_models_own_over_white(encoder: OpenCLIPEncoder) -> None:
    made = encoder.transform({"image": Image.new("RGBA", (50, 40)), "text": "a cat"})
    torch.testing.assert_close(made["image"], torch.full((3, 32, 32), (1 - 0.5) / 0.25))
    assert torch.equal(made["text"], encoder.tokenizer("a cat")[0])


def test_hidden_values(encoder: OpenCLIPEncoder) -> None:
    assert [v for v in encoder.values() if "hidden" in v] == [
        *(f"image.hidden.{i}" for i in range(3)), *(f"text.hidden.{i}" for i in range(4)),
    ]  # fmt: skip
    graph = _graph(encoder, "student.image.embedding")
    names = ["student.image.hidden.0", "student.image.hidden.2", "student.text.hidden.-1"]
    batch = graph.collate(SAMPLES, names)
    got = graph.values(batch, names)
    assert got["student.image.hidden.0"].shape == got["student.image.hidden.2"].shape == (3, 5, 16)
    visual: Any = encoder.network.visual
    torch.testing.assert_close(
        visual.ln_post(got["student.image.hidden.2"][:, 0]) @ visual.proj,
        encoder.network.encode_image(batch["student"]["image"]),  # type: ignore[operator]
    )
    assert got["student.text.hidden.-1"].shape == (3, 12, 16)


@pytest.mark.parametrize(
    ("value", "image", "text"),
    [
        ("student.image.embedding", 1, 0),
        ("student.text.embedding", 0, 1),
        ("student.image.hidden.1", 1, 0),
        ("student/transformer.resblocks.0", 0, 1),
    ],
)
def test_only_the_tower_that_is_read_runs(encoder: OpenCLIPEncoder, value: str, image: int, text: int) -> None:
    graph = _graph(encoder, value)
    called: list[str] = []
    network: Any = encoder.network
    handles = [
        network.visual.register_forward_pre_hook(lambda *_: called.append("image")),
        network.token_embedding.register_forward_pre_hook(lambda *_: called.append("text")),
    ]
    graph(graph.collate(SAMPLES))
    for handle in handles:
        handle.remove()
    assert (called.count("image"), called.count("text")) == (image, text)


def test_text_alone(encoder: OpenCLIPEncoder) -> None:
    graph = _graph(encoder, "student.text.embedding")
    texts = graph.collate([{"key": "q", "text": "a cat"}])
    assert "image" not in texts["student"]
    assert graph.values(texts, ["student.text.embedding"])["student.text.embedding"].shape == (1, 8)
    with pytest.raises(GraphError, match="no image"):
        graph.values(texts, ["student.image.embedding"])


def test_file_of_weights(folder: Path, encoder: OpenCLIPEncoder, architecture: str) -> None:
    loaded = OpenCLIPEncoder(architecture, str(folder / "open_clip_model.safetensors"))
    assert loaded.fingerprint() == encoder.fingerprint() and str(loaded.fingerprint()).startswith("sha256:")
    assert OpenCLIPEncoder(architecture).fingerprint() is None


def test_files_that_run_code_are_refused(architecture: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        OpenCLIPEncoder(architecture, str(tmp_path / "weights.pt"))
    assert not (tmp_path / "ran").exists()


def test_preprocessing_goes_with_the_weights(encoder: OpenCLIPEncoder, architecture: str) -> None:
    fresh = OpenCLIPEncoder(architecture)
    before = fresh.transform(SAMPLES[0])["image"]
    fresh.load_state_dict(encoder.state_dict())
    after = fresh.transform(SAMPLES[0])["image"]
    torch.testing.assert_close(after, encoder.transform(SAMPLES[0])["image"])
    assert not torch.allclose(before, after)


def test_errors() -> None:
    with pytest.raises(MmkdError, match="did you mean 'ViT-B-32'"):
        OpenCLIPEncoder("ViT-B-33")
    with pytest.raises(MmkdError, match="laion2b_s34b_b79k"):
        OpenCLIPEncoder("ViT-B-32", "laion2b")
    with pytest.raises(MmkdError, match="quickgelu: true"):
        OpenCLIPEncoder("ViT-B-32", "openai")
    with pytest.raises(MmkdError, match="without QuickGELU"):
        OpenCLIPEncoder("ViT-B-32", "laion2b_s34b_b79k", quickgelu=True)
    with pytest.raises(MmkdError, match="brings its own weights"):
        OpenCLIPEncoder("local-dir:somewhere", "openai")
    with pytest.raises(MmkdError, match="cannot load 'local-dir:/nowhere'"):
        OpenCLIPEncoder("local-dir:/nowhere")
