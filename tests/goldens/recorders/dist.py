"""DIST by its authors: the module of their segmentation code, which has no temperature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "hunto/DIST_KD"
FUNCTION = "DIST"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    parts = ("cosine_similarity", "pearson_correlation", "inter_class_relation", "intra_class_relation")
    found = checkout.load("segmentation/losses/dist_kd.py", "DIST", *parts)
    for seed, options in enumerate(({"beta": 1.0, "gamma": 1.0}, {"beta": 0.3, "gamma": 2.0})):
        inputs = {"student": normal(5, 6, seed=seed, scale=2), "teacher": normal(5, 6, seed=seed + 10, scale=2)}
        yield case(found["DIST"](**options), inputs, **options)
