"""Collating: fields of a network and shared ones, from the same raw samples."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from graph.nets import CLASSES, WIDTH, batch, build, mlp
from torch import Tensor

import mmkd
from mmkd.engine.memory import MemoryTable
from mmkd.errors import DataError
from mmkd.graph.collate import Collator, to_device
from mmkd.graph.node import Node


class Scaled(mmkd.Encoder):
    """Scales the image, and counts how often it does."""

    def __init__(self, scale: float = 1.0, key: Hashable | None = None) -> None:
        super().__init__()
        self.scale, self.key, self.calls = scale, key, 0

    def values(self) -> list[str]:
        return ["embedding"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        self.calls += 1
        return {"image": torch.as_tensor(sample["image"]) * self.scale}

    def transform_key(self) -> Hashable | None:
        return self.key

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": image}


class Padded(mmkd.Encoder):
    """Characters of the text, padded."""

    def values(self) -> list[str]:
        return ["embedding"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"input_ids": [ord(c) for c in sample["text"]]}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(row["input_ids"]) for row in rows)
        return {"input_ids": torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])}

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"embedding": input_ids.float()}


def sample(i: int, **more: Any) -> dict[str, Any]:
    return {"key": f"s/{i}", "image": np.full(3, float(i), np.float32), "label": i, "text": "ab" * (i + 1), **more}


SAMPLES = [sample(0), sample(1)]


def node(name: str, encoder: mmkd.Encoder, **given: Any) -> Node:
    return Node(name, encoder, True, **given)


def test_each_network_gets_its_own_fields_and_the_rest_is_shared() -> None:
    made = Collator([node("a", Scaled(2.0)), node("b", Scaled(3.0)), node("c", Padded())])(SAMPLES)
    assert made.keys() == {"key", "image", "label", "text", "a", "b", "c"}
    assert made["key"] == ["s/0", "s/1"]
    assert made["text"] == ["ab", "abab"]
    assert torch.equal(made["label"], torch.tensor([0, 1]))
    assert torch.equal(made["image"], torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert torch.equal(made["a"]["image"], 2 * made["image"])
    assert torch.equal(made["b"]["image"], 3 * made["image"])
    assert torch.equal(made["c"]["input_ids"], torch.tensor([[97, 98, 0, 0], [97, 98, 97, 98]]))


def test_equal_transforms_run_once() -> None:
    encoders = [Scaled(2.0, ("scaled", 2.0)), Scaled(2.0, ("scaled", 2.0)), Scaled(2.0), Scaled(2.0)]
    made = Collator([node(f"n{i}", encoder) for i, encoder in enumerate(encoders)])(SAMPLES)
    assert [encoder.calls for encoder in encoders] == [2, 0, 2, 2]
    assert made["n0"] is made["n1"]
    assert torch.equal(made["n1"]["image"], made["n2"]["image"])


def test_equal_transforms_of_different_fields_do_not_share() -> None:
    nodes = [node("a", Scaled(1.0, "same")), node("b", Scaled(1.0, "same"), inputs={"image": "thermal"})]
    made = Collator(nodes)([sample(i, thermal=np.full(3, 7.0)) for i in range(2)])
    assert made["a"]["image"].max() == 1
    assert made["b"]["image"].min() == 7


def test_a_network_with_several_views_is_collated_once() -> None:
    encoder = Scaled()
    Collator([node("a", encoder), node("a", encoder)])(SAMPLES)
    assert encoder.calls == 2


def test_what_only_a_transform_can_read_stays_out_of_the_batch() -> None:
    odd = [sample(0, sound=[1, 2], size=np.zeros(1), some=1), sample(1, sound=[3], size=np.zeros(2))]
    assert Collator([])(odd).keys() == {"key", "image", "label", "text"}


@pytest.mark.parametrize("value", [1, 2.5, True, np.float32(3), np.zeros((2, 2)), torch.ones(3)])
def test_numbers_and_arrays_are_stacked(value: Any) -> None:
    made = Collator([])([sample(0, it=value), sample(1, it=value)])["it"]
    assert torch.equal(made, torch.stack([torch.as_tensor(value)] * 2))


def test_a_transform_that_fails_names_its_sample() -> None:
    with pytest.raises(DataError, match="has no field 'image'") as caught:
        Collator([node("teacher", Scaled())])([SAMPLES[0], {"key": "s/9", "text": "x"}])
    assert caught.value.where == "sample 's/9' for 'teacher'"
    assert caught.value.exists == ("key", "text")

    class Broken(Scaled):
        def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
            raise ZeroDivisionError("oops")

    with pytest.raises(DataError, match="ZeroDivisionError: oops") as caught:
        Collator([node("teacher", Broken())])(SAMPLES)
    assert caught.value.where == "sample 's/0' for 'teacher'"

    class Own(Scaled):
        def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
            raise DataError("is too long", where="text")

    with pytest.raises(DataError, match=r"^sample 's/0' for 'teacher': text: is too long"):
        Collator([node("teacher", Own())])(SAMPLES)


def test_what_cannot_be_stacked_shows_its_shapes() -> None:
    with pytest.raises(DataError, match="teacher: what its transform gives cannot be stacked") as caught:
        Collator([node("teacher", Scaled())])([sample(0), sample(1, image=np.zeros(4)), sample(2)])
    assert caught.value.exists == ("image (3,)", "image (4,)")


def test_samples_of_a_stream_go_to_fields_of_their_own() -> None:
    nodes = {"": [node("a", Scaled(2.0))], "far": [node("a", Scaled(2.0)), node("b", Padded())]}
    made = Collator(nodes)(SAMPLES, {"far": [sample(5)], "other": [sample(6)]})
    assert {key for key in made if "@" in key} == {"@far", "a@far", "b@far", "@other"}
    assert made["@far"]["label"].tolist() == [5] and made["@other"]["key"] == ["s/6"]
    assert torch.equal(made["a@far"]["image"], torch.full((1, 3), 10.0)) and "b" not in made
    assert made["b@far"]["input_ids"].shape == (1, 12)


def test_a_network_with_fields_of_its_own_is_not_called_like_a_field() -> None:
    with pytest.raises(DataError, match="a field 'text', and so is a network called"):
        Collator([node("text", Padded())])(SAMPLES)


def test_remembered_networks_get_rows_and_give_what_they_remember() -> None:
    encoder = Scaled()
    table = MemoryTable.of(["s/1", "s/0"], {".embedding": torch.tensor([[10.0], [20.0]])})
    remembered = Node("n", encoder, False, tables={"": table})
    made = Collator([remembered], remembered=True)(SAMPLES)
    assert encoder.calls == 0
    assert made["n"]["row"] == [1, 0]
    assert "image" in Collator([remembered])(SAMPLES)["n"]
    with pytest.raises(mmkd.MmkdError, match="'s/7' is not among the 2 remembered"):
        Collator([remembered], remembered=True)([sample(7)])


def test_the_graph_collates_for_its_networks() -> None:
    nodes = {
        "student": mmkd.wrap(mlp(WIDTH, CLASSES), transform=lambda s: {"image": torch.as_tensor(s["raw"])}),
        "teacher": mmkd.wrap(mlp(WIDTH, CLASSES), transform=lambda s: torch.as_tensor(s["raw"]) / 2),
    }
    graph = build(nodes=nodes, example=batch())
    raw = [{"key": str(i), "raw": np.full(WIDTH, i, np.float32)} for i in range(3)]
    made = graph.collate(raw)
    assert torch.equal(made["teacher"]["image"] * 2, made["student"]["image"])
    assert torch.isfinite(graph({**made, "label": torch.zeros(3)})["loss"])


def test_every_tensor_moves_and_nothing_else() -> None:
    given = {"image": torch.ones(2), "a": {"input_ids": torch.ones(2), "names": ["x"]}, "text": ["y"]}
    moved = to_device(given, torch.device("meta"))
    assert moved["image"].is_meta
    assert moved["a"]["input_ids"].is_meta
    assert moved["a"]["names"] == ["x"]
    assert moved["text"] == ["y"]
