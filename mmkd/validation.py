"""Pydantic's complaints as errors of ours: place in the recipe, what exists, nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pydantic

from mmkd.errors import RecipeError

_KINDS = {"model_type": "a map", "dict_type": "a map", "list_type": "a list", "string_type": "text"}


def explain(error: pydantic.ValidationError, data: Any) -> RecipeError:
    """The first complaint about `data`; `where` is its dotted place."""
    detail = error.errors(include_url=False)[0]
    place = _place(detail["loc"], data)
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            return RecipeError("is required", where=".".join([*place, str(detail["loc"][-1])]))
        case "unknown_key":
            name, exists = context["name"], context["exists"]
            return RecipeError(f"unknown key '{name}'", where=".".join([*place, name]), name=name, exists=exists)
        case "literal_error":
            exists = re.findall(r"'([^']*)'", context["expected"])
            what = f"cannot be {shown(detail['input'])}"
            return RecipeError(what, where=".".join(place), name=str(detail["input"]), exists=exists)
        case "too_short":
            what = f"must have a length of at least {context['min_length']}"
        case "too_long":
            what = f"must have a length of at most {context['max_length']}"
        case "value_error":
            what = f"{context['error']}"
        case kind if kind in _KINDS:
            what = f"must be {_KINDS[kind]}"
        case _:
            what = detail["msg"].replace("Input should be", "must be").replace("String should", "must")
            what = what[0].lower() + what[1:]
    given = detail["input"]
    return RecipeError(
        what if detail["type"] == "value_error" and isinstance(given, Mapping) else f"{what}, not {shown(given)}",
        where=".".join(place),
    )


def shown(value: Any) -> str:
    """A value the way a recipe writes it, shortened."""
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) < 80 else text[:77] + "..."


def _place(location: tuple[int | str, ...], data: Any) -> list[str]:
    """The parts of pydantic's location that are keys of `data`; tags of unions and validators are not."""
    place = []
    for part in location:
        match data, part:
            case Mapping(), _ if part in data:
                data = data[part]
            case list(), int(index) if index < len(data):
                data = data[index]
            case _:
                continue
        place.append(str(part))
    return place
