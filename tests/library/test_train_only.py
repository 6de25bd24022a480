"""What a method adds for training does not leave with the student: every packaged recipe, every registered loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mmkd
from mmkd.exported import write
from mmkd.graph.training_graph import TrainingGraph
from mmkd.library import RECIPES
from mmkd.plugins import host
from mmkd.registry import Entry

from . import toys
from .specimen import Specimen

LOSSES = [entry for entry in host().catalogue if entry.kind == "loss" and entry.plugin == "core"]
OWNING = {"core.a2d", "core.crd", "core.ft", "core.mgd", "core.review", "core.vid", "core.wcord_global"}
"""Losses that keep layers, banks or critics of their own."""


def check_exported(
    graph: TrainingGraph, recipe: mmkd.Recipe, nodes: Mapping[str, Any], batch: Mapping[str, Tensor], folder: Path
) -> None:
    """Write what the recipe exports, load it into other networks, and compare all that they publish."""
    write(graph.eval(), recipe, folder / "model", "# card\n")
    kept = recipe.exported()
    held = load_file(folder / "model" / "model.safetensors")
    assert held and {key.split(".")[0] for key in held} <= {"nodes", "projectors", "mixers"}
    assert {key.split(".")[1] for key in held} == set(kept)
    again = mmkd.from_pretrained(folder / "model", nodes={name: nodes[name] for name in kept if name in nodes})
    assert set(again.roles) == {name for name in kept if name in graph.roles}
    assert not again.losses and set(again.bound) == {name for name in kept if name in graph.bound}
    addresses = [f"{name}.{value}" for name in again.roles for value in graph.roles[name].encoder.values()]
    with torch.no_grad():
        before, after = graph.values(batch, addresses), again.values(batch, addresses)
    assert all(torch.equal(before[address], after[address]) for address in addresses)


STAGED = [name for name, _, _ in RECIPES if len(mmkd.stages(mmkd.load_recipe(f"core.{name}", ["train.steps=4"]))) > 1]


@pytest.mark.parametrize("name", [name for name, _, _ in RECIPES if name not in STAGED])
def test_after_a_recipe(name: str, tmp_path: Path) -> None:
    id = f"core.{name}"
    graph = toys.trained(toys.build(id), id)
    own = toys.networks(id)
    for network in own.values():
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
    recipe = mmkd.load_recipe(id)
    for kept in recipe.exported():
        own.setdefault(kept, toys.network("student", id))  # an average is of the student
    check_exported(graph, recipe, own, toys.batch(id, 99), tmp_path)


@pytest.mark.parametrize("name", STAGED)
def test_after_a_recipe_of_stages(name: str, tmp_path: Path) -> None:
    id = f"core.{name}"
    mmkd.distill(
        id, output_dir=tmp_path / "run", nodes=toys.networks(id), data={"train": toys.Pictures()}, baseline=False,
        overrides=["train.steps=4", "train.device=cpu", "data.batch_size=8"], preflight=False,
    )  # fmt: skip
    held = load_file(tmp_path / "run" / "student" / "model.safetensors")
    assert held and {key.split(".")[1] for key in held} == set(mmkd.load_recipe(id).exported())
    (last,) = (tmp_path / "run").glob("checkpoint-*")
    whole = load_file(last / "graph.safetensors")
    assert all(torch.equal(whole[key], value) for key, value in held.items())
    assert not mmkd.from_pretrained(tmp_path / "run", nodes=toys.networks(id)).losses


@pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry.id)
def test_after_a_loss(entry: Entry, tmp_path: Path) -> None:
    specimen = Specimen(entry)
    graph = specimen.trained()
    own = [key for key in graph.state_dict() if key.startswith("losses.")]
    assert own or entry.id not in OWNING
    check_exported(graph, specimen.recipe, specimen.networks(), specimen.batch, tmp_path)
