"""The plan: the least that has to run for a set of values, in order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.errors import GraphError, MmkdError
from mmkd.graph.binding import Binding
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.value import Address


class Plan:
    """One forward per (network, view), then the projectors and mixers that the wanted values stand on.

    Args:
        nodes: every network by name.
        bound: every projector and mixer by name, as bound.
        readers: addresses that somebody wants, each with its place in the recipe.
        probing: also run what a projector's `like` names.

    Raises:
        GraphError: a value does not exist (with the nearest that does), or projectors and mixers form a cycle.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        bound: Mapping[str, Binding],
        readers: Iterable[tuple[Address, str]],
        *,
        probing: bool = False,
    ) -> None:
        self.derived: list[Binding] = []
        """Projectors and mixers, each after those that it reads."""
        self.fields: dict[str, Address] = {}
        by_run: dict[str, dict[str, Address]] = {}
        self.where: dict[str, str] = {}
        """Place in the recipe of each address that is read."""
        where = self.where
        path: list[str] = []

        def need(address: Address, place: str) -> None:
            where.setdefault(address.key, place)
            if address.node == "batch":
                if not address.name:
                    raise GraphError("'batch' needs a field", where=place, next="write batch.<field>")
                self.fields[address.key] = address
            elif address.node in nodes:
                by_run.setdefault(address.run, {})[address.key] = address
            elif address.node in bound and not (address.name or address.path or address.view):
                derive(bound[address.node])
            else:
                raise GraphError(
                    f"nothing is called '{address.key}'", where=place, name=address.node,
                    exists=[*nodes, *bound, "batch"],
                )  # fmt: skip

        def derive(binding: Binding) -> None:
            if any(binding is known for known in self.derived):
                return
            if binding.name in path:
                cycle = [*path[path.index(binding.name) :], binding.name]
                raise GraphError(f"cycle: {' -> '.join(cycle)}", where=binding.where)
            path.append(binding.name)
            for address, place in [*binding.readers(), *(binding.models() if probing else ())]:
                need(address, place)
            path.pop()
            self.derived.append(binding)

        for address, place in readers:
            need(address, place)
        self.runs = [
            NodeRun(nodes[a.node], a.view, list(group.values()), where)
            for group in by_run.values()
            for a in [next(iter(group.values()))]
        ]

    @property
    def nodes(self) -> dict[str, list[Node]]:
        """By stream or view that is read, "" being the batch itself: the networks that run on it."""
        nodes: dict[str, list[Node]] = {"": [], **{address.view: [] for address in self.fields.values()}}
        for run in self.runs:
            nodes.setdefault(run.view, []).append(run.node)
        return nodes

    @property
    def wanted(self) -> dict[str, frozenset[str]]:
        """What is read of each network, all its views together."""
        wanted: dict[str, frozenset[str]] = {}
        for run in self.runs:
            wanted[run.node.name] = wanted.get(run.node.name, frozenset()) | run.wanted
        return wanted

    def read(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The wanted fields of the batch."""
        values: dict[str, Tensor] = {}
        for key, address in self.fields.items():
            source = batch.get(f"@{address.view}") if address.view else batch
            if source is None or address.name not in source:
                raise GraphError(
                    f"the batch has no '{key}'", name=address.name, exists=[str(k) for k in source or batch]
                )
            values[key] = source[address.name]
        return values

    def run(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """All wanted values, by address."""
        values = self.read(batch)
        for run in self.runs:
            run(batch, values)
        for binding in self.derived:
            values[binding.name] = binding.value(values)
        return values

    def learn(self, batch: Mapping[str, Any]) -> None:
        """Full pass of each network that finds taps overwritten in place and modules that run twice."""
        with preserved(run.node.encoder for run in self.runs):
            for run in self.runs:
                with located(run.id):
                    run.learn(batch)

    def probe(
        self, batch: Mapping[str, Any], setup: Callable[[Binding, Mapping[str, Tensor]], None]
    ) -> dict[str, Tensor]:
        """Run once to learn shapes, calling `setup` on what is derived before its first forward. Moves no state."""
        with preserved(run.node.encoder for run in self.runs):
            values = self.read(batch)
            for run in self.runs:
                with located(run.id):
                    run(batch, values)
        for binding in self.derived:
            with located(binding.where):
                setup(binding, values)
                with preserved([binding.module]):
                    values[binding.name] = binding.value(values)
        return values

    def close(self) -> None:
        """Take the hooks off the networks."""
        for run in self.runs:
            run.recorder.close()


@contextlib.contextmanager
def preserved(modules: Iterable[nn.Module]) -> Iterator[None]:
    """No gradient inside; buffers and every random generator are as before afterwards."""
    owners = [(m._buffers, dict(m._buffers)) for module in modules for m in module.modules()]
    copies = [(b, b.clone()) for _, buffers in owners for b in buffers.values() if b is not None]
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for owner, buffers in owners:
            owner.clear()
            owner.update(buffers)
        for buffer, before in copies:
            buffer.copy_(before)
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of any error, and turn foreign ones into a `GraphError` that names the place."""
    try:
        yield
    except MmkdError as error:
        if where not in str(error):
            error.at(where)
        raise
    except Exception as error:
        raise GraphError(f"{type(error).__name__}: {error}", where=where) from error
