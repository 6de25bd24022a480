"""The small task: emoji of 32 pixels, a few of them labelled, in a pool that the teachers have looked at.

Pictures of two folds are the pool, one fold is for tuning, two are for the test; near-duplicates share a fold. The pool
is augmented once, `REPLICAS` views of each picture, so that teachers run once per view and see what the student sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from mmkd_vision.augment import Augment
from mmkd_vision.image import rgb
from mmkd_vision_language.emoji import load, sheet
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import mmkd

TASKS = {"category": 10, "subcategory": 3}
"""Labelled pictures of each class, fewer where the pool holds fewer."""
POOL, VALIDATION, TEST = (2, 3), (4,), (0, 1)
REPLICAS = 8
SIDE = 32
AUGMENTATION: dict[str, Any] = {
    "flip": 0.5, "scale": (0.85, 1.15), "shift": 0.08, "rotate": 15, "brightness": 0.2, "contrast": 0.2,
    "saturation": 0.3,
}  # fmt: skip


@cache
def classes(task: str) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels."""
    return tuple(sorted({getattr(emoji, task) for emoji in load()}))


@cache
def labels(task: str) -> tuple[int, ...]:
    """The label of every emoji."""
    index = {name: i for i, name in enumerate(classes(task))}
    return tuple(index[getattr(emoji, task)] for emoji in load())


def places(folds: Sequence[int]) -> list[int]:
    """The emoji of these folds."""
    return [i for i, emoji in enumerate(load()) if emoji.fold in folds]


def labelled(task: str, seed: int) -> list[int]:
    """The emoji of the pool whose label is given: drawn anew for each seed."""
    left = dict.fromkeys(range(len(classes(task))), TASKS[task])
    chosen = []
    for place in np.random.default_rng(seed).permutation(places(POOL)).tolist():
        if left[label := labels(task)[place]]:
            left[label] -= 1
            chosen.append(place)
    return sorted(chosen)


def views() -> NDArray[np.uint8]:
    """Every view of every picture of the pool, `[pictures * REPLICAS, 32, 32, 3]`, views of one picture together."""
    augment, generator, made = Augment(**AUGMENTATION), np.random.default_rng(0), []
    for place in places(POOL):
        for _ in range(REPLICAS):
            sample = augment.apply({"image": Image.fromarray(sheet("noto")[place])}, augment.draw(generator))
            made.append(np.asarray(rgb(sample["image"]).resize((SIDE, SIDE))))
    return np.stack(made)


class Pool(mmkd.Dataset):
    """Views of the pool: about as many labelled ones as others, or labelled ones alone.

    Fields of a sample: `image`; `row`, the place of the view in the teachers' tables; `labelled`, whether its label is
    given; `label`, the given one, else the class that the teacher finds likeliest.

    Args:
        pictures: all views.
        task: what the label is.
        seed: which pictures are labelled.
        answers: the teacher's class for every view; without them there are labelled pictures only.
    """

    def __init__(self, pictures: NDArray[np.uint8], task: str, seed: int, answers: Tensor | None) -> None:
        chosen, pool = set(labelled(task, seed)), places(POOL)
        rows = {place: range(i * REPLICAS, (i + 1) * REPLICAS) for i, place in enumerate(pool)}
        given = [(row, labels(task)[place], True) for place in pool if place in chosen for row in rows[place]]
        rest = [] if answers is None else [
            (row, int(answers[row]), False) for place in pool if place not in chosen for row in rows[place]
        ]  # fmt: skip
        self.samples = given * max(1, round(len(rest) / len(given))) + rest
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, label, given = self.samples[index]
        image = Image.fromarray(self.pictures[row])
        return {"key": str(index), "image": image, "row": row, "label": label, "labelled": float(given)}


def asked(folds: Sequence[int]) -> list[dict[str, Any]]:
    """Pictures to be classified, as they are."""
    return [{"key": load()[place].key, "image": Image.fromarray(sheet("noto")[place])} for place in places(folds)]


def answers(task: str, folds: Sequence[int]) -> Tensor:
    """Their labels."""
    return torch.tensor([labels(task)[place] for place in places(folds)])
