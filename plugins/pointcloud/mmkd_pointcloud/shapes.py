"""Procedural shapes with names, captions and labelled parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

import mmkd
from mmkd.errors import DataError
from mmkd_pointcloud.families import FAMILIES, PART_NAMES, PARTS
from mmkd_pointcloud.surface import draw

Count = Annotated[int, Field(ge=4)]
CAPTIONS = ("a {}", "a 3d model of a {}", "this is a {}", "the shape of a {}")


class Shapes(mmkd.Dataset):
    """Clouds of made-up furniture, vessels, vehicles and tools, 32 families of random proportions with named parts.

    Fields of a sample: `key`, `points` `[N, 3]` (up is z), `part` `[N]` (a place in `part_names`), `text`, `label` (a
    place among all families, the same in every choice of them) and `class_name`. A shape is made once and kept.

    Args:
        families: names; None for all.
        per_family: shapes of each.
        points: points of a shape, or the least and the most, drawn for each.
        seed: other seeds are other shapes.
        caption: the family's `name` in a short sentence, or with its `parts` too.
        turn: turn every shape about the vertical by a random angle.

    Attributes:
        classes: names of all families, by label.
        part_names: names of all parts.

    Raises:
        DataError: there is no such family, or no number of points.
    """

    license = "Apache-2.0"

    def __init__(
        self,
        families: Annotated[Sequence[str], Field(min_length=1)] | None = None,
        per_family: Annotated[int, Field(gt=0)] = 20,
        points: Count | tuple[Count, Count] = 1024,
        seed: int = 0,
        caption: Literal["name", "parts"] = "name",
        turn: bool = False,
    ) -> None:
        self.classes, self.part_names = tuple(FAMILIES), PART_NAMES
        self.families = tuple(FAMILIES) if families is None else tuple(families)
        for name in self.families:
            if name not in FAMILIES:
                raise DataError(f"no family '{name}'", where="pointcloud.shapes.families", name=name, exists=FAMILIES)
        self.least, self.most = (points, points) if isinstance(points, int) else points
        if not 4 <= self.least <= self.most:
            raise DataError(
                f"points go from {self.least} to {self.most}", where="pointcloud.shapes.points", next="[256, 1024]"
            )
        self.per_family, self.seed, self.caption, self.turn = per_family, seed, caption, turn
        self._made: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.families) * self.per_family

    def manifest(self) -> list[tuple[str, Any]]:
        how = [self.least, self.most, self.caption, self.turn, 1]  # the last one: the version of the families
        return [(self._key(index), how) for index in range(len(self))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self._made:
            self._made[index] = self._make(index)
        return {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in self._made[index].items()}

    def _make(self, index: int) -> dict[str, Any]:
        key, family = self._key(index), self.families[index // self.per_family]
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "little"))
        surfaces = FAMILIES[family](generator)
        count = int(generator.integers(self.least, self.most + 1))
        template = CAPTIONS[int(generator.integers(len(CAPTIONS)))]
        points, names = draw(surfaces, count, generator)
        if self.turn:
            angle = 2 * np.pi * generator.random()
            c, s = np.cos(angle), np.sin(angle)
            points = points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        return {
            "key": key,
            "points": points.astype(np.float32),
            "part": np.array([PART_NAMES.index(name) for name in names], np.int64),
            "text": template.format(described(family) if self.caption == "parts" else family),
            "label": self.classes.index(family),
            "class_name": family,
        }

    def _key(self, index: int) -> str:
        family = self.families[index // self.per_family]
        return f"{self.seed}/{family}/{index % self.per_family}"


def described(family: str) -> str:
    """A family with its parts: `mug with body and handle`."""
    *most, last = PARTS[family]
    return f"{family} with {', '.join(most)} and {last}"
