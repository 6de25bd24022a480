"""A whole plugin in one file: a dataset, an encoder and a loss. `--plugin attention_transfer.py` calls it `local`."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mmkd


class Digits(mmkd.Dataset):
    """8x8 handwritten digits of scikit-learn; every fourth is a test.

    Args:
        train: the training digits or the others.
        labelled: for how many of them the field `labelled` is 1, and not 0.
    """

    def __init__(self, train: bool = True, labelled: int = 100) -> None:
        self.labelled = labelled
        images, labels = load_digits(return_X_y=True)
        chosen = [i for i in range(len(images)) if (i % 4 != 0) == train]
        self.images, self.labels = torch.tensor(images[chosen], dtype=torch.float32) / 16, labels[chosen]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "key": str(index),
            "image": self.images[index].reshape(1, 8, 8),
            "label": int(self.labels[index]),
            "labelled": float(index < self.labelled),
        }


class SmallNet(mmkd.Encoder):
    """A convolution, some more of them, and a linear classifier.

    Values: `logits`, and `tokens`, the last feature map.

    Args:
        width: channels.
        depth: convolutions.
        weights: a safetensors file to start from.

    Shape: image `[B, 1, 8, 8]` -> logits `[B, 10]`, tokens `[B, width, 8, 8]`.
    """

    def __init__(self, width: int = 16, depth: int = 2, weights: str | None = None) -> None:
        super().__init__()
        layers = [
            nn.Sequential(nn.Conv2d(width if i else 1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            for i in range(depth)
        ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)
        if weights is not None:
            self.load_state_dict(load_file(weights))

    def values(self) -> list[str]:
        return ["logits", "tokens"]

    def locate(self, name: str) -> str | None:
        return "features" if name == "tokens" else None  # the host reads it there, and stops if nothing else is wanted

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        tokens = self.features(image)
        return {"tokens": tokens, "logits": self.head(tokens.mean((2, 3)))}


class AttentionTransfer(mmkd.Loss):
    """Match where two feature maps are strong, whatever their widths (Zagoruyko and Komodakis, 2017).

    The maps are `sum_c |x_c|^2` over positions, each scaled to length 1.

    Shape: student `[B, C, H, W]`, teacher `[B, D, H, W]` -> `[B]`.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (nn.functional.normalize(x.square().sum(1).flatten(1), dim=1) for x in (student, teacher))
        return (s - t).square().sum(1)


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.dataset("digits", Digits)
    registry.encoder("small_net", SmallNet)
    registry.loss("attention_transfer", AttentionTransfer, paper="AT", url="https://arxiv.org/abs/1612.03928")
