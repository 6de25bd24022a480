"""One random view of an image, in relative coordinates, for teacher and student alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from numpy.random import Generator
from PIL import Image
from pydantic import Field

import mmkd
from mmkd.errors import MmkdError
from mmkd_vision.image import WHITE, has_alpha, rgb

Share = Annotated[float, Field(ge=0, le=1)]
GREY = (0.299, 0.587, 0.114)
# YIQ from RGB and back, for the rotation of hue
TO_YIQ = (GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
TO_RGB = ((1.0, 0.956, 0.621), (1.0, -0.272, -0.647), (1.0, -1.106, 1.703))
Matrix = tuple[tuple[float, ...], ...]


class Augment(mmkd.Curator):
    """Random geometry, colour, background and erasing of the raw image, before any network's own transform.

    Colours change first, then geometry, then the background is laid below, then a patch is erased. Everything is
    off unless asked for. Geometry is relative to the image, so that networks of different resolution see the same
    view; erasing is Zhong et al. (2020).

    Args:
        flip: probability of a mirror image, left to right.
        scale: range of the zoom (above 1 magnifies).
        shift: largest move along each side, as a share of it.
        rotate: largest turn either way, in degrees.
        brightness, contrast, saturation: largest change of each factor around 1.
        hue: largest turn of the colour circle either way, 0.5 being half of it.
        background: what shows through transparency and beyond the border: `white`, or a `random` colour per draw.
        erase: probability that a patch of 5 to 25% of the area turns grey.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(
        self,
        flip: Share = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shift: Share = 0.0,
        rotate: Annotated[float, Field(ge=0, le=180)] = 0.0,
        brightness: Share = 0.0,
        contrast: Share = 0.0,
        saturation: Share = 0.0,
        hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0,
        background: Literal["white", "random"] = "white",
        erase: Share = 0.0,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            what = f"scale goes from a small number above 0 to a large one, not from {scale[0]} to {scale[1]}"
            raise MmkdError(what, next="scale: [0.8, 1.2]")
        self.flip, self.scale, self.shift, self.rotate = flip, tuple(scale), shift, rotate
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.background, self.erase = background, erase

    def draw(self, generator: Generator) -> dict[str, Any]:
        u = generator.random(17).tolist()
        low, high = self.scale
        drawn = {
            "flip": float(u[0] < self.flip),
            "scale": low + (high - low) * u[1],
            "shift_x": self.shift * (2 * u[2] - 1),
            "shift_y": self.shift * (2 * u[3] - 1),
            "rotate": self.rotate * (2 * u[4] - 1),
            "brightness": 1 + self.brightness * (2 * u[5] - 1),
            "contrast": 1 + self.contrast * (2 * u[6] - 1),
            "saturation": 1 + self.saturation * (2 * u[7] - 1),
            "hue": self.hue * (2 * u[8] - 1),
        }
        if self.background == "random":
            drawn |= {"red": u[9], "green": u[10], "blue": u[11]}
        if u[12] < self.erase:
            area, aspect = 0.05 + 0.2 * u[13], math.exp((2 * u[14] - 1) * math.log(2))
            width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
            drawn |= {
                "erase_x": (1 - width) * u[15],
                "erase_y": (1 - height) * u[16],
                "erase_width": width,
                "erase_height": height,
            }
        return drawn

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        alpha = isinstance(image, Image.Image) and has_alpha(image)
        page = WHITE
        if "red" in draw:
            page = (round(255 * draw["red"]), round(255 * draw["green"]), round(255 * draw["blue"]))
        colours = _colours(draw)
        moved = draw["scale"] != 1 or draw["rotate"] or draw["shift_x"] or draw["shift_y"]
        if colours or moved:
            image = image.convert("RGBA") if alpha else rgb(image)
        if colours:
            image = _recolour(image, colours)
        if draw["flip"]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if moved:
            data, fill = _affine(draw, *image.size), (*page, 0) if alpha else page
            method = Image.Transform.AFFINE
            image = image.transform(image.size, method, data, Image.Resampling.BILINEAR, fillcolor=fill)
        if alpha and "red" in draw:
            image = rgb(image, page)
        if "erase_x" in draw:
            image = _erase(image, draw)
        return {**sample, "image": image}


def _affine(draw: Mapping[str, float], width: int, height: int) -> tuple[float, ...]:
    """Output to input pixels: undo the shift, then turn and zoom about the centre."""
    angle = math.radians(draw["rotate"])
    a, b = math.cos(angle) / draw["scale"], math.sin(angle) / draw["scale"]
    x, y = width / 2, height / 2
    to_x, to_y = x + draw["shift_x"] * width, y + draw["shift_y"] * height
    return a, b, x - a * to_x - b * to_y, -b, a, y + b * to_x - a * to_y


def _colours(draw: Mapping[str, float]) -> tuple[float, ...] | None:
    """The rows of the affine map of colours that the draw asks for; None where it changes nothing."""
    brightness, contrast, saturation = draw["brightness"], draw["contrast"], draw["saturation"]
    if brightness == contrast == saturation == 1 and not draw["hue"]:
        return None
    angle = 2 * math.pi * draw["hue"]
    cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
    turned = _product(_product(TO_RGB, ((1, 0, 0), (0, cos, -sin), (0, sin, cos))), TO_YIQ)
    gain, offset = brightness * contrast, 127.5 * (1 - contrast)
    return tuple(x for row in turned for x in (*(gain * value for value in row), offset))


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = tuple(zip(*right, strict=True))
    return tuple(tuple(sum(a * b for a, b in zip(row, col, strict=True)) for col in columns) for row in left)


def _recolour(image: Image.Image, colours: tuple[float, ...]) -> Image.Image:
    changed = (image if image.mode == "RGB" else image.convert("RGB")).convert("RGB", colours)
    if image.mode == "RGBA":
        changed.putalpha(image.getchannel("A"))
    return changed


def _erase(image: Image.Image, draw: Mapping[str, float]) -> Image.Image:
    image = rgb(image) if image.mode != "RGB" else image.copy()
    width, height = image.size
    left, top = round(draw["erase_x"] * width), round(draw["erase_y"] * height)
    right = left + max(1, round(draw["erase_width"] * width))
    image.paste((128, 128, 128), (left, top, right, top + max(1, round(draw["erase_height"] * height))))
    return image
