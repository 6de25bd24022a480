"""Broken curators of batches are caught by the probe that is about their fault; a sound one is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mmkd
from mmkd.testing import ConformanceError, check_curator

SAMPLES = [{"image": torch.full((3,), float(i + 1)), "label": i % 2, "key": f"k{i}"} for i in range(4)]


def graph() -> mmkd.TrainingGraph:
    torch.manual_seed(0)
    loss = {"use": "core.cross_entropy", "student": "student.logits"}
    recipe = {"student": {}, "losses": {"a": loss}}
    example = {"image": torch.zeros(4, 3), "label": torch.zeros(4, dtype=torch.long)}
    return mmkd.build(recipe, nodes={"student": nn.Linear(3, 2)}, example=example)


class Sound(mmkd.Curator):
    """Scales pictures by a draw."""

    fields = frozenset({"image"})

    def __init__(self, strength: float = 0.5) -> None:
        self.strength = strength

    def factors(self, batch: Any, generator_of: Any) -> torch.Tensor:
        return torch.tensor([[1 + self.strength * generator_of(key).random()] for key in batch["key"]]).float()

    def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
        return {**batch, "image": batch["image"] * self.factors(batch, generator_of)}


class GlobalDraw(Sound):
    def factors(self, batch: Any, generator_of: Any) -> torch.Tensor:
        return 1 + self.strength * torch.rand(len(batch["key"]), 1)


class Counting(Sound):
    calls = 0

    def factors(self, batch: Any, generator_of: Any) -> torch.Tensor:
        self.calls += 1
        return super().factors(batch, generator_of) + self.calls


class Deaf(Sound):
    def factors(self, batch: Any, generator_of: Any) -> torch.Tensor:
        return 1 + 0 * super().factors(batch, generator_of) + self.strength


class OneForAll(Sound):
    def factors(self, batch: Any, generator_of: Any) -> torch.Tensor:
        return super().factors(batch, generator_of)[:1].expand(len(batch["key"]), 1)


class InPlace(Sound):
    def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
        batch["image"].mul_(self.factors(batch, generator_of))
        return dict(batch)


class MovesTheNetwork(Sound):
    def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
        for parameter in graph.parameters():
            parameter.mul_(0.9)
        return super().curate(batch, graph, generator_of)


class Thaws(Sound):
    def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
        made = super().curate(batch, graph, generator_of)
        with torch.enable_grad():
            bias = graph.roles["student"].encoder.network.bias
            return {**made, "image": made["image"] + bias.sum()}


class Undeclared(Sound):
    fields = frozenset()


class Forgets(Sound):
    def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
        made = super().curate(batch, graph, generator_of)
        del made["label"]
        return made


class Seeds(Sound):
    def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
        np.random.seed(0)
        return super().curate(batch, graph, generator_of)


class Idle(Sound):
    def __init__(self, strength: float = 0.5, colour: float = 1.0) -> None:
        super().__init__(strength)
        self.colour = colour


def test_a_sound_one_passes() -> None:
    ran = check_curator(Sound, graph=graph, samples=SAMPLES)
    assert len(ran) > 9 and "apply_pure" not in ran
    assert check_curator(Sound, graph=graph(), samples=SAMPLES) == ran


@pytest.mark.parametrize(
    ("cls", "probe"),
    [
        (GlobalDraw, "curate_pure"),
        (Counting, "state_untouched"),
        (Deaf, "draw_matters"),
        (OneForAll, "samples_apart"),
        (InPlace, "batch_untouched"),
        (MovesTheNetwork, "state_untouched"),
        (Thaws, "no_gradient"),
        (Undeclared, "fields_declared"),
        (Forgets, "curates"),
        (Seeds, "surroundings_kept"),
        (Idle, "options_matter"),
    ],
)
def test_caught(cls: type, probe: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_curator(cls, graph=graph, samples=SAMPLES)
    assert probe in [failure.probe for failure in caught.value.failures]


def test_without_a_graph_it_says_what_it_needs() -> None:
    with pytest.raises(ConformanceError, match="needs a graph"):
        check_curator(Sound, samples=SAMPLES)
