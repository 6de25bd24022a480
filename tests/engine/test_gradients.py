"""How losses agree on the students' parameters: against gradients of a network written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.toys import data, networks, recipe
from torch import Tensor, nn

import mmkd
from mmkd.engine.gradients import gradient_cosine, gradient_norms
from mmkd.errors import GraphError


def graph_of(losses: dict[str, Any], student: nn.Module | None = None) -> tuple[mmkd.TrainingGraph, dict[str, Any]]:
    nodes = {**networks(), "student": student or nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))}
    spec = {**recipe(), "losses": losses, "projectors": {}, "evaluate": []}
    graph = mmkd.build(spec, nodes=nodes, data=data())
    return graph, graph.collate([data()["train"][i] for i in range(16)])


def mse(**more: Any) -> dict[str, Any]:
    return {"use": "core.mse", "student": "student.logits", "teacher": "teacher.logits", **more}


def difference(loss: Any, parameters: list[Tensor], step: float = 1e-5) -> np.ndarray:
    """The gradient by central differences in float64."""
    slopes = []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            before = flat[i].item()
            ends = []
            for sign in (1, -1):
                flat[i] = before + sign * step
                ends.append(loss().item())
            flat[i] = before
            slopes.append((ends[0] - ends[1]) / (2 * step))
    return np.array(slopes)


def test_equals_differences_and_leaves_no_trace() -> None:
    graph, batch = graph_of(
        {
            "match": mse(weight=0.25),
            "label": {"use": "core.cross_entropy", "student": "student.logits", "weight": 3.0},
        }
    )
    graph.double()
    batch["image"] = batch["image"].double()
    student = graph.roles["student"].encoder
    parameters = list(student.parameters())
    x, y = batch["image"], batch["label"]
    with torch.no_grad():
        teacher = graph.roles["teacher"].encoder.network(x)
        a = difference(lambda: (student.network(x) - teacher).square().mean(1).mean(), parameters)
        b = difference(lambda: nn.functional.cross_entropy(student.network(x), y), parameters)
    cosine, norms = gradient_cosine(graph, batch), gradient_norms(graph, batch)
    assert cosine == {("match", "label"): pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-7)}
    assert norms == {
        "match": pytest.approx(0.25 * np.linalg.norm(a), rel=1e-7),
        "label": pytest.approx(3.0 * np.linalg.norm(b), rel=1e-7),
    }
    assert all(p.grad is None for p in graph.parameters())


def test_the_same_loss_agrees_with_itself_and_an_unreached_student_feels_nothing() -> None:
    graph, batch = graph_of({"one": mse(), "other": mse(weight=7.0), "still": mse(student="detach(student.logits)")})
    assert gradient_cosine(graph, batch) == {
        ("one", "other"): pytest.approx(1.0),
        ("one", "still"): 0.0,
        ("other", "still"): 0.0,
    }
    norms = gradient_norms(graph, batch)
    assert norms["still"] == 0.0 and norms["other"] == pytest.approx(7 * norms["one"])


def test_neither_statistics_nor_random_numbers_move() -> None:
    graph, batch = graph_of(
        {"one": mse(), "label": {"use": "core.cross_entropy", "student": "student.logits"}}, networks()["student"]
    )
    graph.train()
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    drawn = torch.get_rng_state()
    first = gradient_cosine(graph, batch)
    assert gradient_cosine(graph, batch) == first
    assert torch.equal(torch.get_rng_state(), drawn)
    after = graph.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_needs_a_student_that_is_trained() -> None:
    graph, batch = graph_of({"one": mse()})
    graph.roles["student"].encoder.requires_grad_(False)
    with pytest.raises(GraphError, match="no parameter of a student is trained"):
        gradient_norms(graph, batch)
