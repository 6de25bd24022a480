"""A small network that labels the pixels of a view."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import DataError
from mmkd_pointcloud.cloud import Width


class ViewNet(mmkd.Encoder):
    """A small U-Net that scores every pixel of a picture (Ronneberger et al., 2015), for rendered views.

    Values: `pixel_logits`, a map of the picture's size; `tokens`, the coarsest features; `embedding`, their mean.

    Args:
        num_classes: classes of a pixel.
        image_size: side in pixels of the square input; other pictures are squeezed into it.
        widths: channels of each level, each of half the resolution of the one before.

    Shape: image `[B, 3, S, S]` -> pixel_logits `[B, classes, S, S]`, tokens `[B, C, h, w]`, embedding `[B, C]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"input_grad"})
    conformance: ClassVar[dict[str, Any]] = {"options": {"num_classes": 3, "image_size": 16, "widths": [4, 8]}}

    def __init__(
        self,
        num_classes: Width,
        image_size: Width = 64,
        widths: Annotated[Sequence[Width], Field(min_length=2)] = (16, 32, 64),
    ) -> None:
        super().__init__()
        self.image_size, self.embedding_dim = image_size, widths[-1]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(_double(a + b, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def values(self) -> list[str]:
        return ["pixel_logits", "tokens", "embedding"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        image = sample["image"]
        if not isinstance(image, Image.Image):
            raise DataError(
                f"image is {type(image).__name__}, not a PIL image", next="PIL.Image.fromarray or Image.open"
            )
        pixels = np.asarray(image.convert("RGB").resize((self.image_size,) * 2, Image.Resampling.BILINEAR))
        return {"image": torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)).div_(127.5).sub_(1)}

    def transform_key(self) -> Hashable:
        return "view", self.image_size

    def preprocessing(self) -> dict[str, Any]:
        side = [self.image_size, self.image_size]
        return {
            "size": side, "resize": side, "interpolation": "bilinear",
            "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "RGB",
        }  # fmt: skip

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        kept, x = [], image
        for i, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            kept.append(x)
        values = {"tokens": x, "embedding": x.mean((2, 3))}
        for fine, layer in zip(reversed(kept[:-1]), reversed(self.up), strict=True):
            x = layer(torch.cat([fine, F.interpolate(x, size=fine.shape[-2:], mode="nearest")], 1))
        return {**values, "pixel_logits": self.head(x)}


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a in (inputs, outputs):
        layers += [nn.Conv2d(a, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)
