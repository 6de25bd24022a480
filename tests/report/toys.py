"""Small networks, a loss with a critic, and graphs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import mmkd
from mmkd.graph.binding import bind
from mmkd.graph.node import Node
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.library.schedules.cosine import CosineSchedule


class Tower(mmkd.Encoder):
    """Three layers whose inner values are located."""

    def __init__(self, width: int, norm: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8 if i == 0 else width, width) for i in range(3))
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.head = nn.Linear(width, 4)

    def values(self) -> Sequence[str]:
        return ["logits", "embedding", *(f"hidden.{i}" for i in range(1, 4))]

    def locate(self, name: str) -> str | None:
        return f"blocks.{int(name[-1]) - 1}" if name.startswith("hidden") else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        for block in self.blocks:
            image = block(image)
        image = self.norm(image)
        return {"embedding": image, "logits": self.head(image)}


class AdversarialLoss(mmkd.Loss):
    """A critic tells student from teacher."""

    coupled = True
    min_batch = 2

    def __init__(self) -> None:
        super().__init__()
        self.critic = mmkd.critic(nn.Linear(12, 1), steps=5, lr=2e-4)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.critic(teacher).mean() - self.critic(student).mean()


BATCH = {"image": torch.zeros(6, 8), "label": torch.zeros(6, dtype=torch.long)}
HINT = {"use": "core.mse", "student": "up", "teacher": "teacher/blocks.1"}
UP = {"use": "core.linear", "input": "student.hidden.2", "like": "teacher/blocks.1"}
KD = {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}
CE = {"use": "core.cross_entropy", "student": "student.logits"}


def recipe(losses: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    return {"teacher": {}, "student": {}, "projectors": {"up": UP}, "train": {"steps": 2000}, "losses": losses, **keys}


def graph(losses: Mapping[str, Any], *, norm: bool = False, **keys: Any) -> TrainingGraph:
    """A student of 12 and a teacher of 16 channels, with a projector `up` between them."""
    spec = recipe(losses, **keys)
    names = [*spec.get("teachers", {"teacher": {}}), "student"]
    nodes = {name: Tower(12, norm) if name == "student" else Tower(16) for name in names}
    return mmkd.build(spec, nodes=nodes, example=BATCH)


def adversarial() -> TrainingGraph:
    """Two losses, one of them with a critic and a weight that rises."""
    nodes = {"student": Node("student", Tower(12), True), "teacher": Node("teacher", Tower(12), False)}
    ports = {"student": "student.embedding", "teacher": "teacher.embedding"}
    term = Term(bind("adv", AdversarialLoss(), ports, "losses.adv"), CosineSchedule(0.0, 1.0))
    return TrainingGraph(nodes, {}, [term], total_steps=500).setup(BATCH)
