"""A random part of an image, the same for teacher and student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.random import Generator
from PIL import Image

import mmkd
from mmkd.errors import MmkdError
from mmkd_vision.image import rgb

ATTEMPTS = 10


class RandomCrop(mmkd.Curator):
    """Random part of the raw image, squeezed to a square: RandomResizedCrop (Szegedy et al., 2015).

    Area and aspect ratio are drawn up to ten times until the part fits; then the largest part of an allowed ratio
    in the centre is taken, as torchvision does. The square is as long as the longer side of the part, and every
    network resizes it to its own resolution.

    Args:
        scale: range of the area, as a share of the image's.
        ratio: range of width over height, drawn evenly on a logarithmic scale.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise MmkdError(f"scale is a range of shares within (0, 1], not {scale}", next="scale: [0.08, 1.0]")
        if not 0 < ratio[0] <= ratio[1]:
            raise MmkdError(f"ratio is a range of numbers above 0, not {ratio}", next="ratio: [0.75, 1.33]")
        self.scale, self.ratio = tuple(scale), tuple(ratio)

    def draw(self, generator: Generator) -> dict[str, Any]:
        low, high = (math.log(bound) for bound in self.ratio)
        u = generator.random(2 * ATTEMPTS + 2).tolist()
        return {
            "areas": [self.scale[0] + (self.scale[1] - self.scale[0]) * x for x in u[:ATTEMPTS]],
            "ratios": [math.exp(low + (high - low) * x) for x in u[ATTEMPTS:-2]],
            "left": u[-2],
            "top": u[-1],
        }

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        box = self._box(draw, *image.size)
        side = max(box[2] - box[0], box[3] - box[1])
        image = image if image.mode == "RGBA" else rgb(image)
        return {**sample, "image": image.resize((side, side), Image.Resampling.BICUBIC, box=box)}

    def _box(self, draw: Mapping[str, Any], width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels."""
        for area, ratio in zip(draw["areas"], draw["ratios"], strict=True):
            w = round(math.sqrt(width * height * area * ratio))
            h = round(math.sqrt(width * height * area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draw["left"] * (width - w + 1)), int(draw["top"] * (height - h + 1))
                return left, top, left + w, top + h
        nearest = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, max(1, round(height * nearest))), min(height, max(1, round(width / nearest)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
