"""A network of two towers is asked for the fields of those that are read, and no sample for the others."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmkd
from mmkd.engine.cacheable import cacheable
from mmkd.engine.stream import Stream
from mmkd.errors import RecipeError
from mmkd.graph.training_graph import TrainingGraph


class Dual(mmkd.Encoder):
    """Two towers, of which the right one's output is located."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def values(self) -> list[str]:
        return ["left.embedding", "right.embedding"]

    def locate(self, name: str) -> str | None:
        return "right" if name == "right.embedding" else None

    def _read(self) -> list[str]:
        return [side for side in ("left", "right") if self.wants(f"{side}.") or self.wants(f"/{side}")]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {side: torch.as_tensor(sample[side]) for side in self._read()}

    def transform_key(self) -> Hashable:
        return "dual", *self._read()

    def forward(self, left: Tensor | None = None, right: Tensor | None = None) -> dict[str, Tensor]:
        given = {"left": left, "right": right}
        return {f"{side}.embedding": getattr(self, side)(given[side]) for side in self._read()}


class Data(mmkd.Dataset):
    def __init__(self, *fields: str) -> None:
        self.fields = fields

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"key": str(index), **{field: [index, 1.0, 2.0] for field in self.fields}}


class Noisy(mmkd.Curator):
    fields = frozenset({"left"})

    def apply(self, sample: mmkd.Sample, draw: Any) -> dict[str, Any]:
        return dict(sample)


def graph(student: str, teacher: str, data: Data, projectors: dict[str, Any] | None = None) -> TrainingGraph:
    recipe = {
        "student": {}, "teacher": {},
        "losses": {"a": {"use": "core.mse", "student": student, "teacher": teacher}},
        "projectors": projectors or {},
        "data": {"batch_size": 2}, "train": {"steps": 2},
    }  # fmt: skip
    return mmkd.build(recipe, nodes={"student": Dual(), "teacher": Dual()}, data={"train": data})


@pytest.mark.parametrize("side", ["left", "right"])  # returned by forward, and located
def test_only_the_fields_of_towers_that_are_read_are_made(side: str) -> None:
    made = graph(f"student.{side}.embedding", f"teacher.{side}.embedding", Data(side))
    batch = made.collate([Data(side)[i] for i in range(3)])
    assert batch["student"].keys() == {side}
    assert batch["student"] is batch["teacher"]
    assert made.nodes["student"].wanted is None
    assert made(batch)["loss"].isfinite()


def test_a_tap_asks_for_the_fields_of_its_tower() -> None:
    made = graph("student/left", "teacher/left", Data("left"))
    assert made.collate([Data("left")[0]])["teacher"].keys() == {"left"}


def test_networks_that_read_different_fields_share_no_transform() -> None:
    data = Data("left", "right")
    batch = graph("student.left.embedding", "teacher.right.embedding", data).collate([data[0]])
    assert batch["student"].keys() == {"left"}
    assert batch["teacher"].keys() == {"right"}


def test_values_that_are_named_are_served_instead() -> None:
    data = Data("left", "right")
    made = graph("student.left.embedding", "teacher.left.embedding", data)
    batch = made.collate([data[0]], ["student.right.embedding"])
    assert batch["student"].keys() == {"right"}
    assert made.values(batch, ["student.right.embedding"])["student.right.embedding"].shape == (1, 2)


def test_the_example_also_holds_what_a_projector_is_to_be_like() -> None:
    up = {"up": {"use": "core.linear", "input": "student.left.embedding", "like": "teacher.right.embedding"}}
    made = graph("up", "teacher.left.embedding", Data("left", "right"), up)
    assert made.widths["up"]["like"] == (4, 2)
    assert made.collate([Data("left")[0]])["teacher"].keys() == {"left"}


def test_a_run_needs_no_field_that_nobody_reads(tmp_path: Any) -> None:
    recipe = {
        "student": {}, "teacher": {"cache": "memory"},
        "losses": {"a": {"use": "core.mse", "student": "student/right", "teacher": "teacher.right.embedding"}},
        "data": {"batch_size": 2}, "train": {"steps": 2},
    }  # fmt: skip
    nodes = {"student": Dual(), "teacher": Dual()}
    results = mmkd.distill(recipe, output_dir=tmp_path / "run", nodes=nodes, data={"train": Data("right")})
    assert results["steps"] == 2


def test_a_curator_may_change_what_the_remembered_tower_does_not_read() -> None:
    data = Data("left", "right")
    made = graph("student.left.embedding", "teacher.right.embedding", data)
    stream = Stream("", data, 2, [Noisy()])
    (kept,) = cacheable(made, "teacher", [stream], fixed=False)
    assert not kept.drawn
    made = graph("student.left.embedding", "teacher.left.embedding", data)
    with pytest.raises(RecipeError, match=r"curators change \['left'\]"):
        cacheable(made, "teacher", [stream], fixed=False)
