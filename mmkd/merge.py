"""Layers of a recipe: what it starts from, what it says itself, overrides; and how they become one."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd import yaml
from mmkd.errors import RecipeError
from mmkd.spec import check_id
from mmkd.validation import shown

ALTERNATIVES = {"": (("teacher", "teachers"), ("student", "students")), "train": (("steps", "epochs"),)}
"""Pairs of which a recipe has one, by place: a layer that gives one takes the other away from the layer below."""
SOURCES = ("use", "average", "stage")
"""Keys that say where a component comes from; a layer that gives another one replaces the component below."""
IMPLIED = frozenset(
    {"train", "data", "losses", "projectors", "mixers", "schedules", "teachers", "students", "baseline", "inputs"}
)
"""Maps that an override may begin."""


@dataclass(frozen=True)
class Layer:
    """Part of a recipe as one source gives it; `label` names the source in errors, `key` is where an override acts."""

    label: str
    data: dict[str, Any]
    key: tuple[str, ...] = ()

    def depth(self, place: Sequence[str]) -> int:
        """How many leading parts of a place this layer gives itself; -1 for an override that acts elsewhere."""
        if tuple(place[: len(self.key)]) != self.key:
            return -1
        data: Any = self.data
        for depth, part in enumerate(place):
            if isinstance(data, list) and part.isdigit() and int(part) < len(data):
                data = data[int(part)]
            elif isinstance(data, Mapping) and part in data:
                data = data[part]
            else:
                return depth
        return len(place)


def blame(layers: Sequence[Layer], where: str) -> str:
    """Label of the topmost layer that says most of the place `where`."""
    place = where.split(".")
    return max(reversed(layers), key=lambda layer: layer.depth(place)).label


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """`patch` over `base`: maps merge, everything else replaces, `null` removes what the base has.

    A component whose `use` changes replaces the base's, since options and ports of one mean nothing to another.
    """
    source, sources = ([key for key in SOURCES if layer.get(key) is not None] for layer in (patch, base))
    if source and sources and (source != sources or ("use" in patch and patch["use"] != base["use"])):
        return dict(patch)
    merged = dict(base)
    for pair in ALTERNATIVES.get(place, ()):
        for given, other in (pair, pair[::-1]):
            if patch.get(given) is not None and other not in patch:
                merged.pop(other, None)
    for key, value in patch.items():
        below = merged.get(key)
        if value is None and key in merged:
            del merged[key]
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value, f"{place}.{key}" if place else key)
        else:
            merged[key] = value
    return merged


def flatten(layers: Iterable[Layer]) -> dict[str, Any]:
    """All layers merged, the first at the bottom."""
    return functools.reduce(merge, (layer.data for layer in layers), {})


def override(data: dict[str, Any], text: str) -> tuple[dict[str, Any], Layer]:
    """Apply `train.lr=1e-3` to a recipe; returns the changed recipe and the override as a layer.

    The value is YAML in flow style. Everything but the last part of the key must exist; `null` removes.

    Raises:
        RecipeError: the text is no `key=value`, or the key names nothing in the recipe.
    """
    label = f"override '{text}'"
    key, equals, written = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path) or not written.strip():
        raise RecipeError("is not 'key=value'", where=label, next="write it like train.lr=1e-3, or losses.kd=null")
    value = plain(yaml.parse(written, label), label, key)
    layer = Layer(label, _nested(path, value), tuple(path))
    return _put(data, path, value, label, ""), layer


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: value if len(path) == 1 else _nested(path[1:], value)}


def _put(data: Any, path: Sequence[str], value: Any, label: str, place: str) -> Any:
    """`data` with the value at `path`, which is below `place` in the whole recipe."""
    part, rest = path[0], path[1:]
    here = f"{place}.{part}" if place else part
    if isinstance(data, list):
        if not part.isdigit() or int(part) >= len(data):
            exists = [str(i) for i in range(len(data))]
            raise RecipeError(f"no item '{part}'", where=f"{label}: {here}", exists=exists)
        item = _put(data[int(part)], rest, value, label, here) if rest else value
        return [item if i == int(part) else old for i, old in enumerate(data) if i != int(part) or item is not None]
    if not isinstance(data, Mapping):
        raise RecipeError(f"'{place}' is {shown(data)}, not a map", where=f"{label}: {here}")
    if part not in data and (value is None if not rest else part not in IMPLIED):
        raise RecipeError(f"no '{here}'", where=f"{label}: {here}", name=part, exists=list(data))
    if rest:
        return {**data, part: _put(data.get(part, {}), rest, value, label, here)}
    return merge(data, {part: value}, place)


def plain(value: Any, label: str, place: str = "", depth: int = 0) -> Any:
    """A copy that holds nothing but maps, lists, text, finite numbers, true, false and null, with well-formed ids.

    Raises:
        RecipeError: it holds anything else, or nests too deeply.
    """
    where = f"{label}: {place}" if place else label
    if depth > yaml.MAX_DEPTH:
        raise RecipeError(f"nests deeper than {yaml.MAX_DEPTH} levels", where=where)
    match value:
        case Mapping():
            copy = {}
            for key, item in value.items():
                inner = f"{place}.{key}" if place else str(key)
                if not isinstance(key, str):
                    raise RecipeError(f"key {key!r} is not text", where=where)
                if key == "use" and isinstance(item, str):
                    try:
                        check_id(item)
                    except ValueError as error:
                        what = f"{error}, not '{item}'"
                        raise RecipeError(what, where=f"{label}: {inner}", next="mmkd list") from None
                copy[key] = plain(item, label, inner, depth + 1)
            return copy
        case list() | tuple():
            return [plain(item, label, f"{place}.{i}", depth + 1) for i, item in enumerate(value)]
        case float() if not math.isfinite(value):
            raise RecipeError(f"must be a finite number, not {value}", where=where)
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
    raise RecipeError(
        f"a recipe holds plain data, not {type(value).__name__}",
        where=where,
        next="hand objects in from Python: mmkd.distill(recipe, nodes={...}, data={...})",
    )
