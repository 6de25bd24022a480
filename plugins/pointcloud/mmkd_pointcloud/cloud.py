"""A raw cloud as a network of points takes it: so many points, about the origin, of radius one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

import mmkd
from mmkd.errors import DataError

Width = Annotated[int, Field(gt=0)]
"""A whole number above zero."""
LEAST = 4
"""Points below which nothing has a shape."""


def checked(points: Any, where: str = "") -> np.ndarray:
    """Coordinates as float32.

    Shape: `[N, 3]`, or more columns, of which the first three are coordinates -> `[N, 3]`.

    Raises:
        DataError: they are no cloud, too few, not finite, or all in one place.
    """
    array = points.detach().cpu().numpy() if isinstance(points, torch.Tensor) else np.asarray(points)
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiu":
        raise DataError(f"points are {array.dtype} {list(array.shape)}, not numbers [N, 3]", where=where)
    array = array[:, :3].astype(np.float32)
    if len(array) < LEAST:
        raise DataError(f"has {len(array)} point{'s' * (len(array) != 1)}, and a shape at least {LEAST}", where=where)
    bad = int((~np.isfinite(array).all(1)).sum())
    if bad:
        raise DataError(f"{bad} of {len(array)} points are not finite", where=where)
    if not np.ptp(array, axis=0).max() > 0:
        raise DataError(f"all {len(array)} points lie in one place", where=where)
    return array


def chosen(size: int, count: int) -> np.ndarray:
    """Which `count` points of a cloud of `size` are taken: a fixed random choice, or all of them again and again."""
    if size < count:
        return np.resize(np.arange(size), count)
    return np.arange(size) if size == count else np.sort(np.random.default_rng(size).permutation(size)[:count])


def unit(points: np.ndarray) -> np.ndarray:
    """The cloud moved to the origin and scaled into the unit ball."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    scaled: np.ndarray = (centred / np.linalg.norm(centred, axis=1).max()).astype(np.float32)
    return scaled


class CloudEncoder(mmkd.Encoder):
    """What all encoders of point clouds share: `points` of a sample, as many as asked for, in the unit ball.

    Shape: sample `points` `[N, 3]` -> field `points` `[points, 3]`.
    """

    def __init__(self, points: int | None, normalize: bool) -> None:
        super().__init__()
        self.points, self.normalize = points, normalize

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        cloud = checked(sample["points"])
        if self.points is not None:
            cloud = cloud[chosen(len(cloud), self.points)]
        return {"points": torch.from_numpy(unit(cloud) if self.normalize else cloud.copy())}

    def transform_key(self) -> Hashable:
        return "cloud", self.points, self.normalize

    def reads(self) -> list[str]:
        """Published names that are wanted, taps aside; all of them where a tap is."""
        names = list(self.values())
        if self.wanted is None or any(name.startswith("/") for name in self.wanted):
            return names
        return [name for name in names if name in self.wanted]
