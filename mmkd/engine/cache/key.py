"""The key of a cache: everything that its contents depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmkd.engine.cache.document import canonical, digest

SHOWN = 60
"""Characters of a field that errors show."""


class Key:
    """Named fields of JSON; two caches with equal fields hold the same values.

    Args:
        fields: what the values depend on, by name (`weights`, `transform`, `dataset`...); no paths and no times, so
            that a moved cache is found again.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields: dict[str, Any] = json.loads(canonical(dict(fields)))

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return digest(self.fields)

    def differs(self, other: Key) -> list[str]:
        """Names of the fields that are not equal, or that only one of the two has."""
        names = [*self.fields, *(name for name in other.fields if name not in self.fields)]
        return [name for name in names if _part(self.fields, name) != _part(other.fields, name)]

    def difference(self, other: Key) -> list[str]:
        """One line for each place of a field that is not equal: what is here and what is there, shortened."""
        return [line for name in self.differs(other) for line in _lines(name, self.fields, other.fields, name)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _part(fields: Mapping[str, Any], name: str) -> str | None:
    return canonical(fields[name]) if name in fields else None


def _lines(place: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> list[str]:
    if _part(mine, name) == _part(theirs, name):
        return []
    one, other = mine.get(name), theirs.get(name)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = [*one, *(inner for inner in other if inner not in one)]
        return [line for inner in names for line in _lines(f"{place}.{inner}", one, other, inner)]
    return [f"{place}: {_shown(mine, name)}, not {_shown(theirs, name)}"]


def _shown(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        return "nothing"
    text = json.dumps(fields[name], ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
