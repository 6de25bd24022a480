"""Embedded emoji: 1,636 captioned pictures in two styles, with no download. Licences: `LICENSES.md` in this folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Emoji", "Style", "load", "sheet"]

Style = Literal["noto", "twemoji"]


@dataclass(frozen=True)
class Emoji:
    """One emoji: what it is called and which fold holds it out.

    Attributes:
        key: Hexcode less variation selectors, such as `1F9D1-200D-1F680`.
        label: English CLDR short name, unique.
        tags: English keywords, the label excluded.
        category: One of 8 Unicode groups.
        subcategory: One of 95 Unicode subgroups.
        fold: Of 5; near-duplicates (gender, size, mirror image, clock face) share a fold, stratified by subcategory.
        random_fold: Of 5; plain random split, which lets near-duplicates straddle folds.
    """

    key: str
    label: str
    tags: tuple[str, ...]
    category: str
    subcategory: str
    fold: int
    random_fold: int


@cache
def _document() -> dict[str, Any]:
    """Parsed `emoji.json`."""
    document: dict[str, Any] = json.loads(files(__name__).joinpath("emoji.json").read_text(encoding="utf-8"))
    return document


@cache
def load() -> tuple[Emoji, ...]:
    """All emoji, in CLDR order, the order of the tiles of every sheet."""
    return tuple(Emoji(**entry | {"tags": tuple(entry["tags"])}) for entry in _document()["emoji"])


@cache
def sheet(style: Style) -> NDArray[np.uint8]:
    """Pictures of one style, in the order of `load`.

    Args:
        style: `noto` (Google) or `twemoji` (Twitter).

    Returns:
        Read-only array, cached.

    Raises:
        ValueError: There is no such style.

    Shape:
        `[N, 32, 32, 4]`, uint8, RGBA with straight alpha.
    """
    if style not in get_args(Style):
        raise ValueError(f"no emoji style {style!r}; there are: {', '.join(get_args(Style))}")
    tile, columns = _document()["tile"], _document()["columns"]
    with files(__name__).joinpath(f"{style}.webp").open("rb") as file, Image.open(file) as image:
        pixels = np.asarray(image.convert("RGBA"))
    tiles = pixels.reshape(-1, tile, columns, tile, 4).swapaxes(1, 2).reshape(-1, tile, tile, 4)[: len(load())]
    tiles.flags.writeable = False
    return tiles
