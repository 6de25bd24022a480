"""What a registered component must be, whatever its kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmkd import load_recipe
from mmkd.plugins import host
from mmkd.registry import Entry
from mmkd.report.description import as_text, describe
from mmkd.signature import options, ports, validate
from mmkd.testing.probe import NotApplicable, Probes, ask, require

ENTRY = Probes()


@ENTRY("register 'module:Class' (or 'module:path.yaml') that exists and derives from the kind's class", first=True)
def loads(entry: Entry) -> None:
    """A lazy target is first imported when a user asks for it."""
    entry.check()
    if entry.kind == "recipe":
        require(entry.source().read_text(encoding="utf-8").strip(), "the recipe is empty")
    else:
        entry.load()


@ENTRY("begin the class docstring (the recipe's first comment) with one sentence of at most 140 characters")
def summary(entry: Entry) -> None:
    """`mmkd list` shows that line, read without importing the class."""
    line = entry.summary
    require(line, "has no summary: the first line of its docstring is empty, or is not on the line after `class`")
    require(len(line) <= 140, f"the summary has {len(line)} characters: {line}")
    if entry.kind != "recipe":
        document = (inspect.getdoc(entry.load()) or "").splitlines()
        require(document and document[0].strip() == line, f"list shows {line!r}, the class says {document[:1]}")


@ENTRY("mmkd show ID names what cannot be described")
def shows(entry: Entry) -> None:
    """`mmkd show` is the manual of a component."""
    text = as_text(describe(entry))
    require(entry.id in text and entry.summary in text, "its page lacks id or summary")


@ENTRY("name every option in the class docstring, with its meaning and unit")
def options_documented(entry: Entry) -> None:
    """An option that only its author understands is not one."""
    if entry.kind == "recipe":
        raise NotApplicable
    cls = entry.load()
    own = [c for c in cls.__mro__ if not c.__module__.startswith(("torch.", "builtins"))]
    text = " ".join([*(c.__doc__ or "" for c in own), cls.__init__.__doc__ or ""])  # type: ignore[misc]
    silent = [name for name in options(cls) if not re.search(rf"\b{re.escape(name)}\b", text)]
    require(not silent, f"the docstring does not mention {', '.join(silent)}")


@ENTRY("add a section `Shape:` with a layout for every port and the result")
def shapes_documented(entry: Entry) -> None:
    """A port is bound by what it may hold."""
    if entry.kind not in ("projector", "mixer", "loss", "schedule", "metric"):
        raise NotApplicable
    cls = entry.load()
    if entry.kind == "schedule" and not ports(cls):
        raise NotApplicable
    told = str(describe(entry)["shapes"])
    require(told, "the docstring has no section `Shape:`")
    silent = [n for n, p in ports(cls).items() if p.required and not re.search(rf"\b{n}\b", told)]
    require(not silent, f"`Shape:` does not mention port {', '.join(silent)}")


@ENTRY("annotate every option: `temperature: float = 1.0`")
def options_annotated(entry: Entry) -> None:
    """The host checks options against their annotations; without one anything goes in."""
    if entry.kind == "recipe":
        raise NotApplicable
    cls = entry.load()
    known = options(cls)
    signature = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    bare = [name for name in known if signature[name].annotation is inspect.Parameter.empty]
    require(not bare, f"no annotation for {', '.join(bare)}")
    if not any(parameter.required for parameter in known.values()):
        validate(cls, {name: parameter.default for name, parameter in known.items()}, entry.id)


@ENTRY("correct the recipe: mmkd explain ID")
def recipe_reads(entry: Entry) -> None:
    """A packaged recipe is where users start from."""
    if entry.kind != "recipe":
        raise NotApplicable
    recipe = load_recipe(entry.id)
    for use in dict.fromkeys(_uses(recipe.model_dump())):
        require(host().catalogue.select(lambda e, use=use: e.id == use), f"uses '{use}', which is not installed")  # type: ignore[misc]


def check_entry(entry: Entry) -> list[str]:
    """Ask a registered component what is asked of every kind.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    return ask(f"{entry.kind} {entry.id}", entry, ENTRY)


def _uses(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "use" and isinstance(item, str):
                yield item
            else:
                yield from _uses(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _uses(item)
