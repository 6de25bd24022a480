"""Binding: each port of a component to the value, or list of values, that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.components import Mixer, Part, kind_of
from mmkd.errors import GraphError
from mmkd.graph.value import Address, parse
from mmkd.signature import ports

HALF = frozenset({torch.bfloat16, torch.float16})

DEFAULT = {"label": "batch.label"}
"""Ports that are bound without a word in the recipe."""


@dataclass
class Binding:
    """A component with the addresses of its ports, and where it stands in the recipe."""

    name: str
    module: nn.Module
    ports: dict[str, Address | list[Address]]
    where: str
    like: Address | list[Address] | None = None
    """Value whose shape a projector must produce; read once, when widths are inferred."""
    use: str = ""
    """Id of the component; empty where it was made by hand."""

    @property
    def needs_setup(self) -> bool:
        """Whether the component is not ready before its `setup`, or has something to train."""
        module = self.module
        own = isinstance(module, Part) and type(module).setup is not Part.setup
        return own or any(True for _ in module.parameters())

    def readers(self) -> Iterator[tuple[Address, str]]:
        """Each address with its place in the recipe."""
        for port, bound in self.ports.items():
            for address in bound if isinstance(bound, list) else [bound]:
                yield address, f"{self.where}.{port}"

    def models(self) -> Iterator[tuple[Address, str]]:
        """The addresses of `like`, likewise."""
        like = self.like if isinstance(self.like, list) else [self.like]
        yield from ((address, f"{self.where}.like") for address in like if address is not None)

    @cached_property
    def needs_graph(self) -> bool:
        """Whether the component differentiates one of its values in another."""
        return any(address.graph for address, _ in self.readers())

    def arguments(
        self, values: Mapping[str, Tensor], *, float32: bool = False, detached: bool = False
    ) -> dict[str, Any]:
        """What `forward` is called with: half precision widened where `float32`, no gradient where `detached`."""
        return {
            port: [_read(values, a, float32, detached) for a in bound]
            if isinstance(bound, list)
            else _read(values, bound, float32, detached)
            for port, bound in self.ports.items()
        }

    def call(self, arguments: Mapping[str, Any]) -> Tensor:
        """What the component makes of its arguments.

        Raises:
            GraphError: it differentiates in a value that has no graph.
        """
        try:
            if not self.needs_graph:
                return self.module(**arguments)  # type: ignore[no-any-return]
            with torch.enable_grad():
                made: Tensor = self.module(**arguments)
        except RuntimeError as error:
            if (what := undeclared(error, self.module)) is None:
                raise
            raise GraphError(
                what, where=self.where, name="needs_graph",
                next="declare the ports that it differentiates, and differentiates in: "
                "needs_graph = frozenset({...}); bind them to a network's output and a tap of the same pass",
            ) from error  # fmt: skip
        return made if torch.is_grad_enabled() else made.detach()

    def value(self, values: Mapping[str, Tensor]) -> Tensor:
        """What a projector or mixer makes of the values."""
        return self.call(self.arguments(values, float32=isinstance(self.module, Mixer)))

    def shapes(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `setup` is called with."""
        bound = self.ports if self.like is None else {**self.ports, "like": self.like}
        return {
            port: [_shape(values, a, port) for a in each] if isinstance(each, list) else _shape(values, each, port)
            for port, each in bound.items()
        }


def undeclared(error: Exception, module: nn.Module) -> str | None:
    """What is wrong where autograd says that one value is not made of another; None for any other error."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    if "differentiated Tensor" not in said and "does not require grad" not in said:
        return None
    declared = ", ".join(sorted(getattr(module, "needs_graph", ()))) or "nothing"
    return (
        f"{type(module).__name__} differentiates in a value that has no graph to what is differentiated; "
        f"its needs_graph declares {declared}"
    )


def _shape(values: Mapping[str, Tensor], address: Address, port: str) -> torch.Size:
    plain = replace(address, plain=True).key
    return values[plain if port == "like" and plain in values else address.key].shape


def _read(values: Mapping[str, Tensor], address: Address, float32: bool, detached: bool) -> Tensor:
    value = values[address.slot]
    if detached or address.detached:
        value = value.detach()
    if float32 and isinstance(value, Tensor) and value.dtype in HALF and not address.graph:
        value = value.float()
    return value


def bind(name: str, module: nn.Module, written: Mapping[str, Any], where: str) -> Binding:
    """Bind the ports of `module` to the values written in the recipe.

    Raises:
        GraphError: a port is unknown, unbound, or bound to one value where it takes several or the reverse.
    """
    cls = type(module)
    known = ports(cls)
    graphed: frozenset[str] = getattr(module, "needs_graph", frozenset())
    if graphed - known.keys():
        name = min(graphed - known.keys())
        raise GraphError(f"needs_graph of {cls.__name__} names no port '{name}'", where=where, exists=list(known))
    bound: dict[str, Address | list[Address]] = {}
    for port, value in written.items():
        place = f"{where}.{port}"
        if port not in known:
            raise GraphError(f"{cls.__name__} has no port '{port}'", where=place, name=port, exists=list(known))
        if isinstance(value, list):
            if known[port].annotation is Tensor:
                raise GraphError(f"port '{port}' takes one value, not a list", where=place)
            bound[port] = [parse(item, f"{place}.{i}") for i, item in enumerate(value)]
        else:
            address = parse(value, place)
            bound[port] = [address] if known[port].many else address
    for port, parameter in known.items():
        if port in bound:
            continue
        if port in DEFAULT and parameter.required:
            bound[port] = parse(DEFAULT[port], f"{where}.{port}")
        elif parameter.required:
            raise GraphError(
                f"port '{port}' of {kind_of(cls) or 'component'} {cls.__name__} is not bound",
                where=where,
                exists=[f"{p}{'' if known[p].required else ' (optional)'}" for p in known],
                next=f"write {port}: <value>, for example {port}: student.logits",
            )
    for port in graphed & bound.keys():
        both = bound[port]
        place = f"{where}.{port}"
        bound[port] = [_graphed(a, place) for a in both] if isinstance(both, list) else _graphed(both, place)
    return Binding(name, module, bound, where)


def _graphed(address: Address, where: str) -> Address:
    """The address, read with its graph."""
    if address.detached or address.node == "batch":
        what = "is detached" if address.detached else "is a field of the batch"
        fix = address.key if address.detached else "the input of a network's first module: node/<module>.input"
        raise GraphError(f"'{address}' {what}, and this port is differentiated", where=where, next=f"write {fix}")
    return replace(address, graph=True)
