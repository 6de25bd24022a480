"""HTML and SVG elements whose text is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

VOID = frozenset({"img", "meta", "link", "br"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element: `tag("p", "a < b", class_="note")`. Children that are not `Html` are escaped, lists are joined.

    An attribute's trailing underscore goes and other underscores become hyphens; None and False leave it out, True
    writes it bare.
    """
    written = "".join(
        f" {_attribute(key)}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def join(children: Iterable[Any]) -> Html:
    """Children one after the other, each escaped unless it is markup."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, list | tuple):
            parts.append(join(child))
        elif child is not None:
            parts.append(escape(str(child)))
    return Html("".join(parts))


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]], **attributes: Any) -> Html:
    """A table in a box that scrolls by itself where the page is too narrow."""
    columns = tag("tr", [tag("th", cell, scope="col") for cell in head])
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in rows]
    return scrolling(tag("table", tag("thead", columns), tag("tbody", body), **attributes), "table")


def scrolling(content: Html, label: str) -> Html:
    """A box that scrolls sideways by itself, with the keyboard too."""
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def _attribute(key: str) -> str:
    """`viewBox` stays as it is, `class_` is `class`, `text_anchor` is `text-anchor`."""
    return key.rstrip("_").replace("_", "-")
