"""Points left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd_pointcloud.cloud import LEAST, checked

OWN = ("points", "normal", "part", "color")
"""Fields that have a row for every point."""


class Drop(mmkd.Curator):
    """A random share of the points left out, up to `rate` (random input dropout of PointNet++: Qi et al., 2017).

    `part`, `normal` and `color`, where there are any, lose the same rows. At least four points stay. An encoder with
    `points` fills up by repeating; `keep: true` leaves the number as it is by putting the first kept point, with its
    labels, in the place of dropped ones, as the paper does.

    Args:
        rate: largest share; the share itself is drawn between 0 and it.
        keep: replace instead of removing.
    """

    fields: ClassVar[frozenset[str]] = frozenset(OWN)

    def __init__(self, rate: Annotated[float, Field(ge=0, le=1)] = 0.875, keep: bool = False) -> None:
        self.rate, self.keep = rate, keep

    def draw(self, generator: Generator) -> dict[str, Any]:
        return {"share": float(self.rate * generator.random()), "seed": int(generator.integers(2**32))}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        size = len(checked(sample["points"]))
        order = np.random.default_rng(draw["seed"]).permutation(size)
        kept = np.sort(order[: max(LEAST, size - round(draw["share"] * size))])
        if self.keep:
            filled = np.full(size, kept[0])
            filled[kept] = kept
            kept = filled
        return {**sample, **{name: np.asarray(sample[name])[kept] for name in OWN if name in sample}}
