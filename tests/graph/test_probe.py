"""Building a graph moves nothing but what it makes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from graph.nets import CLASSES, WIDTH, batch, build, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.graph.binding import bind
from mmkd.graph.collate import to_device
from mmkd.graph.node import Node
from mmkd.graph.plan import preserved
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph

UP = {"use": "core.linear", "input": "student/0", "like": "teacher/0"}
HINT = {"hint": {"use": "core.mse", "student": "up", "teacher": "teacher/0"}}


class Restless(nn.Module):
    """Draws from every generator, moves its buffers in place and anew, and cares about its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(WIDTH, CLASSES), nn.BatchNorm1d(CLASSES), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", None)

    def forward(self, image: Tensor) -> Tensor:
        self.count = self.count + random.random() + np.random.rand()
        self.last = image.mean()
        return self.drop(self.norm(self.layer(image)))


def state(network: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def generators() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("taps", [False, True])
def test_no_buffer_generator_or_mode_moves(taps: bool) -> None:
    nodes = {"student": Restless(), "teacher": Restless()}
    nodes["student"].norm.eval()
    modes = [m.training for m in nodes["student"].modules()]
    before, drawn = {name: state(network) for name, network in nodes.items()}, generators()
    place = "/layer" if taps else ".logits"
    build({"kd": {"use": "core.mse", "student": f"student{place}", "teacher": f"teacher{place}"}}, nodes)
    assert generators() == drawn
    assert [m.training for m in nodes["student"].modules()] == modes
    for name, network in nodes.items():
        after = network.state_dict()
        assert after.keys() == before[name].keys()
        assert all(torch.equal(after[key], value) for key, value in before[name].items())
        assert network.last is None
        assert all(p.grad is None for p in network.parameters())


def test_errors_inside_leave_everything_as_it_was() -> None:
    network = Restless()
    before, drawn = state(network), generators()
    with pytest.raises(IndexError), preserved([network]):
        network(batch()["image"])[99]
    assert generators() == drawn
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("source", "target", "weight"),
    [
        ("student/0", "teacher/0", (16, 8)),
        ("student.logits", "teacher/2.input", (16, 4)),
        ("student/0", "student.logits", (4, 8)),
    ],
)
def test_widths_come_from_the_values(source: str, target: str, weight: tuple[int, int]) -> None:
    projectors = {"up": {**UP, "input": source, "like": target}}
    graph = build({"hint": {"use": "core.mse", "student": "up", "teacher": target}}, projectors=projectors)
    assert graph.projectors["up"].layer.weight.shape == weight
    assert graph.widths["up"] == {"input": (8, weight[1]), "like": (8, weight[0])}
    assert graph.shapes["up"] == (8, weight[0])


def test_feature_maps_get_a_convolution() -> None:
    nodes = {"student": nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), "teacher": nn.Sequential(nn.Conv2d(3, 7, 3))}
    image = torch.randn(2, 3, 9, 9)
    graph = build(HINT, nodes, projectors={"up": UP}, example={"image": image})
    assert graph.projectors["up"].layer.weight.shape == (7, 5, 1, 1)


def test_projectors_start_as_by_hand_under_the_same_seed() -> None:
    torch.manual_seed(7)
    graph = build(HINT, projectors={"up": UP})
    after = torch.get_rng_state()
    torch.manual_seed(7)
    layer = nn.Linear(8, 16)
    assert torch.equal(graph.projectors["up"].layer.weight, layer.weight)
    assert torch.equal(graph.projectors["up"].layer.bias, layer.bias)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(8)
    assert not torch.equal(build(HINT, projectors={"up": UP}).projectors["up"].layer.weight, layer.weight)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_everything_made_in_setup_is_trained_and_on_the_graphs_device(device: str) -> None:
    class Prototypes(mmkd.Loss):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def setup(self, student: torch.Size) -> None:
            self.register_buffer("centre", torch.zeros(student[1]))
            self.prototypes = nn.Parameter(torch.zeros(student[1]))

        def forward(self, student: Tensor) -> Tensor:
            return (student * self.scale - self.prototypes - self.centre).square().sum(1)

    graph = graph_of(Prototypes(), device)
    assert {t.device.type for t in [*graph.parameters(), *graph.buffers()]} == {device}
    names = {name for name, _ in graph.named_parameters()}
    assert {"losses.proto.scale", "losses.proto.prototypes"} <= names
    assert len(graph.phases[0].parameters) == len([p for p in graph.parameters() if p.requires_grad])
    assert {graph.owner(name) for name in names} == {"student", "auxiliary"}


def graph_of(loss: mmkd.Loss, device: str) -> Any:
    nodes = {"student": Node("student", mmkd.wrap(mlp(WIDTH, CLASSES)), True)}
    term = Term(bind("proto", loss, {"student": "student.logits"}, "losses.proto"))
    return TrainingGraph(nodes, terms=[term]).to(device).setup(to_device(batch(), torch.device(device)))


@pytest.mark.parametrize(
    ("part", "where"),
    [("student", "student"), ("teacher", "teacher"), ("projector", "projectors.up"), ("loss", "losses.hint")],
)
def test_an_error_names_the_part_it_comes_from(part: str, where: str) -> None:
    nodes = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 16, CLASSES)}
    losses, projectors = HINT, {"up": UP}
    if part in nodes:
        nodes[part] = mlp(WIDTH + 1, 8, CLASSES)
    elif part == "projector":
        projectors = {"up": {**UP, "input": "batch.label"}}
    else:
        losses = {"hint": {**HINT["hint"], "teacher": "teacher.logits"}}
    with pytest.raises(GraphError) as caught:
        build(losses, nodes, projectors=projectors)
    assert caught.value.where.startswith(where)


def test_a_graph_that_was_not_set_up_says_so() -> None:
    graph = TrainingGraph({"student": Node("student", mmkd.wrap(mlp(WIDTH, CLASSES)), True)})
    with pytest.raises(GraphError, match="has not been set up"):
        graph(batch())
    with pytest.raises(GraphError, match="has not been set up"):
        graph.step(batch(), {})

