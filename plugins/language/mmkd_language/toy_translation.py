"""Sentences of English and their translations into a language that does not exist."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.random import Generator
from pydantic import Field

import mmkd

NOUNS = ("cat", "dog", "bird", "horse", "doctor", "king", "friend", "tree", "river", "ship")
ADJECTIVES = ("red", "small", "old", "happy", "quiet", "strange")
VERBS = ("see", "find", "love", "follow", "help", "know")
ADVERBS = ("today", "often", "never")
CLASSES = ("a", "o")
"""Ending of a noun by its class; adjectives take it too."""


class ToyTranslation(mmkd.Dataset):
    """English sentences and translations into an invented language, to learn to translate in a minute.

    The invented language puts the object before the verb and the adjective after its noun. Nouns are of two classes;
    an adjective takes class and number of its noun, a verb the number of its subject. There are two words for each
    noun, and subject and object may change places: a translation is one of several, so that the likeliest one is
    simpler than the data. Sample i of a seed is always the same.

    Args:
        size: number of sentences.
        seed: which sentences; another seed gives others.
        variation: probability of the rarer word for a noun and of the rarer order of words; 0 leaves one translation.
    """

    license = "Apache-2.0"

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)] = 2000,
        seed: Annotated[int, Field(ge=0)] = 0,
        variation: Annotated[float, Field(ge=0, le=0.5)] = 0.3,
    ) -> None:
        self.size, self.seed, self.variation = size, seed, variation

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        generator = np.random.default_rng([self.seed, index])
        subject, theirs = self._phrase(generator)
        thing, object_ = self._phrase(generator)
        verb, plural = int(generator.integers(len(VERBS))), subject[0] == "the"
        adverb = int(generator.integers(2 * len(ADVERBS)))
        source = [*subject, VERBS[verb] + ("" if plural else "s"), *thing]
        first, second = (object_, theirs) if generator.random() < self.variation else (theirs, object_)
        target = [*first, *second, _stem("v", verb) + ("en" if plural else "et")]
        if adverb < len(ADVERBS):
            source, target = [*source, ADVERBS[adverb]], [_stem("r", adverb), *target]
        return {"key": f"{self.seed}/{index}", "text": " ".join(source), "target": " ".join(target)}

    def _phrase(self, generator: Generator) -> tuple[list[str], list[str]]:
        """A noun with article and adjective; "the" goes with the plural here."""
        noun, adjective = int(generator.integers(len(NOUNS))), int(generator.integers(len(ADJECTIVES)))
        plural, rarer = generator.random() < 0.5, generator.random() < self.variation
        ending = CLASSES[noun % 2] + ("i" if plural else "")
        source = ["the" if plural else "a", ADJECTIVES[adjective], NOUNS[noun] + ("s" if plural else "")]
        return source, [_stem("nm"[rarer], noun) + ending, _stem("k", adjective) + ending]


def _stem(kind: str, number: int) -> str:
    """An invented word, the same at every time."""
    return f"{kind}{'aeiou'[number % 5]}{'lrstbd'[number % 6]}{'uoae'[number // 4 % 4]}{'kpgm'[number % 4]}"
