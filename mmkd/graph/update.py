"""State that follows the batch: queues, banks and centres, told what was seen once per applied optimiser step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.components import Part
from mmkd.graph.binding import Binding


class Updates:
    """Calls `update` of each part that defines it, on the whole batch of a step, however many parts it came in."""

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        told = [(binding, _ports(binding.module)) for binding in bindings if _updates(binding.module)]
        self._ports = [(_told(binding, names), names) for binding, names in told]
        self._pending: list[list[dict[str, Any]]] = []  # what those ports read, by micro-batch

    def __bool__(self) -> bool:
        return bool(self._ports)

    @property
    def reads(self) -> list[str]:
        """Addresses of what `update` is told."""
        return [address.key for binding, _ in self._ports for address, _ in binding.readers()]

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Keep what the ports read of a micro-batch."""
        self._pending.append([binding.arguments(values, float32=True, detached=True) for binding, _ in self._ports])

    def forget(self) -> None:
        """The step was skipped."""
        self._pending.clear()

    def apply(self, step: int, total: int) -> None:
        """Hand over what was kept since the last step."""
        if not self._pending:
            return
        clock = {"step": step, "total": total}
        with torch.no_grad():
            for (binding, names), *parts in zip(self._ports, *self._pending, strict=True):
                times = {name: count for name, count in clock.items() if name in names}
                binding.module.update(**{**times, **_joined(parts)})
        self._pending.clear()


def _updates(module: nn.Module) -> bool:
    return isinstance(module, Part) and type(module).update is not Part.update


def _ports(module: nn.Module) -> frozenset[str]:
    assert isinstance(module, Part)
    return frozenset(inspect.signature(module.update).parameters)


def _told(binding: Binding, names: frozenset[str]) -> Binding:
    """The binding with the ports alone that `update` names."""
    return replace(binding, ports={port: bound for port, bound in binding.ports.items() if port in names})


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The micro-batches of one step as one batch."""
    if len(parts) == 1:
        return dict(parts[0])
    return {
        port: [torch.cat(column) for column in zip(*(part[port] for part in parts), strict=True)]
        if isinstance(first, list)
        else torch.cat([part[port] for part in parts])
        for port, first in parts[0].items()
    }
