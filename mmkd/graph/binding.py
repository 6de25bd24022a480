"""Binding: each port of a component to the value, or list of values, that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.components import Mixer, kind_of
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

    def readers(self) -> Iterator[tuple[Address, str]]:
        """Each address with its place in the recipe."""
        for port, bound in self.ports.items():
            for address in bound if isinstance(bound, list) else [bound]:
                yield address, f"{self.where}.{port}"

    def models(self) -> Iterator[tuple[Address, str]]:
        """The addresses of `like`, likewise."""
        like = self.like if isinstance(self.like, list) else [self.like]
        yield from ((address, f"{self.where}.like") for address in like if address is not None)

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

    def value(self, values: Mapping[str, Tensor]) -> Tensor:
        """What a projector or mixer makes of the values."""
        made: Tensor = self.module(**self.arguments(values, float32=isinstance(self.module, Mixer)))
        return made

    def shapes(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `setup` is called with."""
        bound = self.ports if self.like is None else {**self.ports, "like": self.like}
        return {
            port: [values[a.key].shape for a in each] if isinstance(each, list) else values[each.key].shape
            for port, each in bound.items()
        }


def _read(values: Mapping[str, Tensor], address: Address, float32: bool, detached: bool) -> Tensor:
    value = values[address.key]
    if detached or address.detached:
        value = value.detach()
    if float32 and isinstance(value, Tensor) and value.dtype in HALF:
        value = value.float()
    return value


def bind(name: str, module: nn.Module, written: Mapping[str, Any], where: str) -> Binding:
    """Bind the ports of `module` to the values written in the recipe.

    Raises:
        GraphError: a port is unknown, unbound, or bound to one value where it takes several or the reverse.
    """
    cls = type(module)
    known = ports(cls)
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
    return Binding(name, module, bound, where)
