"""A remembered teacher gives what the live one gives, and is refused where it could not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.test_data import Jitter
from engine.toys import data, networks, recipe
from torch import nn

import mmkd
from mmkd.engine.memory import remember
from mmkd.errors import GraphError, RecipeError


def test_remembered_run_equals_the_live_one(tmp_path: Path) -> None:
    losses = []
    for cache in (None, "memory"):
        changed = {**recipe(steps=6), "teacher": {"cache": cache} if cache else {}}
        mmkd.distill(changed, output_dir=tmp_path / str(cache), nodes=networks(), data=data())
        state = mmkd.from_pretrained(tmp_path / str(cache), nodes=networks()).state_dict()
        losses.append(state)
    for key in losses[0]:
        torch.testing.assert_close(losses[0][key], losses[1][key], rtol=1e-5, atol=1e-6)


def test_the_teacher_runs_once_per_sample(tmp_path: Path) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = networks()["teacher"]

        def forward(self, x: torch.Tensor) -> Any:
            seen.append(len(x))
            return self.net(x)

    changed: dict[str, Any] = {**recipe(steps=24), "teacher": {"cache": "memory"}, "projectors": {}}
    changed["losses"] = {"kd": changed["losses"]["kd"]}
    graph = mmkd.build(changed, nodes={**networks(), "teacher": Counting()}, data=data())
    seen.clear()
    remember(graph, ["teacher"], data()["train"], [], lambda *_: None)
    assert sum(seen) == 96
    seen.clear()
    batch = graph.collate([data()["train"][i] for i in range(4)])
    batch["teacher"] = {"row": torch.arange(4)}
    graph(batch)
    assert seen == []


def test_an_augmented_input_is_refused() -> None:
    graph = mmkd.build(recipe(), nodes=networks(), data=data())
    with pytest.raises(RecipeError, match=r"teacher\.cache: curators change \['image'\], which 'teacher' reads"):
        remember(graph, ["teacher"], data()["train"], [Jitter()], lambda *_: None)
    with pytest.raises(RecipeError, match=r"student\.cache: only a constant node"):
        remember(graph, ["student"], data()["train"], [], lambda *_: None)


def test_a_fixed_teacher_sees_samples_as_they_are() -> None:
    graph = mmkd.build({**recipe(), "teacher": {"cache": "fixed"}}, nodes=networks(), data=data())
    remember(graph, ["teacher"], data()["train"], [], lambda *_: None)
    plain = graph.roles["teacher"].table
    remember(graph, ["teacher"], data()["train"], [Jitter()], lambda *_: None)
    table = graph.roles["teacher"].table
    assert plain is not None and table is not None and plain is not table
    for key, value in plain.values.items():
        torch.testing.assert_close(table.values[key], value, atol=0, rtol=0)


def test_a_fixed_teacher_has_no_output_for_mixed_samples() -> None:
    class Mix(Jitter):
        partners = 1

    graph = mmkd.build({**recipe(), "teacher": {"cache": "fixed"}}, nodes=networks(), data=data())
    with pytest.raises(RecipeError, match=r"teacher\.cache: curators mix \['image'\], which 'teacher' reads"):
        remember(graph, ["teacher"], data()["train"], [Mix()], lambda *_: None)


def test_an_unknown_sample_is_an_error_not_a_guess() -> None:
    graph = mmkd.build(recipe(), nodes=networks(), data=data())
    remember(graph, ["teacher"], data()["train"], [], lambda *_: None)
    table = graph.roles["teacher"].table
    assert table is not None
    with pytest.raises(GraphError, match="sample 'noise/1000' is not among the 96"):
        table.row("noise/1000")
