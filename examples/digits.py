"""What the examples share: 8x8 handwritten digits of scikit-learn, and a teacher trained on them in seconds."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

LABELLED = 100


class Digits(Dataset[dict[str, Any]]):
    """A plain torch dataset of dicts: `image` `[1, 8, 8]` in [0, 1] and `label`. Every fourth picture is a test.

    Students may look at the label where `labelled` is 1, which is so for the first 100; the teacher has seen all.
    """

    def __init__(self, train: bool = True) -> None:
        images, labels = load_digits(return_X_y=True)
        chosen = [i for i in range(len(images)) if (i % 4 != 0) == train]
        self.images = torch.tensor(images[chosen], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        self.labels = torch.tensor(labels[chosen])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "key": str(index),
            "image": self.images[index],
            "label": self.labels[index],
            "labelled": float(index < LABELLED),
        }


def teacher(depth: int = 2, steps: int = 400) -> nn.Module:
    """A convolutional network, trained on the labels."""
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(32 if i else 1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()) for i in range(depth)
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))
    return fit(network, steps)


def student() -> nn.Module:
    """A network of 1,210 parameters that sees the picture as 64 numbers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def fit(network: nn.Module, steps: int, labels: int | None = None) -> nn.Module:
    """Train on labels: the first so many, or all."""
    data = Digits()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.randint(labels or len(data), (64,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(network(data.images[rows]), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def accuracy(network: nn.Module) -> float:
    """Percent of the test digits that are named right."""
    data = Digits(train=False)
    with torch.no_grad():
        right: Tensor = network.eval()(data.images).argmax(1) == data.labels
    return 100 * float(right.float().mean())
