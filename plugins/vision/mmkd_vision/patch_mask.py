"""Parts of an image hidden, the same for every network that looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.random import Generator
from PIL import Image
from pydantic import Field

import mmkd
from mmkd_vision.image import rgb


class PatchMask(mmkd.Curator):
    """Squares of a grid over the raw image painted over (masked images: He et al., 2022; CLIP-KD's MFD, 2024).

    As a view of its own, the student learns from what is left while the teacher sees the whole picture:
    `data: {views: {masked: [{use: vision.patch_mask}]}}`, then `student@masked.image.embedding`.

    Args:
        ratio: share of the squares that are hidden, rounded to whole ones.
        grid: squares a side, as many as the student has patches.
        grey: what they are painted with, from 0 (black) to 1 (white).
    """

    fields: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(
        self,
        ratio: Annotated[float, Field(ge=0, le=1)] = 0.75,
        grid: Annotated[int, Field(ge=1)] = 14,
        grey: Annotated[float, Field(ge=0, le=1)] = 0.5,
    ) -> None:
        self.ratio, self.grid, self.grey = ratio, grid, grey

    def draw(self, generator: Generator) -> dict[str, Any]:
        squares = self.grid**2
        return {"hidden": generator.permutation(squares)[: round(self.ratio * squares)].tolist()}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        mode = image.mode if image.mode == "RGBA" else "RGB"
        pixels = np.array(image if mode == "RGBA" else rgb(image))
        hidden = np.zeros(self.grid**2, bool)
        hidden[draw["hidden"]] = True
        rows, columns = (np.arange(size) * self.grid // size for size in pixels.shape[:2])
        masked = hidden.reshape(self.grid, self.grid)[rows[:, None], columns]
        pixels[masked] = round(255 * self.grey)
        if mode == "RGBA":
            pixels[masked, 3] = 255
        return {**sample, "image": Image.fromarray(pixels, mode)}
