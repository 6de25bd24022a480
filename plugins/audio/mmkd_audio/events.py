"""Sound events that are made, not recorded: each of two kinds, with two words for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

Render = Callable[[Generator, int, int], np.ndarray]
"""A waveform of amplitude 1: of a generator, which of the two kinds, and samples per second."""


class Event(NamedTuple):
    """An event: what its two kinds are called, its usual and its rarer name, and how it sounds."""

    kinds: tuple[str, str]
    names: tuple[str, str]
    render: Render

    def words(self, kind: int, rarer: bool) -> str:
        """How a caption names it."""
        return f"{self.kinds[kind]} {self.names[rarer]}"


def tone(generator: Generator, frequency: np.ndarray, rate: int, harmonics: int = 1) -> np.ndarray:
    """A tone whose frequency moves, in Hz at each sample, with soft ends. Shape: `[T]` -> `[T]`."""
    phase = 2 * np.pi * (np.cumsum(frequency) / rate + generator.random())
    wave = np.sum([np.sin(phase * k) / k for k in range(1, harmonics + 1)], axis=0)
    return soft(wave / np.abs(wave).max(), rate)


def soft(wave: np.ndarray, rate: int) -> np.ndarray:
    """The waveform with 8 ms to rise and to fall. Shape: `[T]` -> `[T]`."""
    places = np.arange(len(wave))
    return wave * np.minimum(1, np.minimum(places, places[::-1]) / (0.008 * rate))


def noise(generator: Generator, samples: int) -> np.ndarray:
    """White noise, a third of it above amplitude 1 / 3. Shape: -> `[samples]`."""
    return generator.standard_normal(samples) / 3


def _steady(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return np.full(int(seconds * rate), hertz)


def _beep(generator: Generator, high: int, rate: int) -> np.ndarray:
    """Two pulses of one pitch."""
    hertz = generator.uniform(1500, 3200) if high else generator.uniform(400, 850)
    pulse = tone(generator, _steady(hertz, generator.uniform(0.07, 0.12), rate), rate)
    return np.concatenate([pulse, np.zeros(int(0.05 * rate)), pulse])


def _whistle(generator: Generator, falling: int, rate: int) -> np.ndarray:
    """A tone that slides by most of an octave."""
    low = generator.uniform(600, 1400)
    slide = np.geomspace(low, low * generator.uniform(1.5, 2.2), int(generator.uniform(0.25, 0.4) * rate))
    return tone(generator, slide[::-1] if falling else slide, rate)


def _hiss(generator: Generator, long: int, rate: int) -> np.ndarray:
    """Noise without its low part."""
    seconds = generator.uniform(0.4, 0.6) if long else generator.uniform(0.08, 0.18)
    return soft(np.diff(noise(generator, int(seconds * rate) + 1)), rate)


def _clicks(generator: Generator, fast: int, rate: int) -> np.ndarray:
    """Single samples that ring for a millisecond."""
    gap = generator.uniform(0.02, 0.035) if fast else generator.uniform(0.08, 0.12)
    wave = np.zeros(int(generator.uniform(0.35, 0.5) * rate))
    ring = np.exp(-np.arange(40) / 10) * np.cos(np.arange(40))
    for start in np.arange(0, len(wave) - len(ring), int(gap * rate)):
        wave[start : start + len(ring)] += ring
    return wave


def _hum(generator: Generator, high: int, rate: int) -> np.ndarray:
    """A buzz of six harmonics."""
    hertz = generator.uniform(180, 280) if high else generator.uniform(60, 110)
    return tone(generator, _steady(hertz, generator.uniform(0.3, 0.5), rate), rate, harmonics=6)


def _siren(generator: Generator, fast: int, rate: int) -> np.ndarray:
    """A tone that goes up and down."""
    turns = generator.uniform(7, 10) if fast else generator.uniform(2.5, 4)
    times = np.arange(int(generator.uniform(0.45, 0.6) * rate)) / rate
    swing = generator.uniform(0.2, 0.35) * np.sin(2 * np.pi * (turns * times + generator.random()))
    return tone(generator, generator.uniform(800, 1300) * (1 + swing), rate)


def _knock(generator: Generator, double: int, rate: int) -> np.ndarray:
    """A low thud or two."""
    times = np.arange(int(0.12 * rate)) / rate
    thud = np.exp(-times * 40) * np.sin(2 * np.pi * generator.uniform(110, 170) * times)
    return np.concatenate([thud, thud]) if double else thud


EVENTS = (
    Event(("low", "high"), ("beep", "tone"), _beep),
    Event(("rising", "falling"), ("whistle", "chirp"), _whistle),
    Event(("short", "long"), ("hiss", "static"), _hiss),
    Event(("slow", "fast"), ("clicks", "ticking"), _clicks),
    Event(("low", "high"), ("hum", "buzz"), _hum),
    Event(("slow", "fast"), ("siren", "alarm"), _siren),
    Event(("single", "double"), ("knock", "thud"), _knock),
)
