"""Options and ports of a component, read from its signatures; options validated by pydantic."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from mmkd.components import BASES, Schedule, kind_of
from mmkd.errors import MmkdError, PluginError, RecipeError
from mmkd.registry import RESERVED

SHARED_PORTS = ("loss", "projector", "mixer", "schedule", "metric")
"""Kinds whose ports are written beside their options, so that the two may not share a name."""


@dataclass(frozen=True)
class Parameter:
    """One option or port: its annotation and default (`required` where it has none)."""

    name: str
    annotation: Any
    default: Any
    required: bool

    @property
    def plain(self) -> Any:
        """The annotation without its constraints."""
        return self.annotation.__origin__ if typing.get_origin(self.annotation) is typing.Annotated else self.annotation

    @property
    def many(self) -> bool:
        """Whether a port takes a list of values."""
        return typing.get_origin(self.plain) in (list, tuple) or self.plain in (list, tuple)

    @property
    def nested(self) -> str | None:
        """The kind of component that an option takes (`image: mmkd.Encoder`), or None."""
        return _nested_kind(self.annotation)

    @property
    def maps(self) -> bool:
        """Whether an option takes maps as they are (`dict[str, Any] | None`), and not what they would make."""
        kinds = (self.plain, *typing.get_args(self.plain))
        return any(kind is dict or typing.get_origin(kind) is dict for kind in kinds)

    @property
    def type_name(self) -> str:
        """The annotation as a reader writes it, with its constraints: `float (gt=0)`."""
        if self.annotation is Any:
            return "Any"
        metadata = getattr(self.annotation, "__metadata__", ())
        bounds = [bound for item in metadata for bound in getattr(item, "metadata", [item])]
        shown = ", ".join(repr(bound).partition("(")[2].removesuffix(")") for bound in bounds)
        name = re.sub(r"\b[\w.]+\.(?=\w)", "", inspect.formatannotation(self.plain))
        return name + (f" ({shown})" if shown else "")


def options(cls: type) -> dict[str, Parameter]:
    """Parameters of `__init__`, by name."""
    return _parameters(cls.__init__) if cls.__init__ is not object.__init__ else {}  # type: ignore[misc]


def ports(cls: type) -> dict[str, Parameter]:
    """Parameters of `forward`, by name; `step` and `total` of a schedule are the host's."""
    forward = getattr(cls, "forward", None)
    found = _parameters(forward) if forward is not None else {}
    clock = ("step", "total") if issubclass(cls, Schedule) else ()
    return {name: port for name, port in found.items() if name not in clock}


def _parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    found = {}
    for p in list(inspect.signature(function).parameters.values())[1:]:
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            required = p.default is p.empty
            annotation = _annotation(function, p.annotation) if p.annotation is not p.empty else Any
            found[p.name] = Parameter(p.name, annotation, None if required else p.default, required)
    return found


def _annotation(function: Callable[..., Any], annotation: Any) -> Any:
    """The annotation with names and constraints resolved; Any where a name exists for the type checker only."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(holder, globalns=scope, include_extras=True)["it"]
    except NameError:
        return Any


def check_names(cls: type, id: str) -> None:
    """Raise where an option or port takes a reserved name, or one name is both."""
    kind = kind_of(cls)
    keys = RESERVED | ({"mask", "sample_weight"} - ports(cls).keys() if kind == "loss" else set())
    named = {"option": options(cls), "port": ports(cls) if kind in SHARED_PORTS else {}}
    for what, parameters in named.items():
        for name in parameters:
            if name in keys and not (what == "port" and kind == "projector" and name == "like"):
                raise PluginError(f"{what} '{name}' of '{id}' is a reserved key", exists=sorted(keys))
    for name in named["option"].keys() & named["port"].keys():
        raise PluginError(f"'{name}' of '{id}' is both an option and a port")


def construct(cls: type, given: Mapping[str, Any], build: Callable[[str, Any, str], Any], where: str) -> Any:
    """Build a component from a recipe's options.

    Args:
        given: options by name; one annotated with a kind (`image: mmkd.Encoder`) is a nested component.
        build: makes a nested component from (kind, its recipe, its place).
        where: place in the recipe, for errors.
    """
    known = options(cls)
    for name in given:
        if name not in known:
            raise RecipeError(
                f"unknown option '{name}' of {cls.__name__}", where=f"{where}.{name}", name=name, exists=list(known)
            )
    values = dict(given)
    for name, value in given.items():
        kind = known[name].nested
        if kind and isinstance(value, Mapping) and "use" in value:
            values[name] = build(kind, value, f"{where}.{name}")
        elif kind and isinstance(value, list):
            values[name] = [build(kind, item, f"{where}.{name}.{i}") for i, item in enumerate(value)]
    checked = validate(cls, values, where)
    try:
        return cls(**checked)
    except MmkdError as error:
        raise error.at(where) from error.__cause__
    except Exception as error:
        raise RecipeError(f"{cls.__name__} refused its options: {error}", where=where) from error


def validate(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check option values against their annotations; returns the values that were given, converted."""
    model = _model(cls)
    try:
        checked = model(**values)
    except pydantic.ValidationError as error:
        raise RecipeError(first_error(error, where).what, where=first_error(error, where).where) from None
    return {name: getattr(checked, f"option_{name}") for name in values}


def first_error(error: pydantic.ValidationError, where: str) -> RecipeError:
    """The first complaint of pydantic as an error of ours, with its place in the recipe."""
    detail = error.errors(include_url=False)[0]
    place = ".".join([where, *(str(part) for part in detail["loc"] if not str(part).startswith("function-"))])
    shown = repr(detail.get("input"))
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if detail["type"] == "missing":
        return RecipeError("is required", where=place)
    return RecipeError(f"{message}, not {shown if len(shown) < 80 else shown[:77] + '...'}", where=place)


def _model(cls: type) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {  # prefixed, so that an option may be called `copy` or `schema`
        f"option_{name}": (p.annotation, pydantic.Field(... if p.required else p.default, alias=name))
        for name, p in options(cls).items()
    }
    config = pydantic.ConfigDict(
        arbitrary_types_allowed=True, allow_inf_nan=False, extra="forbid", protected_namespaces=()
    )
    return pydantic.create_model(cls.__name__, __config__=config, **fields)


def _nested_kind(annotation: Any) -> str | None:
    """The kind named by an annotation such as `mmkd.Encoder`, `Encoder | None` or `list[Encoder]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return next((kind for kind, base in BASES.items() if annotation is base), None)
    return next((kind for inner in typing.get_args(annotation) if (kind := _nested_kind(inner))), None)
