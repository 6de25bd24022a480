"""Dual tower: values of both towers under a prefix, and no work for a tower that nobody reads."""

from typing import Any

import pytest
import torch
from mmkd_language.transformer import TextTransformer
from mmkd_vision.convnet import ConvNet
from mmkd_vision_language.dual_tower import DualTower
from mmkd_vision_language.emoji_dataset import EmojiDataset
from torch import Tensor

import mmkd
from mmkd.compose import build
from mmkd.errors import DataError, GraphError, RecipeError

IMAGE = {"use": "vision.convnet", "widths": [4, 8], "blocks": 0}
TEXT = {"use": "language.transformer", "layers": 2, "dim": 8, "heads": 2}
EMOJI = EmojiDataset(split="held_out")
SAMPLES = [EMOJI[i] for i in range(4)]


def _towers(dim: int | None = None) -> DualTower:
    torch.manual_seed(0)
    return DualTower(ConvNet((4, 8), blocks=0), TextTransformer(layers=2, dim=8, heads=2), dim).eval()


def _reading(value: str, dim: int | None = 6) -> mmkd.TrainingGraph:
    return _graph({"a": {"use": "core.mse", "student": value, "teacher": f"detach({value})"}}, dim)


def _graph(losses: dict[str, Any], dim: int | None = 6) -> mmkd.TrainingGraph:
    recipe = {
        "student": {"use": "vision_language.dual_tower", "image": IMAGE, "text": TEXT, **({"dim": dim} if dim else {})},
        "losses": losses,
        "data": {"train": {"use": "vision_language.emoji"}, "batch_size": 4},
    }
    return build(recipe)


def _calls(graph: mmkd.TrainingGraph) -> list[str]:
    called: list[str] = []
    for side in ("image", "text"):
        tower = getattr(graph.nodes["student"], side)
        tower.register_forward_pre_hook(lambda *_, side=side: called.append(side))
    return called


def test_plain_python() -> None:
    towers = _towers()
    batch = towers.collate([towers.transform(sample) for sample in SAMPLES])
    assert set(batch) == {"image.image", "text.input_ids", "text.attention_mask"}
    values = towers(**batch)
    torch.testing.assert_close(values["image.embedding"], towers.image(batch["image.image"])["embedding"])
    ids, mask = batch["text.input_ids"], batch["text.attention_mask"]
    torch.testing.assert_close(values["text.embedding"], towers.text(ids, mask)["embedding"])
    assert {"image.hidden.1", "image.tokens", "text.hidden.2"} <= set(towers.values())


def test_heads() -> None:
    towers = _towers(dim=5)
    values = towers(**towers.collate([towers.transform(sample) for sample in SAMPLES]))
    assert values["image.embedding"].shape == values["text.embedding"].shape == (4, 5)
    assert towers.text.embedding_dim == 8


def test_head_needs_a_width() -> None:
    with pytest.raises(RecipeError, match="embedding_dim"):
        DualTower(mmkd.wrap(torch.nn.Identity(), outputs="embedding"), TextTransformer(dim=8, heads=2), dim=4)


def test_tower_needs_an_embedding() -> None:
    with pytest.raises(RecipeError, match="image: publishes no 'embedding'"):
        DualTower(mmkd.wrap(torch.nn.Identity(), outputs="logits"), TextTransformer(dim=8, heads=2))


@pytest.mark.parametrize("dim", [None, 6])
def test_located_values_equal_those_of_the_towers(dim: int | None) -> None:
    graph = _reading("student.image.embedding", dim)
    graph.eval()
    names = ["student.image.hidden.1", "student.text.hidden.-1", "student.text.tokens"]
    batch = graph.collate(SAMPLES, names)
    towers: Any = graph.nodes["student"]
    got = graph.values(batch, names)
    image = towers.image.stages[0](towers.image.stem(batch["student"]["image.image"]))
    torch.testing.assert_close(got["student.image.hidden.1"], image)
    torch.testing.assert_close(towers.text.norm(got["student.text.hidden.-1"]), got["student.text.tokens"])


@pytest.mark.parametrize(
    ("value", "runs"),
    [
        ("student.image.embedding", ["image"]),
        ("student.text.embedding", ["text"]),
        ("student.image.hidden.1", ["image"]),
        ("student/text.blocks.0", ["text"]),
        ("student/heads.text", ["text"]),
    ],
)
def test_only_what_is_read_is_run(value: str, runs: list[str]) -> None:
    graph = _reading(value)
    called = _calls(graph)
    graph(graph.collate(SAMPLES))
    assert called == runs


def test_missing_field_of_a_wanted_tower() -> None:
    graph = _reading("student.text.embedding")
    texts = graph.collate([{"key": "q", "text": "a cat"}])
    assert graph.values(texts, ["student.text.embedding"])["student.text.embedding"].shape == (1, 6)
    with pytest.raises(GraphError, match="no image"):
        graph.values(texts, ["student.image.embedding"])
    with pytest.raises(DataError, match="no field 'text'"):
        graph.collate([{"key": "q"}])
    assert set(graph.collate([SAMPLES[0], {"key": "q", "text": "a cat"}])["student"]) == {
        "text.input_ids", "text.attention_mask",
    }  # fmt: skip
    with pytest.raises(DataError, match="others lack"):
        graph.collate([SAMPLES[0], {"key": "q", "text": "a cat"}], ["student.image.tokens", "student.text.tokens"])


def test_inputs_are_rebound() -> None:
    graph = _reading("student.image.embedding")
    graph.roles["student"].inputs = {"image": "thermal"}
    moved = [{"key": s["key"], "thermal": s["image"], "text": s["text"]} for s in SAMPLES]
    towers: Any = graph.nodes["student"]
    expected = torch.stack([towers.image.transform(sample)["image"] for sample in SAMPLES])
    torch.testing.assert_close(graph.collate(moved)["student"]["image.image"], expected)


def test_shared_fields_reach_towers_without_a_transform() -> None:
    network = torch.nn.Linear(3, 8)
    towers = DualTower(mmkd.wrap(network, inputs=["points"], outputs="embedding"), TextTransformer(dim=8, heads=2))
    towers.wanted = frozenset({"image.embedding"})
    points = torch.randn(2, 3)
    torch.testing.assert_close(towers(points=points)["image.embedding"], network(points))


def test_gradients_reach_both_towers() -> None:
    ports = {"student": "student.image.embedding", "teacher": "student.text.embedding"}
    graph = _graph({"c": {"use": "core.info_nce", **ports}})
    graph(graph.collate(SAMPLES))["loss"].backward()
    reached: dict[str, Tensor | None] = {n: p.grad for n, p in graph.named_parameters()}
    for name in ("image.stem.0.weight", "text.embed.weight", "heads.image.weight", "heads.text.bias"):
        gradient = reached[f"nodes.student.{name}"]
        assert gradient is not None and gradient.abs().sum() > 0


def test_transform_key_is_that_of_both_towers() -> None:
    assert _towers().transform_key() == _towers(3).transform_key() is not None
    other = DualTower(ConvNet((4,), image_size=16), TextTransformer(dim=8, heads=2))
    assert other.transform_key() != _towers().transform_key()
