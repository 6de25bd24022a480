"""Raw samples for components that take any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

TEXTS = ("a red square on white", "cat: animal, small, grey, asleep", "blue", "ein grünes Haus am See, im Regen")
MODES = ("RGB", "RGBA", "L", "P")


def samples() -> list[dict[str, Any]]:
    """Four samples with image, text, label and key: pictures of several sizes and modes, texts of several lengths."""
    generator = np.random.default_rng(0)
    made = []
    for i, (text, mode) in enumerate(zip(TEXTS, MODES, strict=True)):
        size = (40 + 8 * i, 48 - 4 * i)
        coarse = generator.integers(0, 256, (6, 6, 4), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size)
        image = picture if mode == "RGBA" else picture.convert("RGB").convert(mode)
        made.append({"image": image, "text": text, "label": i % 3, "key": f"sample/{i}"})
    return made


def another(value: Any) -> Any:
    """Another value of the same kind, as a curator might make it of this one."""
    if isinstance(value, Image.Image):
        turned = value.convert("RGB").transpose(Image.Transpose.ROTATE_180)
        return turned.point(lambda x: 255 - x)
    if isinstance(value, str):
        return " ".join([*reversed(value.split()), "anew"])
    if isinstance(value, np.ndarray):
        return (value[..., ::-1] * 2 + 1).astype(value.dtype)
    if isinstance(value, bool | int | float):
        return value + 1
    if hasattr(value, "flip"):
        return value.flip(-1) * 2 + 1
    return value


def fields(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the fields that all samples have."""
    return [name for name in given[0] if all(name in sample for sample in given)] if given else []
