"""What a component is, as data: its documentation, ports and options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

from mmkd.registry import Entry


def summary(entry: Entry) -> dict[str, Any]:
    """One line about a component, read without importing it."""
    return {
        "id": entry.id,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "paper": entry.paper,
        "counts_as": entry.counts_as,
        "summary": entry.summary,
    }


def describe(entry: Entry) -> dict[str, Any]:
    """All there is to know about a component; imports it.

    Raises:
        PluginError: it cannot be imported, or is not what it was registered as.
    """
    about = {**summary(entry), "url": entry.url, "needs": list(entry.needs)}
    if entry.kind == "recipe":
        from mmkd.recipe import load_recipe

        text = entry.source().read_text(encoding="utf-8")
        return {**about, "left_open": load_recipe(entry.source()).left_open(), "recipe": text}
    cls = entry.load()
    from mmkd.signature import options, ports

    traits = {
        name: getattr(cls, name) for name in ("coupled", "min_batch", "capabilities", "fields") if hasattr(cls, name)
    }
    document = inspect.getdoc(cls) or ""
    return {
        **about,
        **{name: sorted(value) if isinstance(value, frozenset) else value for name, value in traits.items()},
        "docstring": document,
        "shapes": shapes(document),
        "ports": _parameters(ports(cls).values()),
        "options": _parameters(options(cls).values()),
    }


def shapes(document: str) -> str:
    """The `Shape:` section of a docstring, without its title."""
    lines = iter(document.splitlines())
    first = next((line for line in lines if line.startswith("Shape:")), None)
    if first is None:
        return ""
    section = [first.removeprefix("Shape:").strip()]
    for line in lines:
        if not line.strip():
            break
        section.append(line)
    return inspect.cleandoc("\n".join(section)).strip()


def _parameters(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    described = []
    for p in parameters:
        about: dict[str, Any] = {"name": p.name, "type": p.type_name, "required": p.required}
        described.append(about if p.required else {**about, "default": _plain(p.default)})
    return described


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


def as_text(about: Mapping[str, Any]) -> str:
    """A description as a page to read."""
    home = " ".join(part for part in (about["distribution"], about["version"]) if part)
    parts = [f"{about['kind']} {about['id']} ({home})", about.get("docstring") or about["summary"]]
    facts = {
        name: about.get(name) for name in ("paper", "url", "needs", "coupled", "min_batch", "capabilities", "fields")
    }
    shown = {
        name: ", ".join(value) if isinstance(value, list) else str(value) for name, value in facts.items() if value
    }
    parts += ["\n".join(f"{name:14}{value}" for name, value in shown.items() if (name, value) != ("min_batch", "1"))]
    for title in ("ports", "options"):
        if rows := about.get(title):
            parts.append("\n".join([f"{title}:", *_rows(rows)]))
    if "recipe" in about:
        if left := about["left_open"]:
            parts.append(
                f"Yours to give: {', '.join(left)}; in a recipe that begins with\n\n  recipe: {about['id']}\n\n"
                "or from Python: mmkd.distill(recipe, nodes={...}, data={...})"
            )
        parts.append(about["recipe"].rstrip())
    return "\n\n".join(part for part in parts if part)


def _rows(parameters: list[dict[str, Any]]) -> list[str]:
    width = max(len(p["name"]) for p in parameters)
    values = ["" if p["required"] else f" = {p['default']!r}" for p in parameters]
    return [f"  {p['name']:{width}}  {p['type']}{value}" for p, value in zip(parameters, values, strict=True)]
