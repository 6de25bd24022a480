"""Curators of batches: called at every step, with draws that go by seed, step and sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, WIDTH, batch, build, made, mlp
from numpy.random import Generator
from torch import nn

import mmkd
from mmkd.errors import GraphError

LABEL = {"label": {"use": "core.cross_entropy", "student": "student.logits"}}


class Relabel(mmkd.Curator):
    """Half of the labels become what a network says."""

    fields = frozenset({"label"})

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def curate(
        self, batch: Mapping[str, Any], graph: mmkd.TrainingGraph, generator_of: Callable[[str], Generator]
    ) -> dict[str, Any]:
        network = graph.roles["student"].encoder
        self.modes += [any(m.training for m in network.modules()), torch.is_grad_enabled()]
        own = network(image=batch["image"])["logits"].argmax(-1)
        heads = torch.tensor([generator_of(key).random() < 0.5 for key in batch["key"]])
        return {**batch, "label": torch.where(heads, own, batch["label"]), "written": heads}


def graph_with(*curators: mmkd.Curator, student: nn.Module | None = None, **recipe: Any) -> mmkd.TrainingGraph:
    nodes = {"student": student or mlp(WIDTH, 8, CLASSES, seed=2)}
    graph = build(LABEL, nodes, **recipe)
    graph.curators = curators
    return graph.train()


def keyed(size: int = 8) -> dict[str, Any]:
    return {**batch(size), "key": [f"k{i}" for i in range(size)]}


def part(whole: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {name: value[start:stop] for name, value in whole.items()}


def test_forward_in_training_and_step_see_the_changed_batch() -> None:
    graph = graph_with(Relabel())
    given, plain = keyed(), graph_with()
    plain.load_state_dict(graph.state_dict())
    changed = graph.curate(given)
    assert 0 < changed["written"].sum() < 8
    expected = plain(changed)["loss"]
    assert torch.equal(graph(given)["loss"], expected) and not torch.equal(plain(given)["loss"], expected)
    assert torch.equal(graph.step(given, made(graph))["loss"], expected.detach())


def test_evaluation_and_passes_without_gradient_do_not() -> None:
    graph, plain = graph_with(Relabel()), graph_with()
    expected = plain(keyed())["loss"]
    with torch.no_grad():
        assert torch.equal(graph(keyed())["loss"], expected)
    assert torch.equal(graph.eval()(keyed())["loss"], expected)
    assert torch.equal(graph.values(keyed(), ["batch.label"])["batch.label"], keyed()["label"])


def test_networks_are_in_evaluation_mode_and_go_back_part_by_part() -> None:
    student = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    curator = Relabel()
    graph = graph_with(curator, student=student)
    student[1].eval()  # by its owner's wish
    modes = [m.training for m in graph.modules()]
    statistics, random = copy.deepcopy(student[1].state_dict()), torch.get_rng_state()
    graph.curate(keyed())
    assert curator.modes == [False, False]
    assert [m.training for m in graph.modules()] == modes and student[2].training and not student[1].training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(statistics.values(), student[1].state_dict().values(), strict=True))


def test_draws_go_by_seed_step_and_key() -> None:
    graph = graph_with(Relabel())
    given = keyed(32)

    def heads(seed: int, step: int, batch: Mapping[str, Any] = given) -> torch.Tensor:
        graph.seed, graph.steps = seed, step
        return graph.curate(batch)["written"]

    first = heads(0, 0)
    assert torch.equal(first, heads(0, 0))
    assert not torch.equal(first, heads(1, 0)) and not torch.equal(first, heads(0, 1))
    assert torch.equal(heads(0, 0, {k: v[8:16] for k, v in given.items()}), first[8:16])
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    turned = {k: v[order] if isinstance(v, torch.Tensor) else [v[i] for i in order] for k, v in given.items()}
    assert torch.equal(heads(0, 0, turned), first[order])


def test_two_curators_draw_apart_and_the_second_sees_what_the_first_made() -> None:
    class Noting(Relabel):
        seen: Any = None

        def curate(self, batch: Any, graph: Any, generator_of: Any) -> dict[str, Any]:
            self.seen = batch["written"]
            return super().curate(batch, graph, generator_of)

    second = Noting()
    graph = graph_with(Relabel(), second)
    written = graph.curate(keyed(32))["written"]
    assert second.seen is not None and not torch.equal(second.seen, written)


def test_micro_batches_make_the_same_step() -> None:
    stepped = []
    for size in (8, 2):
        graph = graph_with(Relabel())
        parts = [part(keyed(), i, i + size) for i in range(0, 8, size)]
        graph.step(parts, made(graph, optimizer="sgd", lr=0.5))
        stepped.append(torch.cat([p.detach().flatten() for p in graph.parameters()]))
    torch.testing.assert_close(stepped[0], stepped[1], atol=1e-6, rtol=1e-5)
    plain = graph_with()
    plain.step(keyed(), made(plain, optimizer="sgd", lr=0.5))
    assert not torch.allclose(stepped[0], torch.cat([p.detach().flatten() for p in plain.parameters()]), atol=1e-3)


def test_a_batch_without_keys() -> None:
    with pytest.raises(GraphError, match="the batch has no 'key'"):
        graph_with(Relabel())(batch())


def test_an_error_names_the_curator() -> None:
    class Broken(mmkd.Curator):
        def curate(self, batch: Any, graph: Any, generator_of: Any) -> Any:
            raise ValueError("no such thing")

    with pytest.raises(GraphError, match=r"Broken.*ValueError: no such thing"):
        graph_with(Broken())(keyed())


def test_who_changes_what_is_seen_from_the_class() -> None:
    class Sample(mmkd.Curator):
        def apply(self, sample: Any, draw: Any) -> Any:
            return sample

    class Both(Sample):
        def curate(self, batch: Any, graph: Any, generator_of: Any) -> Any:
            return batch

    found = [(cls.of_samples(), cls.of_batches()) for cls in (Sample, Relabel, Both, mmkd.Curator)]
    assert found == [(True, False), (False, True), (True, True), (True, False)]


def test_what_an_encoder_runs_aside_is_read_by_no_tap() -> None:
    class Twice(mmkd.Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, CLASSES)

        def values(self) -> list[str]:
            return ["logits", "hidden.0"]

        def locate(self, name: str) -> str | None:
            return "inner" if name == "hidden.0" else None

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            with self.unread():
                first = self.inner(image)
            return {"logits": first + self.inner(2 * image)}

    student = Twice()
    losses = {"a": {"use": "core.mse", "student": "student.hidden.0", "teacher": "detach(student.logits)"}}
    graph = build(losses, {"student": student})
    values = graph.values(batch(), ["student.hidden.0", "student.logits"])
    torch.testing.assert_close(values["student.hidden.0"], student.inner(2 * batch()["image"]))
