"""Noise in a sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.random import Generator, default_rng
from pydantic import Field

import mmkd
from mmkd.errors import MmkdError
from mmkd_audio.sound import Sound, sound_of

COLOURS = 2.0


class Noise(mmkd.Curator):
    """Adds noise to a sound, at a random level below it and of a random colour, the same for teacher and student.

    Power falls with frequency f as `f^-a`, a drawn between 0 (white) and 2 (brown), so that any network hears the same
    noise at its own sampling rate. Silence stays silent.

    Args:
        snr: range of the level: decibels by which the sound's power exceeds the noise's.
        probability: of adding any.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"audio"})

    def __init__(
        self, snr: tuple[float, float] = (10.0, 40.0), probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    ) -> None:
        if snr[0] > snr[1]:
            raise MmkdError(f"snr goes from a small number to a large one, not from {snr[0]} to {snr[1]}", where="snr")
        self.snr, self.probability = tuple(snr), probability

    def draw(self, generator: Generator) -> dict[str, Any]:
        chance, level, colour = generator.random(3).tolist()
        seed = int(generator.integers(2**63))
        if chance >= self.probability:
            return {}
        low, high = self.snr
        return {"snr": low + (high - low) * level, "colour": COLOURS * colour, "seed": seed}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        if not draw:
            return dict(sample)
        sound = sound_of(sample)
        size = len(sound.waveform)
        spectrum = np.fft.rfft(default_rng(draw["seed"]).standard_normal(size))
        spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (-draw["colour"] / 2)
        noise = np.fft.irfft(spectrum, size)
        wanted = np.mean(np.square(sound.waveform, dtype=np.float64)) * 10 ** (-draw["snr"] / 10)
        noise *= np.sqrt(wanted / max(float(np.mean(noise**2)), 1e-30))
        return {**sample, "audio": Sound(sound.waveform + noise.astype(np.float32), sound.rate).field}
