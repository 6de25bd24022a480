"""Healthy runs over toy pictures and toy text, to be made ill one mistake at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mmkd

CLASSES, SIDE = 4, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WORDS = ["<pad>", "a", "b", "c", "d", "e", "f", "g", "h", "i"]


@dataclass
class Patient:
    """A run: its recipe, and what is handed in from Python."""

    recipe: dict[str, Any]
    nodes: dict[str, nn.Module]
    data: dict[str, Any] = field(default_factory=dict)


class Pictures(mmkd.Dataset):
    """Noise with a tinge that the label decides."""

    def __init__(self, size: int, seed: int, first: int = 0) -> None:
        self.size, self.seed, self.first = size, seed, first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> mmkd.Sample:
        pixels = np.random.default_rng([self.seed, index]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        label = index % CLASSES
        pixels[..., label % 3] //= 1 + label
        return {"key": f"{self.seed}/{index}", "image": Image.fromarray(pixels), "label": self.first + label}


class Sentences(mmkd.Dataset):
    """Random words."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> mmkd.Sample:
        words = np.random.default_rng([self.seed, index]).integers(1, 9, 6)
        return {"key": f"{self.seed}/{index}", "text": " ".join(WORDS[i] for i in words)}


class Net(nn.Module):
    """A convolutional network that carries, as libraries' networks do, a description of its preprocessing."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, width, 3, stride=2)
            self.norm, self.act = nn.BatchNorm2d(width), nn.ReLU()
            self.head = nn.Linear(width, CLASSES)
        self.pretrained_cfg = {"mean": MEAN, "std": STD}

    def features(self, image: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(image))).mean((2, 3))

    def forward(self, image: Tensor) -> Any:
        return self.head(self.features(image))


class Both(Net):
    """Returns its embedding beside its logits."""

    def forward(self, image: Tensor) -> Any:
        features = self.features(image)
        return {"embedding": features, "logits": self.head(features)}


def pixels(sample: mmkd.Sample) -> Tensor:
    return torch.from_numpy(np.asarray(sample["image"], dtype=np.float32) / 255).permute(2, 0, 1)


def normalized(sample: mmkd.Sample, mean: Any = MEAN, std: Any = STD) -> Tensor:
    return (pixels(sample) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def images(student: nn.Module | None = None, teacher: nn.Module | None = None, transform: Any = normalized) -> Patient:
    """A teacher of pictures, its student, logits and labels."""
    recipe = {
        "teacher": {},
        "student": {},
        "losses": {
            "kd": {
                "use": "core.kl",
                "student": "student.logits",
                "teacher": "teacher.logits",
                "temperature": 2.0,
            },
            "ce": {"use": "core.cross_entropy", "student": "student.logits"},
        },
        "data": {"batch_size": 16},
        "train": {"steps": 50, "lr": 0.003, "device": "cpu"},
        "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1]}],
    }
    nodes: dict[str, nn.Module] = {
        "teacher": mmkd.wrap(teacher or Net(12, seed=1), outputs="logits", transform=transform),
        "student": mmkd.wrap(student or Net(8, seed=2), outputs="logits", transform=normalized),
    }
    return Patient(recipe, nodes, {"train": Pictures(64, 0), "eval": Pictures(24, 1)})


class Reader(mmkd.Encoder):
    """A language model of one layer over words."""

    def __init__(self, words: list[str], width: int, seed: int, tells: bool = True) -> None:
        super().__init__()
        self.ids, self.tells = {word: i for i, word in enumerate(words)}, tells
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed, self.head = nn.Embedding(len(words), width), nn.Linear(width, len(words))

    def values(self) -> list[str]:
        return ["embedding", "logits"]

    def vocabulary(self) -> Mapping[str, int] | None:
        return self.ids if self.tells else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"input_ids": torch.tensor([self.ids[word] for word in sample["text"].split()])}

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(input_ids)
        return {"embedding": tokens.mean(1), "logits": self.head(tokens)}


def text(teacher: mmkd.Encoder | None = None, student: mmkd.Encoder | None = None) -> Patient:
    """A teacher and a student of text, compared token by token."""
    recipe = {
        "teacher": {},
        "student": {},
        "losses": {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}},
        "data": {"batch_size": 16},
        "train": {"steps": 50, "lr": 0.003, "device": "cpu"},
    }
    nodes: dict[str, nn.Module] = {
        "teacher": teacher or Reader(WORDS, 16, 1),
        "student": student or Reader(WORDS, 8, 2),
    }
    return Patient(recipe, nodes, {"train": Sentences(64, 0)})


def embeddings(batch: int = 16) -> Patient:
    """Contrast through a projector, with a loss that needs the whole batch."""
    patient = images()
    names = ["embedding", "logits"]
    for name, width in (("teacher", 12), ("student", 8)):
        net = Both(width, seed=width)
        patient.nodes[name] = mmkd.wrap(net, outputs=dict(zip(names, names, strict=True)), transform=normalized)
    patient.recipe["projectors"] = {
        "up": {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}
    }
    patient.recipe["losses"] = {
        "contrast": {"use": "core.info_nce", "student": "up", "teacher": "teacher.embedding", "temperature": 0.1},
        "feature": {"use": "core.cosine", "student": "up", "teacher": "teacher.embedding"},
    }
    patient.recipe["data"]["batch_size"] = batch
    patient.recipe["evaluate"] = []
    return patient
