"""Two pictures in one, with both labels: mixup and CutMix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageOps
from pydantic import Field

import mmkd
from mmkd.errors import DataError
from mmkd_vision.image import rgb

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Mixup(mmkd.Curator):
    """Blend of the raw image with another one of the dataset (Zhang et al., 2018).

    `image = mix * own + (1 - mix) * partner` with `mix ~ Beta(alpha, alpha)`. The partner is cut and resized to the
    size of the sample. Sets `label_b` (the partner's label), `mix` and `mix_b = 1 - mix` (shares of the two), and with
    `classes` the vector `target = mix * onehot(label) + mix_b * onehot(label_b)`; captions stay the sample's own. A
    sample that is mixed already stays as it is, so that `vision.mixup` with a probability and then `vision.cutmix`
    make either of one.

    Args:
        alpha: both parameters of the Beta distribution; the smaller, the nearer to one of the two images.
        probability: how often a sample is mixed.
        classes: number of classes; gives the field `target`.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"image", "label_b", "mix", "mix_b", "target", "unmixed"})
    partners: ClassVar[int] = 1

    def __init__(
        self, alpha: Positive = 0.2, probability: Share = 1.0, classes: Annotated[int | None, Field(ge=1)] = None
    ) -> None:
        self.alpha, self.probability, self.classes = alpha, probability, classes

    def draw(self, generator: Generator) -> dict[str, Any]:
        chance, mix = generator.random(), generator.beta(self.alpha, self.alpha)
        return {"mix": mix if chance < self.probability else 1.0}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any], partners: Sequence[mmkd.Sample]) -> dict[str, Any]:
        mix, (partner,) = draw["mix"], partners
        if sample.get("mix", 1) < 1:
            return dict(sample)
        if mix == 1:
            return _labelled(sample, sample, 1.0, self.classes)
        own, other = _pair(sample, partner)
        return _labelled({**sample, "image": Image.blend(other, own, mix), "unmixed": own}, partner, mix, self.classes)


class CutMix(mmkd.Curator):
    """Patch of another image of the dataset pasted into the raw image (Yun et al., 2019).

    The patch is `sqrt(1 - lambda)` of both sides with `lambda ~ Beta(alpha, alpha)`, its centre anywhere, and what
    lies beyond the border is cut off. It comes from the same place of the partner, which is cut and resized to the
    size of the sample. `mix` is the exact share of pixels that stay. Labels, and what happens to a sample that is
    mixed already, are as in `vision.mixup`.

    Args:
        alpha: both parameters of the Beta distribution; 1 draws lambda evenly.
        probability: how often a sample is mixed.
        classes: number of classes; gives the field `target`.
    """

    fields: ClassVar[frozenset[str]] = Mixup.fields
    partners: ClassVar[int] = 1

    def __init__(
        self, alpha: Positive = 1.0, probability: Share = 1.0, classes: Annotated[int | None, Field(ge=1)] = None
    ) -> None:
        self.alpha, self.probability, self.classes = alpha, probability, classes

    def draw(self, generator: Generator) -> dict[str, Any]:
        chance, x, y = generator.random(3).tolist()
        half = math.sqrt(1 - generator.beta(self.alpha, self.alpha)) / 2 if chance < self.probability else 0.0
        return {
            "left": max(0.0, x - half), "right": min(1.0, x + half),
            "top": max(0.0, y - half), "bottom": min(1.0, y + half),
        }  # fmt: skip

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any], partners: Sequence[mmkd.Sample]) -> dict[str, Any]:
        (partner,) = partners
        width, height = sample["image"].size
        left, right = (round(draw[side] * width) for side in ("left", "right"))
        top, bottom = (round(draw[side] * height) for side in ("top", "bottom"))
        mix = 1 - (right - left) * (bottom - top) / (width * height)
        if sample.get("mix", 1) < 1:
            return dict(sample)
        if mix == 1:
            return _labelled(sample, sample, 1.0, self.classes)
        own, other = _pair(sample, partner)
        image = own.copy()
        image.paste(other.crop((left, top, right, bottom)), (left, top))
        return _labelled({**sample, "image": image, "unmixed": own}, partner, mix, self.classes)


def _pair(sample: mmkd.Sample, partner: mmkd.Sample) -> tuple[Image.Image, Image.Image]:
    """Both images whole, in RGB, the partner's cut and resized to the size of the sample's."""
    own, other = rgb(sample["image"]), rgb(partner.get("unmixed", partner["image"]))
    if other.size != own.size:
        other = ImageOps.fit(other, own.size, Image.Resampling.BICUBIC)
    return own, other


def _labelled(sample: mmkd.Sample, partner: mmkd.Sample, mix: float, classes: int | None) -> dict[str, Any]:
    """The sample with both labels and their shares."""
    mixed = {name: value for name, value in sample.items() if name != "target"} | {"mix": mix, "mix_b": 1 - mix}
    if "label" in sample:
        mixed["label_b"] = _label(partner)
    if classes is not None:
        mixed["target"] = np.zeros(classes, dtype=np.float32)
        for label, share in ((_label(sample), mix), (_label(partner), 1 - mix)):
            if not 0 <= label < classes:
                raise DataError(f"label {label} is none of {classes} classes", where="classes")
            mixed["target"][label] += share
    return mixed


def _label(sample: mmkd.Sample) -> int:
    if "label" not in sample:
        raise DataError("has no label to mix", where=str(sample.get("key", "sample")), exists=map(str, sample))
    return int(sample["label"])
