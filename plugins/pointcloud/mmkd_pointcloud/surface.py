"""Simple surfaces, with their areas and points drawn evenly from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

Vector = tuple[float, float, float]
TRIALS = 6
"""Candidates per point where a surface is drawn from unevenly and thinned out."""


@dataclass(frozen=True)
class Box:
    """A box, turned about the vertical axis by `turn` radians."""

    centre: Vector
    size: Vector
    turn: float = 0.0

    def area(self) -> float:
        x, y, z = self.size
        return 2 * (x * y + y * z + z * x)

    def draw(self, count: int, generator: Generator) -> np.ndarray:
        x, y, z = self.size
        faces = np.array([y * z, z * x, x * y])
        axis = generator.choice(3, count, p=faces / faces.sum())
        points = generator.random((count, 3)) - 0.5
        points[np.arange(count), axis] = generator.integers(0, 2, count) - 0.5
        points *= self.size
        c, s = np.cos(self.turn), np.sin(self.turn)
        turned: np.ndarray = points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + self.centre
        return turned


@dataclass(frozen=True)
class Tube:
    """A cylinder or truncated cone between two points, closed at both ends unless `open`."""

    start: Vector
    end: Vector
    radius: float
    radius_end: float | None = None
    open: bool = False

    @property
    def radii(self) -> tuple[float, float]:
        return self.radius, self.radius if self.radius_end is None else self.radius_end

    def _areas(self) -> np.ndarray:
        a, b = self.radii
        length = float(np.linalg.norm(np.subtract(self.end, self.start)))
        caps = [0.0, 0.0] if self.open else [np.pi * a * a, np.pi * b * b]
        return np.array([np.pi * (a + b) * np.hypot(length, a - b), *caps])

    def area(self) -> float:
        return float(self._areas().sum())

    def draw(self, count: int, generator: Generator) -> np.ndarray:
        a, b = self.radii
        areas = self._areas()
        piece = generator.choice(3, count, p=areas / areas.sum())
        u = generator.random(count)
        side = np.sqrt(a * a + u * (b * b - a * a))  # a ring's length grows with its radius
        along = u if a == b else (side - a) / (b - a)
        along = np.select([piece == 0, piece == 1], [along, 0.0], 1.0)
        radius = np.select([piece == 0, piece == 1], [side, a * np.sqrt(u)], b * np.sqrt(u))
        angle = 2 * np.pi * generator.random(count)
        x, y, axis = _frame(np.subtract(self.end, self.start))
        circle = np.cos(angle)[:, None] * x + np.sin(angle)[:, None] * y
        placed: np.ndarray = np.asarray(self.start) + along[:, None] * axis + radius[:, None] * circle
        return placed


@dataclass(frozen=True)
class Ball:
    """An ellipsoid, or the part of it between two heights, from -1 (bottom) to 1 (top)."""

    centre: Vector
    radii: Vector
    low: float = -1.0
    high: float = 1.0

    def area(self) -> float:
        a, b, c = self.radii
        mean = (((a * b) ** 1.6 + (b * c) ** 1.6 + (c * a) ** 1.6) / 3) ** (1 / 1.6)  # Thomsen's approximation
        return float(2 * np.pi * mean * (self.high - self.low))

    def draw(self, count: int, generator: Generator) -> np.ndarray:
        height = generator.uniform(self.low, self.high, TRIALS * count)
        angle = 2 * np.pi * generator.random(TRIALS * count)
        round_ = np.sqrt(1 - height**2)
        unit = np.stack([round_ * np.cos(angle), round_ * np.sin(angle), height], 1)
        stretch = np.linalg.norm(unit / self.radii, axis=1)
        kept = generator.choice(len(unit), count, replace=False, p=stretch / stretch.sum())
        placed: np.ndarray = unit[kept] * self.radii + self.centre
        return placed


@dataclass(frozen=True)
class Ring:
    """A torus about an axis, or an arc of it: `arc` turns, beginning at the side that `_frame` puts first."""

    centre: Vector
    axis: Vector
    radius: float
    thickness: float
    arc: float = 1.0
    start: float = 0.0

    def area(self) -> float:
        return float(4 * np.pi**2 * self.radius * self.thickness * self.arc)

    def draw(self, count: int, generator: Generator) -> np.ndarray:
        along = 2 * np.pi * (self.start + self.arc * generator.random(TRIALS * count))
        across = 2 * np.pi * generator.random(TRIALS * count)
        reach = self.radius + self.thickness * np.cos(across)
        kept = generator.choice(len(reach), count, replace=False, p=reach / reach.sum())
        x, y, axis = _frame(np.asarray(self.axis, float))
        circle = np.cos(along[kept])[:, None] * x + np.sin(along[kept])[:, None] * y
        lift = self.thickness * np.sin(across[kept])[:, None] * axis / np.linalg.norm(axis)
        placed: np.ndarray = np.asarray(self.centre) + reach[kept][:, None] * circle + lift
        return placed


Surface = Box | Tube | Ball | Ring


def draw(surfaces: list[tuple[str, Surface]], count: int, generator: Generator) -> tuple[np.ndarray, list[str]]:
    """Points spread evenly over all surfaces by area, in random order, and the name that goes with each."""
    areas = np.array([surface.area() for _, surface in surfaces])
    owner = generator.choice(len(surfaces), count, p=areas / areas.sum())
    points = np.empty((count, 3))
    for i, (_, surface) in enumerate(surfaces):
        mine = owner == i
        if mine.any():
            points[mine] = surface.draw(int(mine.sum()), generator)
    return points, [surfaces[i][0] for i in owner]


def _frame(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two unit vectors across an axis, and the axis."""
    helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 * np.linalg.norm(axis) else np.array([1.0, 0.0, 0.0])
    x = np.cross(axis, helper)
    x /= np.linalg.norm(x)
    y = np.cross(axis, x)
    return x, y / np.linalg.norm(y), axis
