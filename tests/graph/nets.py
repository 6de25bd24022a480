"""Small networks and graphs for the tests of this folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import mmkd
from mmkd.engine.optimizer import optimizers
from mmkd.graph.node import Node
from mmkd.graph.plan import Plan
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import parse

WIDTH, CLASSES = 6, 4
KD = {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}}


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers (even places) with ReLU between them (odd places)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for source, target in itertools.pairwise(widths):
            layers += [nn.Linear(source, target), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def batch(size: int = 8, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(size, WIDTH, generator=generator),
        "label": torch.randint(CLASSES, (size,), generator=generator),
    }


def build(losses: Mapping[str, Any] = KD, nodes: Mapping[str, nn.Module] | None = None, **recipe: Any) -> TrainingGraph:
    """A graph of `student` and `teacher` unless the recipe says otherwise."""
    example = recipe.pop("example", None) or batch()
    networks = nodes or {"student": mlp(WIDTH, 8, CLASSES, seed=2), "teacher": mlp(WIDTH, 16, CLASSES, seed=3)}
    roles = {} if "students" in recipe else {"student": {}}
    if "teacher" in networks and not recipe.keys() & {"teacher", "teachers"}:
        roles["teacher"] = {}
    document = {**roles, "losses": losses, "train": {"steps": 100}, **recipe}
    return mmkd.build(document, nodes=networks, example=example)


def made(graph: TrainingGraph, **train: Any) -> dict[str, Optimizer]:
    """The optimisers that a recipe with these settings asks for."""
    document = {"student": {}, "losses": KD, "train": {"steps": 100, **train}}
    return optimizers(graph, mmkd.load_recipe(document).train)


def reading(network: nn.Module, *addresses: str, trained: bool = False, inputs: str = "image") -> Plan:
    """A plan that reads these values of one network called `net`."""
    encoder = network if isinstance(network, mmkd.Encoder) else mmkd.wrap(network, inputs=[inputs])
    node = Node("net", encoder, trained)
    if not trained:
        node.freeze()
    return Plan({"net": node}, {}, [(parse(address), address) for address in addresses])
