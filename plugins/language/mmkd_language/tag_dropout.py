"""Captions with some of their tags left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from numpy.random import Generator
from pydantic import Field

import mmkd

MOST = 64


class TagDropout(mmkd.Curator):
    """Leave out tags of a caption `title: tag, tag, ...`, each with probability `rate`; the title stays.

    Word dropout (Iyyer et al., 2015) at the level of tags: a text tower trained from scratch cannot memorise whole
    captions.

    Args:
        rate: probability that a tag is left out; 0 changes nothing.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"text"})
    conformance: ClassVar[dict[str, Any]] = {
        "samples": [{"text": f"{title}: animal, small, grey, asleep", "key": title} for title in ("cat", "dog")]
    }

    def __init__(self, rate: Annotated[float, Field(ge=0, le=1)] = 0.5) -> None:
        self.rate = rate

    def draw(self, generator: Generator) -> dict[str, Any]:
        """One number in [0, 1) per tag; tags beyond the 64th share the numbers of the first."""
        return {"tags": generator.random(MOST)}

    def apply(self, sample: mmkd.Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        title, colon, tags = sample["text"].partition(": ")
        kept = [tag for i, tag in enumerate(tags.split(", ")) if tag and draw["tags"][i % MOST] >= self.rate]
        return {**sample, "text": f"{title}{colon}{', '.join(kept)}" if kept else title}
