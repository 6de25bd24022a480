"""Specimens: fresh instances of a component, always from the same random numbers, also with other options."""

from __future__ import annotations

import contextlib
import copy
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch

from mmkd.errors import MmkdError
from mmkd.maker import Maker
from mmkd.signature import Parameter, construct, options, validate

NUMBERS = (0.5, 2, 3, 1, 4, 0.1, 0.9, 8, 0, 16)


class Specimen:
    """Makes instances of a component.

    Args:
        target: a class, or an instance, of which copies are made.
        given: options as in a recipe, nested components as maps with `use` or as objects; numbers that have no default
            and are not given are filled in.
    """

    def __init__(self, target: Any, given: Mapping[str, Any] | None = None) -> None:
        self.target = target
        self.cls: type = target if isinstance(target, type) else type(target)
        if not isinstance(target, type) and given:
            raise TypeError("options are for a class; an instance has its own")
        self.given = dict(given or {})
        if isinstance(target, type):
            self.given |= _filled(self.cls, self.given)

    @property
    def lacking(self) -> list[str]:
        """Options that must be given and are not."""
        if not isinstance(self.target, type):
            return []
        return [name for name, p in options(self.cls).items() if p.required and name not in self.given]

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        """An instance that nothing has happened to."""
        if not isinstance(self.target, type):
            return copy.deepcopy(self.target)
        with seeded(seed):
            given = {
                name: copy.deepcopy(value) if isinstance(value, torch.nn.Module) else value
                for name, value in {**self.given, **(changed or {})}.items()
            }
            return construct(self.cls, given, Maker(1).make, self.cls.__name__)

    def others(self, name: str) -> Iterator[Any]:
        """Other values that an option may have."""
        parameter = options(self.cls)[name]
        now = self.given.get(name, parameter.default)
        for value in _candidates(parameter, now):
            try:
                (checked,) = validate(self.cls, {name: value}, self.cls.__name__).values()
            except MmkdError:
                continue
            if checked != now:
                yield checked


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from `seed`; afterwards it is as before."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _filled(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers for the options that have no default."""
    made: dict[str, Any] = {}
    for name, parameter in options(cls).items():
        if parameter.required and name not in given and parameter.plain in (int, float):
            made[name] = parameter.plain(len(made) + 1)
    return made


def _candidates(parameter: Parameter, now: Any) -> Iterator[Any]:
    for kind in _members(parameter.annotation):
        if typing.get_origin(kind) is Literal:
            yield from typing.get_args(kind)
        elif kind is bool:
            yield from (True, False)
        elif kind in (int, float):
            near = (now * 2, now / 2, now + 1, now - 1) if isinstance(now, int | float) else ()
            yield from (kind(n) for n in (*near, *NUMBERS) if kind(n) == n)
        elif kind is type(None):
            yield None


def _members(annotation: Any) -> Iterator[Any]:
    """The plain types and literals of an annotation."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _members(annotation.__origin__)
    elif origin in (typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            yield from _members(inner)
    else:
        yield annotation
