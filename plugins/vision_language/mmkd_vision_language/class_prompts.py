"""A labelled dataset whose text is the name of the class in a sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import mmkd
from mmkd.errors import DataError, RecipeError

ID = "vision_language.class_prompts"


class ClassPrompts(mmkd.Dataset):
    """Any labelled dataset, with a prompt of each sample's class as its text (CLIP: Radford et al., 2021).

    Each sample takes one of the templates, by a hash of its place in the dataset, so that a class with many samples
    shows a text encoder nearly all of its prompts; `vision_language.zero_shot` makes one prototype of them.

    Fields of a sample: those of the dataset, and `text`.

    Args:
        dataset: samples with an integer `label`.
        classes: names by label.
        templates: sentences with `{}` where the name belongs.

    Raises:
        DataError: a label has no name.
        RecipeError: there is no template or a template has no `{}`.
    """

    def __init__(
        self, dataset: mmkd.Dataset, classes: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",)
    ) -> None:
        self.dataset, self.classes, self.templates = dataset, tuple(classes), tuple(templates)
        self.license = dataset.license
        for template in self.templates or ("",):
            if template.count("{}") != 1:
                raise RecipeError(f"'{template}' is not a sentence with one {{}}", where=f"{ID}.templates")

    def __len__(self) -> int:
        return len(self.dataset)

    def order(self, generator: np.random.Generator) -> np.ndarray:
        return self.dataset.order(generator)

    def manifest(self) -> list[tuple[str, Any]] | None:
        own = self.dataset.manifest()
        prompts = [self.classes, self.templates]
        return own if own is None else [(key, [content, prompts]) for key, content in own]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = dict(self.dataset[index])
        label = int(sample["label"]) if "label" in sample else -1
        if not 0 <= label < len(self.classes):
            raise DataError(
                f"sample {index} has the label {sample.get('label')}, and there are {len(self.classes)} class names",
                where=ID,
            )
        digest = hashlib.blake2b(str(index).encode(), digest_size=8).digest()
        template = self.templates[int.from_bytes(digest, "little") % len(self.templates)]
        return {**sample, "text": template.replace("{}", self.classes[label])}
