"""The grammar of values: which tensor a recipe means.

`node.name` published · `node/module.path` tap (`.input`, `.0`, a parameter; `#2` the second call) ·
`node@view.name` · `batch.field` · `batch@stream.field` · a projector's own name · `detach(...)` around any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

from mmkd.errors import GraphError

_GRAMMAR = re.compile(
    r"(?P<node>[a-z][a-z0-9_]*)(?:@(?P<view>[a-z][a-z0-9_]*))?(?:\.(?P<name>[^/#@\s()]+)|/(?P<path>[^/#@\s()]+))?(?:\#(?P<call>[1-9][0-9]*))?"
)


@dataclass(frozen=True)
class Address:
    """Where one value comes from."""

    node: str
    name: str = ""
    path: str = ""
    view: str = ""
    call: int = 0
    detached: bool = False
    plain: bool = False
    """Read in a pass of its own, in which the network takes no inner inputs."""
    graph: bool = False
    """Read with the graph of the network behind it: at a port of `needs_graph`."""

    @cached_property
    def key(self) -> str:
        """The address without `detach`, as written."""
        view = f"@{self.view}" if self.view else ""
        rest = f"/{self.path}" if self.path else f".{self.name}" if self.name else ""
        written = f"{self.node}{view}{rest}" + (f"#{self.call}" if self.call else "")
        return f"plain({written})" if self.plain else written

    @cached_property
    def slot(self) -> str:
        """Where the value lies among those of a plan."""
        return with_graph(self.key) if self.graph else self.key

    @cached_property
    def run(self) -> str:
        """Node and view: what one forward pass serves."""
        id = f"{self.node}@{self.view}" if self.view else self.node
        return f"plain({id})" if self.plain else id

    def __str__(self) -> str:
        return f"detach({self.key})" if self.detached else self.key


def with_graph(key: str) -> str:
    """Where a value lies with its graph, beside the one that everybody else reads."""
    return f"graph({key})"


def parse(text: object, where: str = "") -> Address:
    """Read one address.

    Raises:
        GraphError: `text` is not of the grammar.
    """
    if not isinstance(text, str):
        raise GraphError(f"a value is written as text, not {text!r}", where=where)
    inner = text.strip()
    if inner.startswith("detach(") and inner.endswith(")"):
        return replace(parse(inner[7:-1], where), detached=True)
    match = _GRAMMAR.fullmatch(inner)
    if not match or (match["call"] and not match["path"]):
        raise GraphError(
            f"{text!r} is not a value",
            where=where,
            exists=["node.name", "node/module.path", "node@view.name", "batch.field", "projector", "detach(...)"],
        )
    node, view, name, path = (match[part] or "" for part in ("node", "view", "name", "path"))
    return Address(node, name, path, view, int(match["call"] or 0))
