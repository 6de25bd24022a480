"""A toy run: a linear teacher over noise vectors, a smaller student with dropout, all in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import mmkd

FEATURES, CLASSES = 12, 4


class Noise(mmkd.Dataset):
    """Vectors whose label is their largest of the first four entries."""

    def __init__(self, size: int = 96, seed: int = 0) -> None:
        self.x = np.random.default_rng(seed).standard_normal((size, FEATURES)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> mmkd.Sample:
        return {"key": f"noise/{index}", "image": self.x[index], "label": int(self.x[index][:CLASSES].argmax())}


def networks() -> dict[str, nn.Module]:
    """The same teacher and student every time."""
    generator = torch.Generator().manual_seed(0)
    teacher = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    student = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    for network in (teacher, student):
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
            else:
                parameter.data = torch.full_like(parameter, 0.5)
    return {"teacher": teacher, "student": student}


def recipe(**train: Any) -> dict[str, Any]:
    """KL to the teacher and a hint through a projector; the temperature follows a schedule."""
    return {
        "name": "toy",
        "teacher": {},
        "student": {},
        "projectors": {"up": {"use": "core.linear", "input": "student/1", "like": "teacher/0"}},
        "losses": {
            "kd": {
                "use": "core.kl",
                "student": "student.logits",
                "teacher": "teacher.logits",
                "temperature": {"use": "core.linear", "start": 4.0, "end": 1.0},
            },
            "hint": {"use": "core.mse", "student": "up", "teacher": "teacher/0", "weight": 0.5},
        },
        "data": {"batch_size": 16},
        "train": {"steps": 20, "lr": 0.01, "log_every": 5, "checkpoint_every": 6, "device": "cpu", **train},
        "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1], "every": 5}],
    }


def data() -> dict[str, Any]:
    return {"train": Noise(), "eval": Noise(40, seed=1)}
