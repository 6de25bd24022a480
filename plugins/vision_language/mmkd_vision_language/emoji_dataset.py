"""Embedded emoji with their captions as a dataset."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from PIL import Image

import mmkd
from mmkd.errors import DataError
from mmkd_vision_language.emoji import Emoji, Style, load, sheet

Split = Literal["train", "held_out", "validation", "fit", "all"]
Caption = Literal["label", "label_tags"]
FOLDS = 5


class EmojiDataset(mmkd.Dataset):
    """1,636 emoji of 32 x 32 pixels with English captions, embedded in the package (Unicode CLDR; Noto, Twemoji).

    `held_out` is one fold of five, `train` the others; for tuning, `validation` is the fold after the held-out one
    and `fit` what remains of `train`.

    Fields of a sample: `key`, `image` (RGBA), `text` (`grinning face: happy, smile`), `label` (index into
    `subcategories`, the same in every split) and `group`, equal where two emoji have the very same picture.

    Args:
        style: who drew the pictures, Google (`noto`) or Twitter (`twemoji`).
        split: which emoji.
        fold: which of the five folds is held out.
        grouped: near-duplicates (gender, size, mirror image) share a fold; false splits at random, and leaks.
        caption: the name alone, or with its keywords.

    Attributes:
        categories: names of the 8 Unicode groups.
        subcategories: names of the 95 Unicode subgroups.

    Raises:
        DataError: there is no such fold or split.
    """

    license = "pictures Apache-2.0 (Noto) or CC-BY-4.0 (Twemoji), captions MIT"

    def __init__(
        self,
        style: Style = "noto",
        split: Split = "train",
        fold: Literal[0, 1, 2, 3, 4] = 0,
        grouped: bool = True,
        caption: Caption = "label_tags",
    ) -> None:
        if fold not in range(FOLDS):
            raise DataError(f"there is no fold {fold}", where="vision_language.emoji", exists=map(str, range(FOLDS)))
        following = (fold + 1) % FOLDS
        folds: dict[str, set[int]] = {
            "train": set(range(FOLDS)) - {fold},
            "held_out": {fold},
            "validation": {following},
            "fit": set(range(FOLDS)) - {fold, following},
            "all": set(range(FOLDS)),
        }
        if split not in folds:
            raise DataError(f"there is no split '{split}'", where="vision_language.emoji", name=split, exists=folds)
        self.style, self.caption = style, caption
        self.categories = tuple(dict.fromkeys(emoji.category for emoji in load()))
        self.subcategories = tuple(dict.fromkeys(emoji.subcategory for emoji in load()))
        self.indices = tuple(
            i for i, emoji in enumerate(load()) if (emoji.fold if grouped else emoji.random_fold) in folds[split]
        )
        self._label = {name: i for i, name in enumerate(self.subcategories)}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self.indices[index]
        emoji = load()[place]
        return {
            "key": f"{self.style}/{emoji.key}",
            "image": Image.fromarray(sheet(self.style)[place]),
            "text": caption(emoji) if self.caption == "label_tags" else emoji.label,
            "label": self._label[emoji.subcategory],
            "group": _groups(self.style)[place],
        }


def caption(emoji: Emoji) -> str:
    """Name and keywords: `grinning face: happy, smile`."""
    return f"{emoji.label}: {', '.join(emoji.tags)}" if emoji.tags else emoji.label


@cache
def _groups(style: Style) -> tuple[int, ...]:
    """For each emoji the place of the first one with the same pixels."""
    first: dict[bytes, int] = {}
    return tuple(first.setdefault(tile.tobytes(), place) for place, tile in enumerate(sheet(style)))
