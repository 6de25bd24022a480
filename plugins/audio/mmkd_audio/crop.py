"""A part of a sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd_audio.sound import Sound, sound_of


class Crop(mmkd.Curator):
    """A random part of `seconds` of a sound, the same for teacher and student; shorter sounds stay whole.

    Args:
        seconds: how long.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"audio"})

    def __init__(self, seconds: Annotated[float, Field(gt=0)]) -> None:
        self.seconds = seconds

    def draw(self, generator: Generator) -> dict[str, Any]:
        return {"start": float(generator.random())}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        sound = sound_of(sample)
        size = max(1, round(self.seconds * sound.rate))
        start = int(draw["start"] * max(0, len(sound.waveform) - size + 1))
        return {**sample, "audio": Sound(sound.waveform[start : start + size].copy(), sound.rate).field}
