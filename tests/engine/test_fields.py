"""Samples and batches of other conventions, read through declared paths."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine.toys import Noise, networks, recipe
from torch.utils.data import DataLoader, TensorDataset

import mmkd
from mmkd.errors import DataError


@dataclass
class Item:
    inputs: dict[str, Any]
    target: int


Named = namedtuple("Named", ["picture", "digit"])
PATHS: list[tuple[Any, dict[str, Any]]] = [
    ((1.5, 3), {"image": "0", "label": "1"}),
    ([1.5, 3], {"image": 0, "label": -1}),
    (Item({"pixels": 1.5}, 3), {"image": "inputs.pixels", "label": "target"}),
    (Named(1.5, 3), {"image": "picture", "label": "1"}),
    ({"a": {"b": [0, 1.5]}, "c": 3}, {"image": "a.b.1", "label": "c"}),
    ({"image.jpg": 1.5, "meta": SimpleNamespace(label=3)}, {"image": "image.jpg", "label": "meta.label"}),
    ({0: 1.5, 1: 3}, {"image": "0", "label": "1"}),
]


@pytest.mark.parametrize(("sample", "paths"), PATHS)
def test_a_path_leads_through_keys_indices_and_attributes(sample: Any, paths: dict[str, Any]) -> None:
    assert mmkd.Fields(paths)(sample) == {"image": 1.5, "label": 3}


def test_a_key_is_kept_or_read_and_is_text() -> None:
    assert mmkd.Fields({"label": "y"})({"y": 1, "key": "a", "other": 2}) == {"label": 1, "key": "a"}
    assert mmkd.Fields({"label": "y", "key": "id"})({"y": 1, "id": 7}) == {"label": 1, "key": "7"}


@pytest.mark.parametrize(
    ("sample", "path", "said"),
    [
        ((1, 2), "2", "field 'image' is read from '2', and the sample, a tuple, has no '2'\n  there is: 0, 1"),
        ({"pixel": 1}, "pixels", "a dict, has no 'pixels'; did you mean 'pixel'?"),
        (Item({"pixels": 1}, 3), "inputs.pixel", "and its 'inputs', a dict, has no 'pixel'; did you mean 'pixels'?"),
        (Item({}, 3), "input.x", "the sample, a Item, has no 'input'; did you mean 'inputs'?"),
        ({"a": "text"}, "a.b", "and its 'a', a str, has no 'b'"),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_goes(sample: Any, path: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        mmkd.Fields({"image": path})(sample)
    assert said in str(caught.value)
    assert caught.value.where == "data.fields"


def tuples(size: int = 96, seed: int = 0) -> TensorDataset:
    rows = Noise(size, seed)
    return TensorDataset(torch.from_numpy(rows.x), torch.tensor([rows[i]["label"] for i in range(size)]))


def test_a_run_on_tuples_equals_the_run_on_samples(tmp_path: Path) -> None:
    def run(name: str, data: dict[str, Any], **fields: Any) -> dict[str, Any]:
        document = recipe(steps=8)
        document["data"] |= fields
        return mmkd.distill(document, output_dir=tmp_path / name, nodes=networks(), data=data)["student"]["scores"]  # type: ignore[no-any-return]

    own = run("own", {"train": Noise(), "eval": Noise(40, seed=1)})
    paths = {"image": 0, "label": 1}
    assert run("tuples", {"train": tuples(), "eval": {"eval": tuples(40, 1)}}, fields=paths) == own
    assert mmkd.load_recipe(tmp_path / "tuples" / "recipe.yaml").data.fields == paths


def test_tuples_without_a_mapping_show_the_one_to_write() -> None:
    with pytest.raises(DataError) as caught:
        mmkd.build(recipe(), nodes=networks(), data={"train": tuples()})
    said = str(caught.value)
    assert said.startswith("sample 0 of TensorDataset: a sample is a mapping from field to value, not a tuple")
    assert 'next: data.fields: {image: "0", label: "1"}' in said


@pytest.mark.parametrize(
    ("sample", "shown"),
    [
        ((np.zeros(3), "a cat", 1), '{image: "0", text: "1", label: "2"}'),
        ((np.zeros(3), np.zeros(3)), '{image: "0", image_1: "1"}'),
        (Item({}, 1), '{inputs: "inputs", target: "target"}'),
        (5, "{image: <path>, label: <path>}"),
    ],
)
def test_the_mapping_shown_fits_the_sample(sample: Any, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        mmkd.build(recipe(), nodes=networks(), data={"train": [sample] * 4})
    assert f"data.fields: {shown}" in str(caught.value)


def test_the_batches_of_another_loader_are_read_too() -> None:
    graph = mmkd.build(recipe(), nodes=networks(), data={"train": Noise()})
    fields = mmkd.Fields({"image": 0, "label": 1})
    batch = fields(next(iter(DataLoader(tuples(), batch_size=8))))
    assert batch["image"].shape == (8, 12) and torch.isfinite(graph(batch)["loss"])


def test_a_wrong_path_names_the_sample() -> None:
    document = recipe()
    document["data"]["fields"] = {"image": "0", "label": "2"}
    with pytest.raises(DataError, match=r"sample 0 of TensorDataset: data\.fields: field 'label' is read from '2'"):
        mmkd.build(document, nodes=networks(), data={"train": tuples()})
