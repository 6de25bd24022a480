"""Small changes of a cloud that leave its shape what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd_pointcloud.cloud import checked


class JitterScaleRotate(mmkd.Curator):
    """Noise on every point, stretching along the axes, turning (PointNet: Qi et al., 2017; DGCNN: Wang et al., 2019).

    First the cloud is turned, then stretched, then every point is moved. Noise is in units of the cloud's radius, and
    differs from point to point by a seed in the draw.

    Args:
        jitter: standard deviation of the noise, cut off at five times as much (the papers': 0.01).
        scale: range of the factor of each axis, drawn apart for each (DGCNN's: 2/3 to 3/2).
        rotate: largest turn either way, in degrees.
        axis: turn about the vertical (`z`, or `y` where that is up), or about any axis.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"points"})

    def __init__(
        self,
        jitter: Annotated[float, Field(ge=0)] = 0.01,
        scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.8, 1.25),
        rotate: Annotated[float, Field(ge=0, le=180)] = 0.0,
        axis: Literal["z", "y", "any"] = "z",
    ) -> None:
        self.jitter, self.scale, self.rotate, self.axis = jitter, tuple(scale), rotate, axis

    def draw(self, generator: Generator) -> dict[str, Any]:
        low, high = self.scale
        u = generator.random(7)
        axis = [float(self.axis == name) for name in "xyz"]
        if self.axis == "any":
            height, angle = 2 * u[0] - 1, 2 * np.pi * u[1]
            axis = [float(np.sqrt(1 - height**2) * f(angle)) for f in (np.cos, np.sin)] + [float(height)]
        drawn = {"angle": float(np.radians(self.rotate) * (2 * u[2] - 1)), "noise": int(u[6] * 2**32)}
        drawn |= {f"axis_{name}": value for name, value in zip("xyz", axis, strict=True)}
        return drawn | {f"scale_{name}": float(low + (high - low) * u[3 + i]) for i, name in enumerate("xyz")}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        points = checked(sample["points"]).astype(np.float64)
        axis = np.array([draw[f"axis_{name}"] for name in "xyz"])
        points = points @ _turn(axis, draw["angle"]).T * [draw[f"scale_{name}"] for name in "xyz"]
        radius = np.linalg.norm(points - points.mean(0), axis=1).max()
        noise = np.random.default_rng(draw["noise"]).normal(size=points.shape).clip(-5, 5)
        return {**sample, "points": (points + self.jitter * radius * noise).astype(np.float32)}


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turned
