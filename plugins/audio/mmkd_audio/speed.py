"""A sound faster or slower, higher or lower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

import mmkd
from mmkd.errors import MmkdError
from mmkd_audio.sound import Sound, sound_of


class Speed(mmkd.Curator):
    """Plays a sound at a random speed, pitch and formants changing with it, as another speaker's (Ko et al., 2015).

    Played `factor` times as fast, it lasts `1 / factor` as long and all its frequencies are `factor` times as high. It
    is read between its samples by straight lines, which dulls what lies near half the sampling rate.

    Args:
        factor: range of the speed, 1 being as it is.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"audio"})

    def __init__(self, factor: tuple[float, float] = (0.9, 1.1)) -> None:
        if not 0 < factor[0] <= factor[1]:
            what = f"factor goes from a number above 0 to a larger one, not from {factor[0]} to {factor[1]}"
            raise MmkdError(what, where="factor", next="factor: [0.9, 1.1]")
        self.factor = tuple(factor)

    def draw(self, generator: Generator) -> dict[str, Any]:
        low, high = self.factor
        return {"factor": low + (high - low) * float(generator.random())}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        sound = sound_of(sample)
        size = max(1, round(len(sound.waveform) / draw["factor"]))
        places = np.arange(size) * draw["factor"]
        played = np.interp(places, np.arange(len(sound.waveform)), sound.waveform)
        return {**sample, "audio": Sound(played.astype(np.float32), sound.rate).field}
