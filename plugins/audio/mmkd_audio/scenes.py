"""Made-up scenes of sound events, and captions that say what is heard in which order."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd_audio.events import EVENTS, noise
from mmkd_audio.phrases import digest
from mmkd_audio.sound import Sound

RATE = 16_000
FOLDS = 5
LEVEL = {"loud": 1.0, "quiet": 0.12}
"""Amplitudes of a loud and a quiet background, where an event has one."""
JOINED = ("{} then {}", "{} followed by {}", "{1} after {0}")
"""How two things are put in order: the usual way, and rarer ones."""


class Scene(NamedTuple):
    """What is heard: events by number and which of their variants, in order, and the background."""

    events: tuple[tuple[int, int], ...]
    background: str


class Scenes(mmkd.Dataset):
    """One to three sound events in a row, some over noise, and a caption: to learn to caption or retrieve in a minute.

    Events are beeps, whistles, hisses, clicks, hums, sirens and knocks, each of two kinds: low or high, rising or
    falling, short or long, slow or fast. Pitch, speed, level and gaps are drawn around what the caption says. A caption
    names events and their order; there are two words for each event and three ways to order two, so that a caption is
    one of several and the likeliest one is simpler than the data. Sample i of a seed and split is always the same.

    `held_out` has other scenes than `train`: which events of which kind in which order over which background, a fifth
    of all there are.

    Fields of a sample: `key`, `audio` (array and sampling_rate, 16 kHz, half a second to two), `text` where
    `captioned`.

    Args:
        size: number of scenes.
        seed: which scenes; another seed gives others.
        split: `train`, `held_out`, or `all` for both.
        variation: probability of the rarer word for an event and of a rarer order of words; 0 leaves one caption.
        captioned: whether samples have a `text`; without, they are sounds alone.
    """

    license = "Apache-2.0"

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)] = 1000,
        seed: Annotated[int, Field(ge=0)] = 0,
        split: Literal["train", "held_out", "all"] = "train",
        variation: Annotated[float, Field(ge=0, le=0.5)] = 0.3,
        captioned: bool = True,
    ) -> None:
        self.size, self.seed, self.split = size, seed, split
        self.variation, self.captioned = variation, captioned

    def __len__(self) -> int:
        return self.size

    def manifest(self) -> list[tuple[str, Any]]:
        return [(self._key(i), [self.variation, self.captioned]) for i in range(self.size)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        generator = np.random.default_rng([self.seed, digest(self.split), index])
        scene = _drawn(generator, self.split)
        sound = Sound(_rendered(scene, generator), RATE)
        sample: dict[str, Any] = {"key": self._key(index), "audio": sound.field}
        if self.captioned:
            sample["text"] = _caption(scene, generator, self.variation)
        return sample

    def _key(self, index: int) -> str:
        return f"{self.seed}/{self.split}/{index}"


def _drawn(generator: Generator, split: str) -> Scene:
    """A scene of a split."""
    while True:
        chosen = generator.choice(len(EVENTS), size=1 + int(generator.choice(3, p=[0.2, 0.5, 0.3])), replace=False)
        events = tuple((int(event), int(generator.integers(2))) for event in chosen)
        scene = Scene(events, ("", "", "loud", "quiet")[int(generator.integers(4))])
        if split == "all" or (digest(repr(tuple(scene))) % FOLDS == 0) == (split == "held_out"):
            return scene


def _rendered(scene: Scene, generator: Generator) -> np.ndarray:
    """The waveform, its loudest sample at 0.2 to 0.8. Shape: `[T]` float32."""
    parts = [np.zeros(int(RATE * generator.uniform(0.03, 0.12)))]
    for event, variant in scene.events:
        parts.append(EVENTS[event].render(generator, variant, RATE) * generator.uniform(0.6, 1.0))
        parts.append(np.zeros(int(RATE * generator.uniform(0.06, 0.15))))
    wave = np.concatenate(parts)
    wave += noise(generator, len(wave)) * (LEVEL[scene.background] if scene.background else 0.01) * 0.5
    scaled: np.ndarray = wave * (generator.uniform(0.2, 0.8) / np.abs(wave).max())
    return scaled.astype(np.float32)


def _caption(scene: Scene, generator: Generator, variation: float) -> str:
    """What is heard, in words."""
    named = [EVENTS[event].words(variant, generator.random() < variation) for event, variant in scene.events]
    rare, which = generator.random(len(named)), generator.integers(1, len(JOINED), size=len(named))
    caption = named[0]
    for i, name in enumerate(named[1:], 1):
        turned = len(named) == 2  # "c after a then b" would not say what comes first
        way = int(which[i]) if rare[i] < variation else 0
        caption = JOINED[way if turned or way < 2 else 1].format(caption, name)
    return f"{caption} over {scene.background} noise" if scene.background else caption
