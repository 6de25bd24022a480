"""Names of shards: brace patterns, globs and lists."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from mmkd.errors import DataError

MOST = 100_000
"""Shards that one pattern may name."""


def find_shards(patterns: str | Sequence[str]) -> list[Path]:
    """The files that patterns name, in the order of the patterns: `pets-{000..012}.tar`, `{a,b}/*.tar`.

    Raises:
        DataError: a pattern names no file, a file that does not exist, a file twice, or nothing local.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if re.match(r"[a-z][a-z0-9+.-]*://|(pipe|file|hf-hub):", pattern):
            raise DataError("shards are local files", where=pattern, next="download them first")
        for name in expand(pattern):
            path = Path(name).expanduser()
            if path.is_file():
                found.append(path)
                continue
            matches = [Path(match) for match in sorted(glob.glob(str(path)))]
            if not matches:
                raise DataError("does not exist" if glob.escape(name) == name else "matches no file", where=str(path))
            if folder := next((match for match in matches if not match.is_file()), None):
                raise DataError("is no file", where=str(folder))
            found += matches
    if not found:
        raise DataError("no shards are named", where="shards", next="shards: data/{000..099}.tar")
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise DataError("is named twice", where=str(twice))
    return found


def expand(pattern: str) -> list[str]:
    """A pattern with braces as all its names: `{08..11}` counts, with leading zeros as written; `{a,b}` lists."""
    pairs = len(re.findall(r"\{[^{}]+\}", pattern))
    if not pattern.count("{") == pattern.count("}") == pairs:
        raise DataError("has braces that do not pair up, or are empty or nested", where=pattern)
    names = [""]
    for text, inside in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", pattern):
        choices = _choices(inside, pattern) if inside else [""]
        if len(names) * len(choices) > MOST:
            raise DataError(f"names more than {MOST:,} shards", where=pattern)
        names = [name + text + choice for name in names for choice in choices]
    return names


def _choices(inside: str, pattern: str) -> list[str]:
    if counted := re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inside):
        first, last = counted.groups()
        if int(last) < int(first):
            raise DataError(f"{{{inside}}} counts down", where=pattern)
        if int(last) - int(first) >= MOST:
            raise DataError(f"names more than {MOST:,} shards", where=pattern)
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return inside.split(",")
